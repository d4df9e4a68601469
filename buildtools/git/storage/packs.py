"""Pack files and their indexes, mapped into memory. https://git-scm.com/docs/gitformat-pack"""

from __future__ import annotations

import mmap
import os
import struct
import zlib

from buildtools.git.errors import DamagedRepository

KINDS = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
_OFFSET_DELTA, _REFERENCE_DELTA = 6, 7
_FANOUT = struct.Struct(">256I")
u32 = struct.Struct(">I").unpack_from
u64 = struct.Struct(">Q").unpack_from


def mapped(path: str) -> mmap.mmap:
    """The whole file, mapped into memory.

    :raises OSError: if it cannot be opened.
    :raises DamagedRepository: if it is empty.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise DamagedRepository(f"{path} is empty") from None
    finally:
        os.close(descriptor)


class SortedIds:
    """Sorted object ids behind a fan-out table, as in pack indexes, multi-pack-indexes and commit-graphs.

    ``names`` is the offset of the first id, ``width`` the distance between two ids.
    """

    __slots__ = ("data", "fanout", "hash_size", "names", "total", "width")

    def __init__(self, data: mmap.mmap, fanout: int, names: int, width: int, hash_size: int, path: str) -> None:
        self.data = data
        try:
            self.fanout: tuple[int, ...] = _FANOUT.unpack_from(data, fanout)
        except struct.error:
            raise DamagedRepository(f"{path} is cut short") from None
        self.total = self.fanout[255]
        self.names, self.width, self.hash_size = names, width, hash_size
        if names + self.total * width > len(data):
            raise DamagedRepository(f"{path} is cut short")
        if list(self.fanout) != sorted(self.fanout):
            raise DamagedRepository(f"{path} has a fan-out table that is not in order")

    def position(self, oid: bytes) -> int:
        """The position of the id, or ``~place`` if it is missing, where ``place`` is where it would be."""
        first = oid[0]
        low = self.fanout[first - 1] if first else 0
        high = self.fanout[first]
        data, names, width, size = self.data, self.names, self.width, self.hash_size
        while low < high:
            middle = (low + high) >> 1
            at = names + middle * width
            candidate: bytes = data[at : at + size]
            if candidate < oid:
                low = middle + 1
            elif candidate > oid:
                high = middle
            else:
                return middle
        return ~low

    def oid(self, position: int) -> bytes:
        """The id at a position."""
        at = self.names + position * self.width
        return self.data[at : at + self.hash_size]


class Pack:
    """One pack and its index. The pack itself is opened when the first object is read.

    From then on ``stamp`` identifies the pack and its state.
    """

    def __init__(self, index_path: str, hash_size: int) -> None:
        self.path = index_path[:-4] + ".pack"
        self.hash_size = hash_size
        self._index_path = index_path
        self._ids: SortedIds | None = None
        self._data: mmap.mmap | None = None
        self.stamp: tuple[int, ...] = ()
        self.view: memoryview = memoryview(b"")
        self.bad: set[int] = set()
        self.offsets = self._large_offsets = 0

    @property
    def ids(self) -> SortedIds:
        """The index.

        :raises DamagedRepository: if it is truncated or of an unknown version.
        """
        if self._ids is None:
            self._ids = self._open_index()
        return self._ids

    def _open_index(self) -> SortedIds:
        path, size = self._index_path, self.hash_size
        try:
            data = mapped(path)
        except OSError as error:
            raise DamagedRepository(f"{path} cannot be read ({error.strerror})") from None
        if data[:4] != b"\xfftOc":
            ids = SortedIds(data, 0, 1024 + 4, size + 4, size, path)
            self.offsets = 0
            sizes = [1024 + ids.total * (size + 4) + 2 * size]
        else:
            if u32(data, 4)[0] != 2:
                raise DamagedRepository(f"{path} is of an unknown version", "use a pack index of version 1 or 2")
            ids = SortedIds(data, 8, 8 + 1024, size, size, path)
            self.offsets = ids.names + ids.total * (size + 4)
            self._large_offsets = self.offsets + ids.total * 4
            least = self._large_offsets + 2 * size
            sizes = [least, least + max(ids.total - 1, 0) * 8]
        if not sizes[0] <= len(data) <= sizes[-1]:
            raise DamagedRepository(f"{path} has the wrong size")
        return ids

    def offset(self, oid: bytes) -> int:
        """Where the object starts in the pack; -1 if it is not in it."""
        position = self.ids.position(oid)
        return -1 if position < 0 else self.offset_at(position)

    def offset_at(self, position: int) -> int:
        """Where the object at this position of the index starts in the pack.

        :raises DamagedRepository: if the index points outside itself.
        """
        ids = self.ids
        if not self.offsets:
            return int(u32(ids.data, 1024 + position * ids.width)[0])
        offset = int(u32(ids.data, self.offsets + 4 * position)[0])
        if offset & 0x80000000:
            at = self._large_offsets + 8 * (offset & 0x7FFFFFFF)
            if at + 8 > len(ids.data) - 2 * self.hash_size:
                raise DamagedRepository(f"{self._index_path} has an offset outside its table")
            offset = int(u64(ids.data, at)[0])
        return offset

    @property
    def data(self) -> mmap.mmap:
        """The pack's bytes.

        :raises DamagedRepository: if the pack cannot be opened, or does not belong to its index.
        """
        if self._data is None:
            self._data = self._open()
        return self._data

    def _open(self) -> mmap.mmap:
        size = self.hash_size
        try:
            data = mapped(self.path)
            status = os.stat(self.path)
        except OSError as error:
            raise DamagedRepository(f"{self.path} cannot be read ({error.strerror})") from None
        self.stamp = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if len(data) < 12 + size or data[:4] != b"PACK" or u32(data, 4)[0] not in (2, 3):
            raise DamagedRepository(f"{self.path} is not a pack, or is cut short")
        if u32(data, 8)[0] != self.ids.total:
            raise DamagedRepository(f"{self.path} and its index hold different numbers of objects")
        index = self.ids.data
        if data[len(data) - size :] != index[len(index) - 2 * size : len(index) - size]:
            raise DamagedRepository(f"{self.path} does not end as its index says; it is cut short or another file")
        self.view = memoryview(data)
        return data

    def header(self, offset: int) -> tuple[int, int, int]:
        """Type, size, and the offset of the content (or of a delta's base)."""
        data = self.data
        try:
            byte = data[offset]
            kind, size, shift, at = byte >> 4 & 7, byte & 15, 4, offset + 1
            while byte & 0x80:
                byte = data[at]
                size |= (byte & 0x7F) << shift
                shift += 7
                at += 1
        except IndexError:
            raise self.damaged(offset) from None
        return kind, size, at

    def base(self, kind: int, offset: int, at: int) -> tuple[int, int]:
        """The offset of a delta's base in this pack, and of the delta's own content.

        :raises DamagedRepository: if the base is not in this pack.
        """
        data = self.data
        try:
            if kind == _REFERENCE_DELTA:
                base = self.offset(data[at : at + self.hash_size])
                at += self.hash_size
            else:
                byte = data[at]
                at += 1
                distance = byte & 0x7F
                while byte & 0x80:
                    byte = data[at]
                    at += 1
                    distance = (distance + 1) << 7 | byte & 0x7F
                base = offset - distance
        except IndexError:
            raise self.damaged(offset) from None
        if base < 12 or base == offset:
            raise self.damaged(offset)
        return base, at

    def kind(self, offset: int) -> str:
        """The type of an object, without reading its content.

        :raises DamagedRepository: if it cannot be determined.
        """
        for _ in range(len(self.data)):
            kind, _, at = self.header(offset)
            if kind in KINDS:
                return KINDS[kind]
            if kind not in (_OFFSET_DELTA, _REFERENCE_DELTA):
                break
            offset, _ = self.base(kind, offset, at)
        raise self.damaged(offset)

    def read(self, offset: int) -> tuple[str, bytes]:
        """Type and content of the object at this offset.

        :raises DamagedRepository: if it cannot be read.
        """
        deltas: list[tuple[int, int]] = []
        start = offset
        while True:
            kind, size, at = self.header(offset)
            if kind in KINDS:
                break
            if kind not in (_OFFSET_DELTA, _REFERENCE_DELTA) or len(deltas) > self.ids.total:
                raise self.damaged(start)
            offset, at = self.base(kind, offset, at)
            deltas.append((at, size))
        content = self._inflated(start, at, size)
        for at, size in reversed(deltas):
            try:
                content = apply_delta(content, self._inflated(start, at, size))
            except (IndexError, ValueError):
                raise self.damaged(start) from None
        return KINDS[kind], content

    def _inflated(self, start: int, at: int, size: int) -> bytes:
        try:
            # Deflate never expands incompressible input by more than this, so the slice contains the whole stream.
            content = zlib.decompress(self.view[at : at + size + (size >> 10) + 64], bufsize=size or 1)
        except zlib.error:
            try:
                content = zlib.decompress(self.view[at:], bufsize=size or 1)
            except zlib.error:
                raise self.damaged(start) from None
        if len(content) != size:
            raise self.damaged(start)
        return content

    def damaged(self, offset: int) -> DamagedRepository:
        """The error for the object at this offset."""
        return DamagedRepository(f"{self.path} is damaged at byte {offset}")


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """The object that a delta makes from its base.

    :raises ValueError: if the delta does not fit the base.
    :raises IndexError: if the delta is truncated.
    """
    base_size, at = _size(delta, 0)
    if base_size != len(base):
        raise ValueError("another base")
    size, at = _size(delta, at)
    out = []
    length_so_far = 0
    end = len(delta)
    while at < end:
        command = delta[at]
        at += 1
        if command & 0x80:
            start = length = 0
            for bit in range(4):
                if command & 1 << bit:
                    start |= delta[at] << 8 * bit
                    at += 1
            for bit in range(3):
                if command & 0x10 << bit:
                    length |= delta[at] << 8 * bit
                    at += 1
            length = length or 0x10000
            piece = base[start : start + length]
        else:
            length = command
            piece = delta[at : at + length]
            at += length
        if not command or len(piece) != length:
            raise ValueError("a piece outside of its source")
        out.append(piece)
        length_so_far += length
    if length_so_far != size:
        raise ValueError("another size")
    return b"".join(out)


def _size(delta: bytes, at: int) -> tuple[int, int]:
    size = shift = 0
    while True:
        byte = delta[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return size, at
