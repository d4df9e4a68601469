"""One pattern of a ``.gitattributes`` or ``.gitignore`` file, and whether it matches a path.

https://git-scm.com/docs/gitignore#_pattern_format
"""

from __future__ import annotations

import re
from typing import NamedTuple

from buildtools.git.wildmatch import wildmatch

_SPECIAL = re.compile(rb"[*?\[\\]")


class PathPattern(NamedTuple):
    """A pattern from a file in ``folder`` (``b""`` or ``b"a/b/"``).

    ``literal`` is the number of bytes before the first special character: git compares these literally, and only the
    rest by wildcards.
    """

    text: bytes
    folder: bytes
    literal: int
    negated: bool
    folders_only: bool
    name_only: bool

    @classmethod
    def parse(cls, text: bytes, folder: bytes) -> PathPattern:
        """The pattern that ``text`` spells."""
        negated = text.startswith(b"!")
        text = text[negated:]
        folders_only = text.endswith(b"/")
        text = text[: len(text) - folders_only]
        special = _SPECIAL.search(text)
        literal = special.start() if special else len(text)
        return cls(text, folder, literal, negated, folders_only, b"/" not in text)

    def matches(self, path: bytes, *, ignore_case: bool = False) -> bool:
        """Whether it matches a path, relative to the work tree and without a trailing slash."""
        if self.name_only:
            return wildmatch(self.text, path[path.rfind(b"/") + 1 :], ignore_case=ignore_case)
        start = self.text.startswith(b"/")
        text = self.text[start:]
        literal = self.literal - start
        folder = len(self.folder)
        prefix, below = path[: folder + literal], self.folder + text[:literal]
        if prefix != below and not (ignore_case and prefix.lower() == below.lower()):
            return False
        rest = path[folder + literal :]
        if literal == len(text) and not rest:
            return True
        return wildmatch(text[literal:], rest, pathname=True, ignore_case=ignore_case)
