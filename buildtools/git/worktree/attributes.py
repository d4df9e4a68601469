"""The attributes of a path in git's attribute files, as ``git add`` would read them.

https://git-scm.com/docs/gitattributes
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from buildtools.git.worktree.pathpattern import PathPattern

SYSTEM_ATTRIBUTES = "/etc/gitattributes"
_BLANK = b" \t\r\n"
_LONGEST_LINE = 2048
_LARGEST_FILE = 100 << 20
_NAME = re.compile(rb"(?!-)[-A-Za-z0-9_.]+")
_ESCAPES = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_QUOTED = re.compile(rb'"((?:[^"\\]|\\(?:[abfnrtv"\\]|[0-3][0-7][0-7]))*)"')
_ESCAPE = re.compile(rb"\\([0-3][0-7][0-7]|.)")

# Set, unset, or a string. None is "!name": unspecified, and it hides what other files say.
AttributeValue = bool | bytes | None


class _Rule(NamedTuple):
    pattern: PathPattern
    states: tuple[tuple[bytes, AttributeValue], ...]


class _File(NamedTuple):
    rules: tuple[_Rule, ...]
    macros: Mapping[bytes, tuple[tuple[bytes, AttributeValue], ...]]


_NOTHING = _File((), {})
_BUILTIN = _File((), {b"binary": ((b"diff", False), (b"merge", False), (b"text", False))})


class Attributes:
    """The attributes of one work tree.

    ``read_indexed`` returns a path's content in the index, used for a ``.gitattributes`` that is not checked out.
    ``user_files`` are read before the tree's own, ``info_file`` after.
    """

    def __init__(
        self,
        work_tree: bytes,
        read_indexed: Callable[[bytes], bytes | None],
        user_files: tuple[str, ...] = (),
        info_file: str = "",
        *,
        ignore_case: bool = False,
    ) -> None:
        self._work_tree = work_tree
        self._read_indexed = read_indexed
        self._ignore_case = ignore_case
        self._below = [_BUILTIN, *(_read_file(path) for path in user_files)]
        self._above = _read_file(info_file) if info_file else _NOTHING
        self._stacks: dict[bytes, tuple[_File, ...]] = {}

    def of(self, path: bytes) -> Mapping[bytes, AttributeValue]:
        """Every attribute that is set, unset or has a value; all others are unspecified."""
        slash = path.rfind(b"/")
        files = (self._above, *self._stack(path[: slash + 1]))
        values: dict[bytes, AttributeValue] = {}
        if not any(file.rules for file in files):
            return values
        macros: dict[bytes, tuple[tuple[bytes, AttributeValue], ...]] = {}
        for file in reversed(files):
            macros.update(file.macros)

        def fill(states: tuple[tuple[bytes, AttributeValue], ...]) -> None:
            for name, value in reversed(states):
                if name not in values:
                    values[name] = value
                    if value is True and name in macros:
                        fill(macros[name])

        for file in files:
            for rule in reversed(file.rules):
                if rule.pattern.matches(path, ignore_case=self._ignore_case):
                    fill(rule.states)
        return values

    def _stack(self, folder: bytes) -> tuple[_File, ...]:
        """The files that apply to a folder (``b""`` or ``b"a/b/"``), strongest first."""
        stack = self._stacks.get(folder)
        if stack is None:
            above = folder[: folder.rfind(b"/", 0, -1) + 1]
            parent = self._stack(above) if folder else tuple(reversed(self._below))
            own = self._read_own(folder)
            stack = self._stacks[folder] = (own, *parent) if own.rules or own.macros else parent
        return stack

    def _read_own(self, folder: bytes) -> _File:
        name = folder + b".gitattributes"
        data = _content(self._work_tree + b"/" + name, os.O_NOFOLLOW)
        if data is None:
            data = self._read_indexed(name)
            if data is None or len(data) >= _LARGEST_FILE:
                return _NOTHING
            data = data.partition(b"\0")[0]
        else:
            data = data.removeprefix(b"\xef\xbb\xbf")
        return _parse(data, folder)


def _read_file(path: str) -> _File:
    data = _content(os.fsencode(path), 0)
    return _NOTHING if data is None else _parse(data.removeprefix(b"\xef\xbb\xbf"), b"")


def _content(path: bytes, flags: int) -> bytes | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags), "rb") as stream:
            if os.fstat(stream.fileno()).st_size >= _LARGEST_FILE:
                return None
            return stream.read()
    except OSError:
        return None


def _parse(data: bytes, folder: bytes) -> _File:
    rules: list[_Rule] = []
    macros: dict[bytes, tuple[tuple[bytes, AttributeValue], ...]] = {}
    for raw in data.split(b"\n"):
        line = raw.partition(b"\0")[0]
        start = line.lstrip(_BLANK)
        if not start or start.startswith(b"#") or len(line) >= _LONGEST_LINE:
            continue
        match = _QUOTED.match(start)
        if match:
            pattern, rest = _ESCAPE.sub(_literal, match[1]), start[match.end() :]
        else:
            pattern = re.split(rb"[ \t\r\n]", start, maxsplit=1)[0]
            rest = start[len(pattern) :]
        states = _states(rest)
        if states is None:
            continue
        if pattern.startswith(b"[attr]") and len(pattern) > len(b"[attr]"):
            name = pattern[len(b"[attr]") :]
            # Macros may only be defined in the top folder.
            if not folder and _NAME.fullmatch(name):
                macros[name] = states
        elif not pattern.startswith(b"!"):
            path_pattern = PathPattern.parse(pattern, folder)
            if not path_pattern.folders_only:
                rules.append(_Rule(path_pattern, states))
    return _File(tuple(rules), macros)


def _literal(match: re.Match[bytes]) -> bytes:
    letter = match[1]
    return bytes([int(letter, 8)]) if len(letter) == 3 else _ESCAPES.get(letter, letter)


def _states(text: bytes) -> tuple[tuple[bytes, AttributeValue], ...] | None:
    """The attributes in one line; ``None`` if a name is invalid, which makes git ignore the whole line."""
    states: list[tuple[bytes, AttributeValue]] = []
    for word in text.split():
        name, equals, value = word.partition(b"=")
        sign = name[:1]
        if sign in (b"-", b"!"):
            name = name[1:]
        if not _NAME.fullmatch(name):
            return None
        states.append((name, {b"-": False, b"!": None}.get(sign, value if equals else True)))
    return tuple(states)
