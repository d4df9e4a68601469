"""The index file: versions 2 to 4, split and sparse, SHA-1 and SHA-256; read, never written.

https://git-scm.com/docs/index-format
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Generator, Iterator

from buildtools.git.errors import DamagedRepository

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Flags: the 16 bits of every entry, and above them the 16 extended bits.
ASSUME_VALID = 0x8000
STAGE = 0x3000
SKIP_WORKTREE = 0x4000 << 16
INTENT_TO_ADD = 0x2000 << 16
_EXTENDED = 0x4000
_NAME_LENGTH = 0x0FFF
_KNOWN_EXTENDED = 0x6000
_REMEDY = "git reset makes a new one"

SPARSE_DIRECTORY = 0o040000
GITLINK = 0o160000
SYMLINK = 0o120000

# ctime, mtime, inode, mode, user, group, size (each the low 32 bits; seconds), object id, flags. A plain tuple, because
# a named one takes three times as long to create, and there are tens of thousands.
Fields = tuple[int, int, int, int, int, int, int, bytes, int]
MODE: Final = 3
OID: Final = 7
FLAGS: Final = 8


class Index:
    """All entries in order: ``names[i]`` goes with ``fields[i]``.

    ``mtime`` is that of the file in seconds, 0 if there is no file. An entry with mode ``SPARSE_DIRECTORY`` stands for
    a whole folder; its name ends in a slash. The file is parsed on first use, so any access may raise
    DamagedRepository.
    """

    def __init__(self, path: str = "", data: bytes = b"", mtime: int = 0, oid_length: int = 20) -> None:
        self.mtime = mtime
        self._path = path
        self._data = data
        self._oid_length = oid_length
        self._entries: tuple[list[bytes], list[Fields]] | None = None if data else ([], [])
        self._extensions: dict[bytes, bytes] = {}
        self._trees: dict[bytes, bytes] | None = None

    def __len__(self) -> int:
        """The number of entries; before the file is parsed, the number in its header."""
        if self._entries is not None:
            return len(self._entries[0])
        return int.from_bytes(self._data[8:12], "big")

    @property
    def names(self) -> list[bytes]:
        """Every entry's path."""
        return self._loaded()[0]

    @property
    def fields(self) -> list[Fields]:
        """The stored status of each entry."""
        return self._loaded()[1]

    def replace(self, names: list[bytes], fields: list[Fields]) -> None:
        """Replace the entries read from the file."""
        self._entries = names, fields

    def _loaded(self) -> tuple[list[bytes], list[Fields]]:
        if self._entries is None:
            names: list[bytes] = []
            fields: list[Fields] = []
            for buffer, start, end, entry in self.located():
                names.append(buffer[start:end])
                fields.append(entry)
            self._entries = names, fields
        return self._entries

    def located(self) -> Iterator[tuple[bytes, int, int, Fields]]:
        """Each entry as a buffer, the start and end of its name in the buffer, and its fields.

        Reading them once in this way is a fifth faster than building lists first.

        :raises DamagedRepository: if the file is malformed.
        """
        if self._entries is not None:
            for name, fields in zip(*self._entries, strict=True):
                yield name, 0, len(name), fields
            return
        data = self._data
        try:
            if len(data) < 12 + self._oid_length or data[:4] != b"DIRC":
                raise ValueError("no index file")
            version, count = struct.unpack_from(">II", data, 4)
            if version not in _READERS:
                raise ValueError(f"version {version}")
            at = yield from _READERS[version](data, count, self._oid_length)
            self._extensions = _extensions(data, at, len(data) - self._oid_length)
        except (struct.error, ValueError, IndexError) as error:
            raise DamagedRepository(f"the index {self._path} cannot be read ({error})", _REMEDY) from error

    def extension(self, signature: bytes) -> bytes:
        """The content of an extension; empty if there is none."""
        if not self._extensions:
            self._loaded()
        return self._extensions.get(signature, b"")

    def position(self, name: bytes) -> int | None:
        """The position of the entry with this name (its lowest stage); ``None`` if there is none."""
        at = bisect_left(self.names, name)
        return at if at < len(self.names) and self.names[at] == name else None

    def cached_tree(self, folder: bytes) -> bytes | None:
        """The tree id of a folder (``b""`` or ``b"a/b/"``), if the cache-tree extension has it."""
        if self._trees is None:
            try:
                self._trees = _parsed_cache_tree(self.extension(b"TREE"), self._oid_length)
            except (ValueError, IndexError) as error:
                raise DamagedRepository("the cache-tree extension of the index cannot be read") from error
        return self._trees.get(folder)

    def root_tree(self) -> bytes | None:
        """The tree id of the whole index, if the cache-tree extension has it."""
        tree = self.extension(b"TREE")
        # A root node is: empty name, NUL, number of entries, space, number of subtrees, newline, id.
        newline = tree.find(b"\n")
        if newline < 0 or tree[:2] == b"\0-":
            return None
        return tree[newline + 1 : newline + 1 + self._oid_length]


def read_index(path: str, git_dir: str, oid_length: int = 20) -> Index:
    """The index in a file; empty if there is no file. ``git_dir`` is where a shared index would be.

    The checksum at the end is not verified, because git leaves that to ``git fsck``.

    :raises DamagedRepository: if it cannot be read.
    """
    index, data = _open(path, oid_length)
    # A link extension, or part of a file name; the fastest way to see that most indexes are not split.
    link = index.extension(b"link") if b"link\0" in data else b""
    if any(link[:oid_length]):
        base_name = f"sharedindex.{link[:oid_length].hex()}"
        place = os.path.join(git_dir, base_name)
        if not os.path.exists(place):
            place = os.path.join(os.path.dirname(path), base_name)
        base, base_data = _open(place, oid_length)
        if not base_data:
            raise DamagedRepository(f"the index needs {base_name}, which is missing", _REMEDY)
        try:
            _join(index, base, link[oid_length:])
        except (struct.error, ValueError, IndexError) as error:
            raise DamagedRepository(f"the index {path} cannot be read ({error})", _REMEDY) from error
    return index


def _open(path: str, oid_length: int) -> tuple[Index, bytes]:
    try:
        with open(path, "rb") as stream:
            data = stream.read()
            mtime = int(os.fstat(stream.fileno())[8])
    except FileNotFoundError:
        return Index(oid_length=oid_length), b""
    except OSError as error:
        raise DamagedRepository(
            f"the index {path} cannot be read ({error.strerror})", "correct its permissions"
        ) from None
    # Unlike a missing file, an empty one is damage.
    return Index(path, data or b"\0", mtime, oid_length), data


def _layout(oid_length: int) -> struct.Struct:
    # Nanoseconds and the device are skipped: no common build of git compares them (USE_NSEC, USE_STDEV).
    return struct.Struct(f">I4xI8x5I{oid_length}sH")


def _read_entries(data: bytes, count: int, oid_length: int) -> Generator[tuple[bytes, int, int, Fields], None, int]:
    """The entries of versions 2 and 3; returns where they end."""
    layout = _layout(oid_length)
    unpack, fixed_length = layout.unpack_from, layout.size
    at = 12
    for _ in range(count):
        fields: Fields = unpack(data, at)
        flags = fields[8]
        start = at + fixed_length
        if flags & _EXTENDED:
            fields = _extended(fields, data, start)
            start += 2
        length = flags & _NAME_LENGTH
        end = start + length if length != _NAME_LENGTH else data.index(b"\0", start)
        yield data, start, end, fields
        # 1 to 8 NULs, so that the entry's length is a multiple of 8
        at += (end - at + 8) & ~7
    return at


def _read_compressed_entries(
    data: bytes, count: int, oid_length: int
) -> Generator[tuple[bytes, int, int, Fields], None, int]:
    """The entries of version 4, in which a name is stored as its difference from the last; returns where they end."""
    layout = _layout(oid_length)
    unpack, fixed_length = layout.unpack_from, layout.size
    at = 12
    name = b""
    for _ in range(count):
        fields: Fields = unpack(data, at)
        at += fixed_length
        if fields[8] & _EXTENDED:
            fields = _extended(fields, data, at)
            at += 2
        byte = data[at]
        at += 1
        strip = byte & 0x7F
        while byte & 0x80:
            byte = data[at]
            at += 1
            strip = (strip + 1) << 7 | byte & 0x7F
        end = data.index(b"\0", at)
        if strip > len(name):
            raise ValueError(f"a malformed name after {name!r}")
        name = name[: len(name) - strip] + data[at:end]
        yield name, 0, len(name), fields
        at = end + 1
    return at


_READERS = {2: _read_entries, 3: _read_entries, 4: _read_compressed_entries}


def _extended(fields: Fields, data: bytes, at: int) -> Fields:
    more = data[at] << 8 | data[at + 1]
    if more & ~_KNOWN_EXTENDED:
        raise ValueError(f"unknown entry flags {more:#x}")
    return (*fields[:8], fields[8] | more << 16)


def _extensions(data: bytes, at: int, end: int) -> dict[bytes, bytes]:
    extensions: dict[bytes, bytes] = {b"": b""}
    if at > end:
        raise ValueError("it is cut off")
    while at + 8 <= end:
        signature = data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        extensions[signature] = data[at + 8 : at + 8 + size]
        at += 8 + size
        if at > end:
            raise ValueError("an extension is cut off")
        # A reader may ignore extensions that start with an upper-case letter.
        if signature not in (b"link", b"sdir") and not b"A" <= signature[:1] <= b"Z":
            raise ValueError(f"the extension {signature!r}, which it needs, is unknown")
    return extensions


def _parsed_cache_tree(data: bytes, oid_length: int) -> dict[bytes, bytes]:
    trees: dict[bytes, bytes] = {}
    open_folders: list[tuple[bytes, int]] = []
    at = 0
    while at < len(data):
        end = data.index(b"\0", at)
        name = data[at:end]
        newline = data.index(b"\n", end)
        entries, subtrees = map(int, data[end + 1 : newline].split(b" "))
        at = newline + 1
        while open_folders and not open_folders[-1][1]:
            open_folders.pop()
        folder = b""
        if open_folders:
            parent, left = open_folders[-1]
            open_folders[-1] = (parent, left - 1)
            folder = parent + name + b"/"
        if entries >= 0:
            trees[folder] = data[at : at + oid_length]
            at += oid_length
        open_folders.append((folder, subtrees))
    return trees


def _join(index: Index, base: Index, bitmaps: bytes) -> None:
    """Complete ``index``, which contains only differences, from the shared index that it builds on."""
    gaps: set[int] = set()
    patches: list[int] = []
    if bitmaps:
        first, rest = _bits(bitmaps)
        second, rest = _bits(rest)
        if rest:
            raise ValueError("garbage at the end of the link extension")
        gaps, patches = set(first), second
    if (gaps or patches) and max([*gaps, *patches]) >= len(base.names):
        raise ValueError("the link extension names entries that are not there")
    names, own_fields = index.names, index.fields
    own = len(patches)
    if any(names[:own]) or not all(names[own:]):
        raise ValueError("the link extension does not fit the entries")
    # The first own entries have no names and replace the base's in the bitmap's order; the others are new.
    fields = base.fields
    for position, replacement in zip(patches, own_fields, strict=False):
        fields[position] = replacement
    entries = {
        (name, entry[FLAGS] & STAGE): entry
        for position, (name, entry) in enumerate(zip(base.names, fields, strict=True))
        if position not in gaps
    }
    for name, entry in zip(names[own:], own_fields[own:], strict=True):
        entries[name, entry[FLAGS] & STAGE] = entry
    paths = sorted(entries)
    index.replace([name for name, _ in paths], [entries[key] for key in paths])


def _bits(data: bytes) -> tuple[list[int], bytes]:
    """The positions set in an EWAH bitmap, and what follows it.

    https://git-scm.com/docs/bitmap-format#_appendix_a_serialization_format_for_an_ewah_bitmap
    """
    _, count = struct.unpack_from(">II", data)
    words = struct.unpack_from(f">{count}Q", data, 8)
    positions: list[int] = []
    at = base = 0
    while at < count:
        marker = words[at]
        at += 1
        run, literals = (marker >> 1 & 0xFFFFFFFF) * 64, marker >> 33
        if marker & 1:
            positions.extend(range(base, base + run))
        base += run
        for word in words[at : at + literals]:
            positions.extend(base + bit for bit in range(64) if word >> bit & 1)
            base += 64
        at += literals
    return positions, data[8 + 8 * count + 4 :]
