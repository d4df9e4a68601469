"""The contents of a build context, in the order and selection of BuildKit's file sync (fsutil).

See https://github.com/tonistiigi/fsutil (``filter.go``, ``followlinks.go``): depth first, the names in a directory in
byte order, a directory before its contents.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from buildtools import BuildToolsError
from buildtools.frozen import frozen
from buildtools.image.folder.patterns import PatternMatches, Patterns, clean, glob


class Entry(NamedTuple):
    """One file, directory, symbolic link, pipe or device of a context.

    ``path`` is relative to the context with ``/`` between names, ``absolute`` is the path on disk. ``link_target`` is
    the target of a symbolic link or, if ``is_hard_link``, the first listed path of the same inode. A directory
    ``is_on_the_way`` if no include pattern matches it, but one matches something below.
    """

    path: str
    absolute: str
    stat: os.stat_result
    link_target: str
    is_hard_link: bool
    is_on_the_way: bool = False


@frozen
class Selection:
    """Which entries of a context to take: none that ``exclude`` matches.

    With ``include`` (patterns) or ``follow`` (paths or globs, whose symbolic links are followed inside the context),
    only what these match, and the directories above.
    """

    exclude: Patterns
    include: Sequence[str] = ()
    follow: Sequence[str] = ()


def ignore_file(context: Path, dockerfile: Path) -> Path | None:
    """The ignore file for a build:

    ``NAME.dockerignore`` beside the Dockerfile, else the context's own; None without either.
    """
    for path in (dockerfile.with_name(f"{dockerfile.name}.dockerignore"), context / ".dockerignore"):
        if path.is_file():
            return path
    return None


def ignore_rules(context: Path, dockerfile: Path) -> Patterns:
    """The rules of the ignore file for a build; empty if there is no such file.

    :raises Refused: if it has an invalid pattern.
    :raises BuildToolsError: if it cannot be read.
    """
    path = ignore_file(context, dockerfile)
    if path is None:
        return Patterns(())
    try:
        return Patterns.read(path, source=str(path))
    except OSError as error:
        raise unreadable(str(path), error) from None


def walk(root: str | Path, selection: Selection) -> Iterator[Entry]:
    """The selected entries below ``root``, except sockets.

    A directory that is not selected itself comes just before its first selected entry.

    :raises Refused: if an include pattern is invalid.
    :raises BuildToolsError: if something cannot be read, or disappeared meanwhile.
    """
    base = os.path.realpath(root)
    exclude = selection.exclude
    patterns = _include_patterns(base, selection)
    including = Patterns(patterns) if patterns else None
    first_names: dict[tuple[int, int], str] = {}
    levels = [_Level(base, "", None, None, None, is_included=True)]
    while levels:
        level = levels[-1]
        item = next(level.items, None)
        if item is None:
            levels.pop()
            continue
        path = f"{level.prefix}{item.name}"
        is_directory = item.is_dir(follow_symlinks=False)
        is_chosen = is_included = True
        include_matches = exclude_matches = None
        if including is not None:
            is_included, include_matches = including.match(path, level.include_matches)
            if not is_included:
                if not (is_directory and including.may_match_below(path)):
                    continue
                is_chosen = False
        if exclude:
            is_excluded, exclude_matches = exclude.match(path, level.exclude_matches)
            if is_excluded:
                if not (is_directory and exclude.may_except_below(path)):
                    continue
                is_chosen = False
        entry = _entry(item, path, first_names) if is_chosen else None
        if entry:
            for parent in levels:
                if parent.pending:
                    yield _entry_of_directory(parent.pending, parent.prefix[:-1], is_on_the_way=not parent.is_included)
                    parent.pending = None
            yield entry
        if is_directory:
            pending = None if is_chosen else item
            levels.append(
                _Level(item.path, f"{path}/", include_matches, exclude_matches, pending, is_included=is_included)
            )


class _Level:
    """A directory on the path; ``pending`` until it has been listed itself."""

    __slots__ = ("exclude_matches", "include_matches", "is_included", "items", "pending", "prefix")

    def __init__(
        self,
        absolute: str,
        prefix: str,
        include_matches: PatternMatches | None,
        exclude_matches: PatternMatches | None,
        pending: os.DirEntry[str] | None,
        *,
        is_included: bool,
    ) -> None:
        self.prefix = prefix
        self.include_matches = include_matches
        self.exclude_matches = exclude_matches
        self.pending = pending
        self.is_included = is_included
        self.items: Iterator[os.DirEntry[str]] = iter(())
        try:
            with os.scandir(absolute) as items:
                self.items = iter(sorted(items, key=_name_as_bytes))
        except OSError as error:
            # Excluded directories need not be readable.
            if not (pending and isinstance(error, PermissionError)):
                raise unreadable(absolute, error) from None


def _name_as_bytes(item: os.DirEntry[str]) -> bytes:
    return os.fsencode(item.name)


def _entry(item: os.DirEntry[str], path: str, first_names: dict[tuple[int, int], str]) -> Entry | None:
    try:
        status = item.stat(follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            return Entry(path, item.path, status, _link_target(item.path), is_hard_link=False)
    except OSError as error:
        raise unreadable(item.path, error) from None
    if stat.S_ISSOCK(mode):
        return None
    if status.st_nlink > 1 and not stat.S_ISDIR(mode):
        first = first_names.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            return Entry(path, item.path, status, first, is_hard_link=True)
    return Entry(path, item.path, status, "", is_hard_link=False)


def _link_target(path: str) -> str:
    return os.readlink(path)  # noqa: PTH115  a Path would drop "./" and doubled slashes, which are part of the target


def _entry_of_directory(item: os.DirEntry[str], path: str, *, is_on_the_way: bool) -> Entry:
    try:
        status = item.stat(follow_symlinks=False)
    except OSError as error:
        raise unreadable(item.path, error) from None
    return Entry(path, item.path, status, "", is_hard_link=False, is_on_the_way=is_on_the_way)


def unreadable(path: str, error: OSError) -> BuildToolsError:
    """The error if something in a context cannot be read."""
    return BuildToolsError(
        f"{path} cannot be read ({error.strerror})",
        "make it readable, or exclude it in .dockerignore",
    )


def _include_patterns(root: str, selection: Selection) -> list[str]:
    patterns = list(selection.include)
    if selection.follow:
        targets = followed_paths(root, selection.follow)
        if targets:
            patterns = _without_covered([*patterns, *targets])
    return patterns


def followed_paths(root: str, paths: Sequence[str]) -> list[str]:
    """``paths``, and the targets of symbolic links in them, all inside ``root``.

    An absolute target, or one that climbs out, is relative to the root. An empty result means everything, because one
    path is the root itself.
    """
    paths_seen: set[str] = set()
    waiting = list(reversed(paths))
    while waiting:
        rest = clean(f"/{waiting.pop()}")[1:] or "."
        current = ""
        while True:
            name, _, rest = rest.partition("/")
            current = f"{current}/{name}" if current else name
            targets = _links(root, current)
            if targets or not rest:
                if current not in paths_seen:
                    paths_seen.add(current)
                    waiting += [f"{target}/{rest}" for target in reversed(targets)]
                break
    return _without_covered(sorted(paths_seen, key=os.fsencode))


def _links(root: str, path: str) -> list[str]:
    """The targets of the symbolic links with the name ``path``, whose last part may be a glob."""
    above, _, name = path.rpartition("/")
    names = [name]
    if _has_wildcard(name):
        match = glob(name)
        try:
            with os.scandir(f"{root}/{above}") as items:
                names = sorted((item.name for item in items if match and match(item.name)), key=os.fsencode)
        except (OSError, ValueError):
            return []
    targets = []
    for each in names:
        try:
            target = _link_target(f"{root}/{above}/{each}")
        except (OSError, ValueError):  # not a link, not there, or with a NUL, which no name has
            continue
        targets.append(target if target.startswith("/") else f"{above}/{target}")
    return targets


def _has_wildcard(name: str) -> bool:
    position = 0
    while position < len(name):
        if name[position] == "\\":
            position += 1
        elif name[position] in "*?[":
            return True
        position += 1
    return False


def _without_covered(paths: Sequence[str]) -> list[str]:
    if "." in paths:
        return []
    tops: list[str] = []
    for path in paths:
        if not (tops and path.startswith(f"{tops[-1]}/")):
            tops.append(path)
    return tops
