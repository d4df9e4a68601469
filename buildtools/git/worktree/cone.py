"""Which paths a sparse checkout in cone mode contains.

Needed for one purpose only: git does not read a ``.gitattributes`` from the index outside the sparse checkout.
https://git-scm.com/docs/git-sparse-checkout#_internalscone_pattern_set
"""

from __future__ import annotations

import re

_SPECIAL = re.compile(rb"(?<!\\)[*?\[\\](?![*?\[\\])|\*\*")


class Cone:
    """Folders that are checked out completely, and those with only their files. Each starts with a slash."""

    def __init__(self, whole: set[bytes], shallow: set[bytes], *, everything: bool) -> None:
        self._whole = whole
        self._shallow = shallow
        self._everything = everything

    def holds(self, path: bytes) -> bool:
        """Whether a file is checked out."""
        folder = b"/" + path.rpartition(b"/")[0]
        if self._everything or folder == b"/" or folder in self._shallow:
            return True
        while folder:
            if folder in self._whole:
                return True
            folder = folder.rpartition(b"/")[0]
        return False


def read_cone(path: str) -> Cone | None:
    """The cone in ``info/sparse-checkout``; ``None`` if its patterns are not of that kind."""
    try:
        with open(path, "rb") as stream:
            lines = stream.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError:
        return None
    whole: set[bytes] = set()
    shallow: set[bytes] = set()
    everything = False
    for raw in lines:
        line = raw.removesuffix(b"\r")
        if not line or line.startswith(b"#"):
            continue
        if line in (b"/*", b"!/*/"):
            everything = line == b"/*"
            continue
        is_negative = line.startswith(b"!")
        folder = line.removeprefix(b"!").removesuffix(b"/*/" if is_negative else b"/")
        name = re.sub(rb"\\(.)", rb"\1", folder)
        is_expected = name in whole if is_negative else name not in shallow
        if not folder.startswith(b"/") or folder == line or not is_expected or _SPECIAL.search(folder):
            return None
        if is_negative:
            whole.remove(name)
            shallow.add(name)
        else:
            whole.add(name)
    return Cone(whole, shallow, everything=everything)
