"""The files of a work tree that git neither tracks nor ignores.

https://git-scm.com/docs/gitignore
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from buildtools.git.worktree.gitlink import holds_repository, open_gitlink
from buildtools.git.worktree.index import FLAGS, GITLINK, MODE, SKIP_WORKTREE
from buildtools.git.worktree.pathpattern import PathPattern
from buildtools.git.worktree.submodule import Submodules
from buildtools.git.worktree.tracked_files import Files, user_file

# Trailing spaces are ignored, unless a backslash precedes them.
_TRAILING_SPACES = re.compile(rb"(?<!\\)((?:\\\\)*) +$")


def has_untracked(files: Files) -> bool:
    """Whether there is at least one untracked file that is not ignored."""
    return next(untracked_paths(files), None) is not None


def untracked_paths(
    files: Files,
    folders: Sequence[bytes] = (b"",),
    *,
    in_submodules: bool = False,
    warn: Callable[[str], object] = lambda _: None,
) -> Iterator[bytes]:
    """The untracked files that are not ignored, like ``git ls-files --others --exclude-standard``, unsorted.

    Only those in ``folders`` (``b""`` or ``b"a/b/"``). A repository that is not a submodule is one path, with a slash
    at its end. With ``in_submodules``, also those of each submodule, unless it is configured to ignore them. A file of
    patterns or a folder that cannot be read is skipped, as in git, with a message to ``warn``.
    """
    repository = files.repository
    patterns: list[PathPattern] = []
    for path in [*user_file(repository, "core.excludesfile", "ignore"), f"{repository.common_dir}/info/exclude"]:
        patterns += _read_patterns(os.fsencode(path), b"", 0, warn) or []
    files.expand_present_directories()
    return _Search(files, folders, Submodules(files, "none") if in_submodules else None, warn).below(b"", patterns)


class _Search:
    def __init__(
        self, files: Files, folders: Sequence[bytes], submodules: Submodules | None, warn: Callable[[str], object]
    ) -> None:
        self._warn = warn
        self._files = files
        self._folders = frozenset(folders)
        # A project may have a thousand folders; comparing each path with each of them would take longer than everything
        # else.
        self._ways = {above for folder in folders for above in _prefixes(folder)}
        self._submodules = submodules
        self._names = files.index.names
        self._tracked = set(self._names)
        self._ignore_case = files.repository.config.bool("core.ignorecase")

    def below(self, folder: bytes, patterns: Sequence[PathPattern]) -> Iterator[bytes]:
        """Search one folder (``b""`` or ``b"a/b/"``); the last of ``patterns`` that matches decides."""
        patterns = [*patterns, *self._own_patterns(folder)]
        try:
            entries = list(os.scandir(self._files.top + b"/" + folder))
        except OSError as error:
            self._warn(f"{os.fsdecode(error.filename)} cannot be read ({error.strerror})")
            return
        for entry in entries:
            path = folder + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name.lower() == b".git" if self._ignore_case else entry.name == b".git":
                continue
            if not is_folder and (path in self._tracked or not (entry.is_symlink() or entry.is_file())):
                continue
            if not self._is_wanted(path, is_folder=is_folder) or self._is_ignored(path, patterns, is_folder=is_folder):
                continue
            if is_folder:
                yield from self._in_folder(path, patterns)
            else:
                yield path

    def _is_wanted(self, path: bytes, *, is_folder: bool) -> bool:
        return (is_folder and path + b"/" in self._ways) or not self._folders.isdisjoint(_prefixes(path))

    def _in_folder(self, path: bytes, patterns: Sequence[PathPattern]) -> Iterator[bytes]:
        inner = path + b"/"
        at = bisect_left(self._names, inner)
        if not (at < len(self._names) and self._names[at].startswith(inner)):
            position = self._files.index.position(path)
            if position is not None and self._files.index.fields[position][MODE] == GITLINK:
                yield from self._in_submodule(path)
                return
            if holds_repository(self._files.top + b"/" + path, self._files.repository.environment):
                yield inner
                return
        yield from self.below(inner, patterns)

    def _in_submodule(self, path: bytes) -> Iterator[bytes]:
        place, inner = self._files.top + b"/" + path, path + b"/"
        if not self._submodules or self._submodules.ignored(path) != "none" or not os.path.exists(place + b"/.git"):
            return
        folders = [folder.removeprefix(inner) for folder in self._folders if folder.startswith(inner)]
        folders += [b"" for folder in self._folders if inner.startswith(folder)]
        with closing(Files(open_gitlink(place, self._files.repository.environment))) as files:
            for inner_path in untracked_paths(files, folders, in_submodules=True, warn=self._warn):
                yield inner + inner_path

    def _is_ignored(self, path: bytes, patterns: Sequence[PathPattern], *, is_folder: bool) -> bool:
        for pattern in reversed(patterns):
            if (is_folder or not pattern.folders_only) and pattern.matches(path, ignore_case=self._ignore_case):
                return not pattern.negated
        return False

    def _own_patterns(self, folder: bytes) -> list[PathPattern]:
        name = folder + b".gitignore"
        patterns = _read_patterns(self._files.top + b"/" + name, folder, os.O_NOFOLLOW, self._warn)
        if patterns is None:
            position = self._files.index.position(name)
            if position is not None and self._files.index.fields[position][FLAGS] & SKIP_WORKTREE:
                return _patterns(self._files.read_indexed(name) or b"", folder)
        return patterns or []


def _prefixes(path: bytes) -> list[bytes]:
    """The folders that contain a path, from the top; including itself if it ends with a slash."""
    parts = path.split(b"/")
    return [b"", *(b"/".join(parts[:count]) + b"/" for count in range(1, len(parts)))]


def _read_patterns(path: bytes, folder: bytes, flags: int, warn: Callable[[str], object]) -> list[PathPattern] | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags), "rb") as stream:
            return _patterns(stream.read(), folder)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        warn(f"{os.fsdecode(path)} cannot be read ({error.strerror}), so it ignores nothing")
        return None


def _patterns(data: bytes, folder: bytes) -> list[PathPattern]:
    patterns = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line and not line.startswith(b"#"):
            text = _TRAILING_SPACES.sub(rb"\1", line.removesuffix(b"\r"))
            patterns.append(PathPattern.parse(text, folder))
    return patterns
