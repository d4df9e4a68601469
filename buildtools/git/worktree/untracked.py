"""Whether a work tree has files that git neither tracks nor ignores. Asked of submodules alone.

https://git-scm.com/docs/gitignore
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Sequence

from buildtools.git.worktree import submodule
from buildtools.git.worktree.files import Files, user_file
from buildtools.git.worktree.index import FLAGS, GITLINK, MODE, SKIP_WORKTREE
from buildtools.git.worktree.pathpattern import PathPattern

# Spaces at the end of a line do not count, unless a backslash stands before them.
_TRAILING_SPACES = re.compile(rb"(?<!\\)((?:\\\\)*) +$")


def has_untracked(files: Files) -> bool:
    """Whether there is at least one untracked file that is not ignored."""
    repository = files.repository
    patterns: list[PathPattern] = []
    for path in [*user_file(repository, "core.excludesfile", "ignore"), f"{repository.common_dir}/info/exclude"]:
        patterns += _read_patterns(os.fsencode(path), b"", 0) or []
    return _Search(files).below(b"", patterns)


class _Search:
    def __init__(self, files: Files) -> None:
        self._files = files
        self._names = files.index.names
        self._tracked = set(self._names)
        self._ignore_case = files.repository.config.bool("core.ignorecase")

    def below(self, folder: bytes, patterns: Sequence[PathPattern]) -> bool:
        """Search one folder (``b""`` or ``b"a/b/"``); the last of ``patterns`` that matches decides."""
        patterns = [*patterns, *self._own_patterns(folder)]
        try:
            entries = list(os.scandir(self._files.top + b"/" + folder))
        except OSError:
            return False
        for entry in entries:
            path = folder + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name.lower() == b".git" if self._ignore_case else entry.name == b".git":
                continue
            if not is_folder and (path in self._tracked or not (entry.is_symlink() or entry.is_file())):
                continue
            if self._is_ignored(path, patterns, is_folder=is_folder):
                continue
            if not is_folder or self._holds_untracked(path, patterns):
                return True
        return False

    def _holds_untracked(self, path: bytes, patterns: Sequence[PathPattern]) -> bool:
        inner = path + b"/"
        at = bisect_left(self._names, inner)
        if at < len(self._names) and self._names[at].startswith(inner):
            return self.below(inner, patterns)
        position = self._files.index.position(path)
        if position is not None and self._files.index.fields[position][MODE] == GITLINK:
            return False
        place = self._files.top + b"/" + path
        return submodule.holds_repository(place, self._files.repository.environment) or self.below(inner, patterns)

    def _is_ignored(self, path: bytes, patterns: Sequence[PathPattern], *, is_folder: bool) -> bool:
        for pattern in reversed(patterns):
            if (is_folder or not pattern.folders_only) and pattern.matches(path, ignore_case=self._ignore_case):
                return not pattern.negated
        return False

    def _own_patterns(self, folder: bytes) -> list[PathPattern]:
        name = folder + b".gitignore"
        found = _read_patterns(self._files.top + b"/" + name, folder, os.O_NOFOLLOW)
        if found is None:
            position = self._files.index.position(name)
            if position is not None and self._files.index.fields[position][FLAGS] & SKIP_WORKTREE:
                return _patterns(self._files.read_indexed(name) or b"", folder)
        return found or []


def _read_patterns(path: bytes, folder: bytes, flags: int) -> list[PathPattern] | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags), "rb") as stream:
            return _patterns(stream.read(), folder)
    except OSError:
        return None


def _patterns(data: bytes, folder: bytes) -> list[PathPattern]:
    found = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line and not line.startswith(b"#"):
            text = _TRAILING_SPACES.sub(rb"\1", line.removesuffix(b"\r"))
            found.append(PathPattern.parse(text, folder))
    return found
