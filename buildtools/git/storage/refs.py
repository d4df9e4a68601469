"""Refs stored as files: loose refs, ``packed-refs``, symbolic refs, and refs of a single worktree.

Names are bytes, because git orders and matches them as bytes. https://git-scm.com/docs/gitrepository-layout
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from buildtools.git.errors import DamagedRepository
from buildtools.git.storage.small_file import content

_DEEPEST_SYMBOLIC = 5
_PER_WORKTREE = (b"refs/bisect/", b"refs/worktree/", b"refs/rewritten/")
_ROOT = re.compile(rb"[A-Z_]+")


class Ref(NamedTuple):
    """One ref. ``oid`` is ``None`` if it is broken or dangling.

    ``peeled`` is what the store says that the tag leads to: the id itself for "not a tag", ``None`` if it does not say.
    """

    name: bytes
    oid: bytes | None
    peeled: bytes | None = None


class LogEntry(NamedTuple):
    """One change of a ref. ``time`` is in seconds since 1970; a null id means that the ref did not exist."""

    old: bytes
    new: bytes
    time: int
    message: bytes


class Refs(Protocol):
    """A store of refs."""

    def read(self, name: bytes) -> bytes | str | None:
        """The object id, the target's name (as text) if the ref is symbolic, or ``None`` if there is no such ref."""

    def under(self, prefix: bytes) -> list[Ref]:
        """Every ref below a prefix that ends in a slash, ordered by name."""

    def log(self, name: bytes) -> list[LogEntry]:
        """The changes of the ref, oldest first; empty without a log."""


def is_per_worktree(name: bytes) -> bool:
    """Whether every worktree has its own ref with this name."""
    return name.startswith(_PER_WORKTREE) or not name.startswith(b"refs/")


def resolve(refs: Refs, name: bytes) -> tuple[bytes, bytes | None]:
    """Follow symbolic refs: the last name, and its object id or ``None``."""
    for _ in range(_DEEPEST_SYMBOLIC + 1):
        value = refs.read(name)
        if not isinstance(value, str):
            return name, value
        name = value.encode("utf-8", "surrogateescape")
        if not is_safe(name):
            return name, None
    return name, None


def is_safe(name: bytes) -> bool:
    """Whether a name stays inside the folder for refs."""
    if name.startswith(b"refs/"):
        return not any(part in (b"", b".", b"..") for part in name[5:].split(b"/"))
    return bool(_ROOT.fullmatch(name))


_BAD_NAME = re.compile(rb"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^\.|\.lock(?:/|$)|\.$|/$|^/|^@$")


def is_well_formed(name: bytes) -> bool:
    """Whether git would create a ref with this name. https://git-scm.com/docs/git-check-ref-format"""
    return b"/" in name and not _BAD_NAME.search(name)


class RefFiles:
    """The ``files`` store."""

    def __init__(self, git_dir: str, common_dir: str, hash_size: int) -> None:
        self._git_dir, self._common_dir = git_dir, common_dir
        self._digits = hash_size * 2
        self._value = re.compile(rb"([0-9a-fA-F]{%d})(?:\s|$)" % self._digits)
        self._packed_refs: bytes | None = None

    def _path(self, name: bytes) -> str:
        base = self._git_dir if is_per_worktree(name) else self._common_dir
        return f"{base}/{os.fsdecode(name)}"

    def read(self, name: bytes) -> bytes | str | None:
        """See :class:`Refs`."""
        path = self._path(name)
        value = self._content(path)
        if value is None:
            return self._link(path) or self._read_packed(name)
        return self._parse(value)

    def _content(self, path: str) -> bytes | None:
        try:
            return content(path)
        except OSError as error:
            raise DamagedRepository(f"{path} cannot be read ({error.strerror})") from None

    def _link(self, path: str) -> str | None:
        target = os.readlink(path) if os.path.islink(path) else ""
        return target if target.startswith("refs/") else None

    def _parse(self, value: bytes) -> bytes | str | None:
        if value.startswith(b"ref:"):
            return value[4:].strip().decode("utf-8", "surrogateescape")
        match = self._value.match(value)
        return bytes.fromhex(match[1].decode()) if match else None

    def _read_packed(self, name: bytes) -> bytes | None:
        ref = re.search(rb"^([0-9a-f]{%d}) %s$" % (self._digits, re.escape(name)), self.packed_refs, re.MULTILINE)
        return bytes.fromhex(ref[1].decode()) if ref else None

    @property
    def packed_refs(self) -> bytes:
        """The content of the file ``packed-refs``."""
        if self._packed_refs is None:
            path = f"{self._common_dir}/packed-refs"
            self._packed_refs = self._content(path) or b""
            if self._packed_refs and not self._packed_refs.endswith(b"\n"):
                raise DamagedRepository(f"{path} is cut short in its last line")
        return self._packed_refs

    def under(self, prefix: bytes) -> list[Ref]:
        """See :class:`Refs`."""
        refs = {ref.name: ref for ref in self._packed_under(prefix)}
        for name, path in self._loose_under(prefix):
            refs[name] = Ref(name, self._loose(name, path))
        return [refs[name] for name in sorted(refs)]

    def _loose(self, name: bytes, path: str) -> bytes | None:
        if not is_well_formed(name):
            return None
        data = self._content(path)
        value = self._link(path) if data is None else self._parse(data)
        if isinstance(value, str):
            return resolve(self, value.encode("utf-8", "surrogateescape"))[1]
        return value

    def _loose_under(self, prefix: bytes) -> Iterator[tuple[bytes, str]]:
        folders = [prefix]
        if prefix == b"refs/":
            folders += _PER_WORKTREE
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(self._path(folder)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise DamagedRepository(f"{self._path(folder)} cannot be read ({error.strerror})") from None
            for entry in entries:
                name = folder + os.fsencode(entry.name)
                if entry.name.startswith(".") or entry.name.endswith(".lock"):
                    continue
                if not entry.is_dir():
                    yield name, entry.path
                elif f"{name.decode('latin-1')}/".encode("latin-1") not in _PER_WORKTREE or prefix != b"refs/":
                    folders.append(name + b"/")

    def _packed_under(self, prefix: bytes) -> Iterator[Ref]:
        data = self.packed_refs
        if not data:
            return
        header = data[: data.find(b"\n")] if data.startswith(b"#") else b""
        start, end = 0, len(data)
        if b" sorted" in header:
            start = data.find(b" " + prefix)
            if start < 0:
                return
            start = data.rfind(b"\n", 0, start) + 1
            end = data.find(b"\n", data.rfind(b" " + prefix)) + 1
            if data.startswith(b"^", end):
                end = data.find(b"\n", end) + 1
        # Git trusts a missing peeled line: for any ref if fully-peeled, else for refs/tags/ if peeled.
        peeled_prefix = b"refs/" if b" fully-peeled" in header else b"refs/tags/" if b" peeled" in header else b"-"
        unhex = bytes.fromhex
        for line in re.finditer(
            rb"([0-9a-f]{%d}) (\S[^\n]*)\n(?:\^([0-9a-f]{%d})\n)?|(\S)" % (self._digits, self._digits),
            data[len(header) + 1 if header and not start else start : end],
        ):
            oid, name, peeled, odd = line.groups()
            if odd:
                raise DamagedRepository(f"{self._common_dir}/packed-refs has a line that is not a ref")
            if not name.startswith(prefix):
                continue
            if not is_well_formed(name):
                yield Ref(name, None)
                continue
            own = unhex(oid.decode())
            if peeled:
                yield Ref(name, own, unhex(peeled.decode()))
            else:
                yield Ref(name, own, own if name.startswith(peeled_prefix) else None)

    def log(self, name: bytes) -> list[LogEntry]:
        """See :class:`Refs`."""
        base = self._git_dir if is_per_worktree(name) else self._common_dir
        data = self._content(f"{base}/logs/{os.fsdecode(name)}") or b""
        pattern = rb"^([0-9a-f]{%d}) ([0-9a-f]{%d}) [^\n]*?> (\d+) [-+]\d{4}(?:\t([^\n]*))?$"
        return [
            LogEntry(bytes.fromhex(old.decode()), bytes.fromhex(new.decode()), int(time), message)
            for old, new, time, message in re.findall(pattern % (self._digits, self._digits), data, re.MULTILINE)
        ]
