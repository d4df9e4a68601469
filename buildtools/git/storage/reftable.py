"""Refs stored as a stack of binary tables. https://git-scm.com/docs/reftable"""

from __future__ import annotations

import os
import zlib

from buildtools.git.errors import DamagedRepository
from buildtools.git.storage.packs import u32, u64
from buildtools.git.storage.refs import LogEntry, Ref, is_per_worktree, resolve
from buildtools.git.storage.small_file import content, text

_HEADER_SIZES = {1: 24, 2: 28}
_DELETION, _DIRECT, _PEELED, _SYMBOLIC = range(4)
_STILL_FILES = (b"FETCH_HEAD", b"MERGE_HEAD")

RefValue = tuple[
    bytes | str | None, bytes | None
]  # id, or name of another ref, or None when deleted; and the peeled id


class Reftables:
    """The ``reftable`` store: the tables of the repository, and those of the worktree if they are separate."""

    def __init__(self, git_dir: str, common_dir: str, hash_size: int) -> None:
        self._git_dir = git_dir
        self._hash_size = hash_size
        self._shared = _Stack(f"{common_dir}/reftable", hash_size)
        self._own = self._shared if git_dir == common_dir else _Stack(f"{git_dir}/reftable", hash_size)

    def _stack(self, name: bytes) -> _Stack:
        return self._own if is_per_worktree(name) else self._shared

    def read(self, name: bytes) -> bytes | str | None:
        """See :class:`buildtools.git.storage.refs.Refs`."""
        if name in _STILL_FILES:
            start = (content(f"{self._git_dir}/{name.decode()}") or b"")[: self._hash_size * 2]
            return bytes.fromhex(start.decode("ascii", "replace")) if len(start) == self._hash_size * 2 else None
        return self._stack(name).refs.get(name, (None, None))[0]

    def under(self, prefix: bytes) -> list[Ref]:
        """See :class:`buildtools.git.storage.refs.Refs`."""
        names = {name for stack in (self._shared, self._own) for name in stack.refs if self._stack(name) is stack}
        refs = []
        for name in sorted(name for name in names if name.startswith(prefix)):
            value, peeled = self._stack(name).refs[name]
            if isinstance(value, str):
                refs.append(Ref(name, resolve(self, value.encode("utf-8", "surrogateescape"))[1]))
            elif value is not None:
                refs.append(Ref(name, value, peeled))
        return refs

    def log(self, name: bytes) -> list[LogEntry]:
        """See :class:`buildtools.git.storage.refs.Refs`."""
        return self._stack(name).log(name)


class _Stack:
    """Tables from oldest to newest, read on first use."""

    def __init__(self, folder: str, hash_size: int) -> None:
        self._folder, self._hash_size = folder, hash_size
        self._tables: list[_Table] | None = None
        self._refs: dict[bytes, RefValue] | None = None

    def _read(self) -> list[_Table]:
        if self._tables is None:
            names = (text(f"{self._folder}/tables.list") or "").split()
            self._tables = [_Table(os.path.join(self._folder, name), self._hash_size) for name in names]
        return self._tables

    @property
    def refs(self) -> dict[bytes, RefValue]:
        if self._refs is None:
            self._refs = {}
            for table in self._read():
                self._refs.update(table.refs())
        return self._refs

    def log(self, name: bytes) -> list[LogEntry]:
        entries: dict[int, LogEntry | None] = {}
        for table in self._read():
            entries.update(table.log(name))
        return [entry for _, entry in sorted(entries.items()) if entry is not None]


class _Table:
    """One file."""

    def __init__(self, path: str, hash_size: int) -> None:
        self._path, self._size = path, hash_size
        data = content(path)
        if data is None:
            raise DamagedRepository(f"{path} is missing, though the list of tables names it")
        self._data = data
        header = _HEADER_SIZES.get(data[4], 0) if data[:4] == b"REFT" else 0
        footer = len(data) - header - 44
        if not header or footer < header or data[footer : footer + 4] != b"REFT":
            raise self._damaged()
        if zlib.crc32(data[footer:-4]) != u32(data, len(data) - 4)[0]:
            raise self._damaged()
        self._header, self._end = header, footer
        self._block_size = int.from_bytes(data[5:8], "big")
        self._logs = u64(data, footer + header + 24)[0]

    def refs(self) -> dict[bytes, RefValue]:
        """Every ref in the table; deleted ones have ``None``.

        :raises DamagedRepository: if the table is malformed.
        """
        table: dict[bytes, RefValue] = {}
        data, start = self._data, 0
        try:
            while start < self._end and data[start + (0 if start else self._header)] == ord("r"):
                at = start + (0 if start else self._header)
                length = int.from_bytes(data[at + 1 : at + 4], "big")
                self._block(data, at + 4, start + length, table)
                following = start + length
                # A block is followed by padding up to the block size, or directly by the next block.
                if self._block_size > length and not data[following : following + 1].strip(b"\0"):
                    following = start + self._block_size
                start = following
        except (IndexError, ValueError):
            raise self._damaged() from None
        return table

    def _block(self, data: bytes, at: int, end: int, table: dict[bytes, RefValue]) -> None:
        end -= 2 + 3 * int.from_bytes(data[end - 2 : end], "big")
        size = self._size
        name = b""
        while at < end:
            name, kind, at = _key(data, at, name)
            _, at = _varint(data, at)
            if kind == _DELETION:
                table[name] = None, None
            elif kind == _SYMBOLIC:
                length, at = _varint(data, at)
                table[name] = data[at : at + length].decode("utf-8", "surrogateescape"), None
                at += length
            elif kind in (_DIRECT, _PEELED):
                oid = data[at : at + size]
                at += size * kind
                table[name] = oid, data[at - size : at] if kind == _PEELED else None
            else:
                raise ValueError("a record of an unknown kind")
        if at != end:
            raise ValueError("a record across the end of its block")

    def log(self, name: bytes) -> dict[int, LogEntry | None]:
        """The changes of one ref by update index; deleted ones have ``None``.

        :raises DamagedRepository: if the table is malformed.
        """
        entries: dict[int, LogEntry | None] = {}
        at = self._logs or (self._header if self._data[self._header] == ord("g") else self._end)
        try:
            while at < self._end and self._data[at] == ord("g"):
                first = self._header if at == self._header else 0
                length = int.from_bytes(self._data[at + 1 : at + 4], "big")
                inflater = zlib.decompressobj()
                block = inflater.decompress(self._data[at + 4 : self._end], length)
                self._log_block(block, length - 4 - first, name, entries)
                at = self._end - len(inflater.unconsumed_tail) - len(inflater.unused_data)
        except (IndexError, ValueError, zlib.error):
            raise self._damaged() from None
        return entries

    def _log_block(self, block: bytes, length: int, ref_name: bytes, entries: dict[int, LogEntry | None]) -> None:
        end = length - 2 - 3 * int.from_bytes(block[length - 2 : length], "big")
        at, key, size = 0, b"", self._size
        while at < end:
            key, kind, at = _key(block, at, key)
            name, index = key[:-9], (1 << 64) - 1 - int.from_bytes(key[-8:], "big")
            entry = None
            if kind:
                old, new = block[at : at + size], block[at + size : at + 2 * size]
                at += 2 * size
                for _ in ("name", "address"):
                    text_size, at = _varint(block, at)
                    at += text_size
                time, at = _varint(block, at)
                text_size, at = _varint(block, at + 2)
                entry = LogEntry(old, new, time, block[at : at + text_size].rstrip(b"\n"))
                at += text_size
            if name == ref_name:
                entries[index] = entry

    def _damaged(self) -> DamagedRepository:
        return DamagedRepository(f"{self._path} is not a table of refs, or is damaged")


def _key(data: bytes, at: int, previous: bytes) -> tuple[bytes, int, int]:
    prefix_size, at = _varint(data, at)
    suffix, at = _varint(data, at)
    kind, length = suffix & 7, suffix >> 3
    if prefix_size > len(previous) or at + length > len(data):
        raise ValueError("a name that reaches outside")
    return previous[:prefix_size] + data[at : at + length], kind, at + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    value = byte & 0x7F
    while byte & 0x80:
        at += 1
        byte = data[at]
        value = (value + 1) << 7 | byte & 0x7F
    return value, at + 1
