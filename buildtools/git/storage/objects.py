"""Objects of a repository: loose, packed, borrowed from alternates, and replaced.

https://git-scm.com/docs/gitrepository-layout
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping

from buildtools.git.errors import DamagedRepository, MissingObject
from buildtools.git.storage.multipackindex import summary
from buildtools.git.storage.packs import KINDS, Pack
from buildtools.git.storage.small_file import content, text

_DEEPEST_ALTERNATE = 5
_LONGEST_REPLACEMENT = 5
_HEADER = 64  # more than the longest "type size\0"


class Objects:
    """All objects of a repository, by id.

    ``replacements`` is called once, at the first read; its result maps an object to the one read in its place.
    """

    def __init__(
        self,
        folder: str,
        hash_size: int,
        alternates: list[str],
        replacements: Callable[[], Mapping[bytes, bytes]] = dict,
        *,
        use_multi_pack_index: bool = True,
    ) -> None:
        self.hash_size = hash_size
        self.folders = _with_alternates(folder, alternates)
        self._find_replacements = replacements
        self._replacements: Mapping[bytes, bytes] | None = None
        self._use_multi_pack_index = use_multi_pack_index
        self._packs: list[Pack] | None = None

    @property
    def replacements(self) -> Mapping[bytes, bytes]:
        """The replacement of each replaced object."""
        if self._replacements is None:
            self._replacements = self._find_replacements()
        return self._replacements

    @property
    def packs(self) -> list[Pack]:
        """All packs in the order of lookups: the one that matched last comes first."""
        if self._packs is None:
            self._packs = [Pack(path, self.hash_size) for path in self._index_paths()]
        return self._packs

    def _index_paths(self) -> Iterator[str]:
        for folder in self.folders:
            try:
                files = set(os.listdir(f"{folder}/pack"))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for file in sorted(files):
                if file.endswith(".idx") and f"{file[:-4]}.pack" in files:
                    yield f"{folder}/pack/{file}"

    def replaced(self, oid: bytes) -> bytes:
        """The id whose content is read in place of this one's.

        :raises DamagedRepository: if the replacements form a cycle.
        """
        replacements = self.replacements
        if not replacements:
            return oid
        for _ in range(_LONGEST_REPLACEMENT + 1):
            if oid not in replacements:
                return oid
            oid = replacements[oid]
        raise DamagedRepository(f"replacements of {oid.hex()} go round", "look at `git replace --list`")

    def read(self, oid: bytes, *, replace: bool = True) -> tuple[str, bytes]:
        """Type (``commit``, ``tree``, ``blob`` or ``tag``) and content.

        :raises MissingObject: if it does not exist.
        :raises DamagedRepository: if no copy of it can be read.
        """
        if replace:
            oid = self.replaced(oid)
        packs = self.packs
        failure = None
        for index, pack in enumerate(packs):
            try:
                offset = pack.offset(oid)
                if offset >= 0:
                    entry = pack.read(offset)
                    if index:
                        packs.insert(0, packs.pop(index))
                    return entry
            except DamagedRepository as error:
                failure = error
        loose = self._read_loose(oid)
        if loose is not None:
            return loose
        raise failure or MissingObject(oid)

    def kind(self, oid: bytes) -> str:
        """The type of the object itself, ignoring replacements.

        :raises MissingObject: if it does not exist.
        :raises DamagedRepository: if it cannot be read.
        """
        for pack in self.packs:
            offset = pack.offset(oid)
            if offset >= 0:
                return pack.kind(offset)
        for path in self._loose_paths(oid):
            try:
                with open(path, "rb") as stream:
                    start = stream.read(_HEADER * 2)
                return _header(zlib.decompressobj().decompress(start, _HEADER), path)[0]
            except FileNotFoundError:
                continue
            except (OSError, zlib.error):
                raise _damaged(path) from None
        raise MissingObject(oid)

    def __contains__(self, oid: bytes) -> bool:
        return any(pack.offset(oid) >= 0 for pack in self.packs) or any(map(os.path.exists, self._loose_paths(oid)))

    def _loose_paths(self, oid: bytes) -> Iterator[str]:
        name = oid.hex()
        for folder in self.folders:
            yield f"{folder}/{name[:2]}/{name[2:]}"

    def _read_loose(self, oid: bytes) -> tuple[str, bytes] | None:
        failure = None
        for path in self._loose_paths(oid):
            try:
                compressed_data = content(path)
                if compressed_data is None:
                    continue
                whole = zlib.decompress(compressed_data)
            except (OSError, zlib.error):
                failure = _damaged(path)
                continue
            kind, size, start = _header(whole, path)
            if len(whole) - start == size:
                return kind, whole[start:]
            failure = _damaged(path)
        if failure:
            raise failure
        return None

    def count(self) -> int:
        """Roughly how many objects are packed; git derives the length of abbreviations from it."""
        total, names_in_index = 0, set()
        for folder in self.folders if self._use_multi_pack_index and len(self.packs) > 1 else ():
            count, names = summary(folder)
            total += count
            names_in_index |= {f"{folder}/pack/{name[:-4]}.pack" for name in names}
        return total + sum(pack.ids.total for pack in self.packs if pack.path not in names_in_index)

    def starting_with(self, prefix: str) -> Iterator[str]:
        """The full hexadecimal ids with this prefix of at least two digits; an id in two places appears twice."""
        low = bytes.fromhex(prefix.ljust(self.hash_size * 2, "0"))
        for pack in self.packs:
            ids = pack.ids
            position = ids.position(low)
            for at in range(position if position >= 0 else ~position, ids.total):
                name = ids.oid(at).hex()
                if not name.startswith(prefix):
                    break
                yield name
        for folder in self.folders:
            try:
                files = os.listdir(f"{folder}/{prefix[:2]}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            for file in files:
                if len(file) == self.hash_size * 2 - 2 and file.startswith(prefix[2:]):
                    yield prefix[:2] + file

    def abbreviated(self, oid: bytes, length: int) -> str:
        """The shortest prefix of the id, of ``length`` digits or more, that no other object has.

        :param length: 0 for the full id, negative for a length based on the number of objects.
        """
        name = oid.hex()
        if length < 0:
            # https://git-scm.com/docs/git-config#Documentation/git-config.txt-coreabbrev
            length = max(7, (self.count().bit_length() + 1) // 2)
        if length == 0 or length >= len(name):
            return name
        longest = length - 1
        for pack in self.packs:
            ids = pack.ids
            position = ids.position(oid)
            neighbours = (position - 1, position + 1) if position >= 0 else (~position - 1, ~position)
            for neighbour in neighbours:
                if 0 <= neighbour < ids.total:
                    longest = max(longest, _common(ids.oid(neighbour).hex(), name))
        for folder in self.folders:
            try:
                files = os.listdir(f"{folder}/{name[:2]}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            for file in files:
                if len(file) == len(name) - 2 and file != name[2:]:
                    longest = max(longest, 2 + _common(file, name[2:]))
        return name[: longest + 1]


def _common(one: str, other: str) -> int:
    return next((at for at, digit in enumerate(one) if digit != other[at]), len(one))


def _header(whole: bytes, path: str) -> tuple[str, int, int]:
    kind, space, rest = whole[:_HEADER].partition(b" ")
    size, null, _ = rest.partition(b"\0")
    if not space or not null or not size.isdigit() or kind.decode("latin-1") not in KINDS.values():
        raise _damaged(path)
    return kind.decode(), int(size), len(kind) + len(size) + 2


def _damaged(path: str) -> DamagedRepository:
    return DamagedRepository(f"the object file {path} is damaged")


def _with_alternates(folder: str, alternates: list[str]) -> list[str]:
    """The object folders in git's order of lookup: its own, those of the environment, and the alternates of each."""
    folders: list[str] = [folder]
    if not alternates and not os.path.exists(f"{folder}/info/alternates"):
        return folders
    real_paths = {os.path.realpath(folder)}

    def follow(place: str, depth: int) -> None:
        for line in (text(f"{place}/info/alternates") or "").split("\n"):
            if line and not line.startswith("#"):
                add(os.path.join(place, unquoted(line)), depth + 1)

    def add(place: str, depth: int) -> None:
        real = os.path.realpath(place)
        if real not in real_paths and os.path.isdir(real) and depth <= _DEEPEST_ALTERNATE:
            real_paths.add(real)
            folders.append(place)
            follow(place, depth)

    for place in alternates:
        add(place, 0)
    follow(folder, 0)
    return folders


def unquoted(text: str) -> str:
    """A path without the C-style quotes that git may have put around it."""
    if not (text.startswith('"') and text.endswith('"') and len(text) > 1):
        return text
    import re

    simple = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}

    def byte(match: re.Match[bytes]) -> bytes:
        letters = match[1].decode("latin-1")
        return bytes([simple[letters] if letters in simple else int(letters, 8)])

    inside = text[1:-1].encode("utf-8", "surrogateescape")
    return re.sub(rb'\\([abtnvfr"\\]|[0-3][0-7]{2})', byte, inside).decode("utf-8", "surrogateescape")
