"""Commits as a walk needs them: date and parents, with grafts and shallow borders applied."""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from zlib import decompress
from zlib import error as zlib_error

from buildtools.git.errors import DamagedRepository, MissingObject
from buildtools.git.storage import commitgraph
from buildtools.git.storage.objects import Objects
from buildtools.git.storage.packs import Pack, u32
from buildtools.git.storage.small_file import text

_COMMIT = 0x10  # the type bits in a pack entry's first byte
_NUMBER = re.compile(rb"\s*(-?)0*(\d{1,20})")
_LARGEST = (1 << 64) - 1
_MOST_KNOWN = 4_000  # of one pack, in about 1 MB; more would wake the garbage collector often


def date_of(line: bytes) -> int:
    """The seconds since 1970 in an author, committer or tagger line; 0 if there is no number."""
    match = _NUMBER.match(line, line.rfind(b">") + 1) if b">" in line else None
    if not match:
        return 0
    seconds = min(int(match[2]), _LARGEST)
    return _LARGEST + 1 - seconds if match[1] and seconds else seconds


def parse_commit(content: bytes, hash_size: int) -> tuple[int, list[bytes]]:
    """Committer date and parents of a commit.

    :raises ValueError: if it does not start like a commit.
    """
    digits = hash_size * 2
    at = 6 + digits
    if not content.startswith(b"tree ") or content[at - 1 : at] != b"\n":
        raise ValueError("no tree")
    parents = []
    width = digits + 8
    while content.startswith(b"parent ", at):
        if content[at + width - 1 : at + width] != b"\n":
            raise ValueError("a broken parent line")
        parents.append(bytes.fromhex(content[at + 7 : at + 7 + digits].decode("latin-1")))
        at += width
    if not content.startswith(b"author ", at):
        return 0, parents
    start = content.find(b"\n", at) + 1
    end = content.find(b"\n", start)
    if not start or end < 0 or not content.startswith(b"committer ", start):
        return 0, parents
    return date_of(content[start:end]), parents


CommitKey = bytes | int


class Commits:
    """Date and parents of commits.

    ``grafts`` maps a commit to its replacement parents; a shallow clone's border has none. With ``strict`` a missing
    commit is an error; git itself continues as if it had neither date nor parents. A commit-graph is used unless grafts
    or replacements contradict it.
    """

    def __init__(self, objects: Objects, grafts: Mapping[bytes, list[bytes]], *, strict: bool, use_graph: bool) -> None:
        self._objects = objects
        self._grafts = grafts
        self._strict = strict
        self._cut = frozenset(oid for oid, parents in grafts.items() if not parents)
        self._use_graph = use_graph
        self.visits: set[bytes] = set()

    def load(self, oid: bytes) -> tuple[int, list[bytes]]:
        """Date and parents.

        :raises DamagedRepository: if the commit cannot be read.
        """
        if oid in self._cut:
            self.visits.add(oid)
        try:
            kind, content = self._objects.read(oid)
        except MissingObject:
            if self._strict:
                raise
            return 0, []
        if kind != "commit":
            raise DamagedRepository(f"object {oid.hex()} is a {kind} where a commit is expected")
        try:
            date, parents = parse_commit(content, self._objects.hash_size)
        except ValueError as error:
            raise DamagedRepository(f"commit {oid.hex()} cannot be understood ({error})") from None
        return date, self._grafts.get(oid, parents)

    def walker(
        self, start: bytes | None = None, *, by_id: bool = False
    ) -> tuple[Callable[[bytes], CommitKey], Callable[[CommitKey], tuple[int, Sequence[CommitKey]]]]:
        """How to do a long walk: a function from ids to keys, and one from a key to date and parents.

        :param start: the only commit that the walk starts at, if there is one; the walk may be faster then. :param
            by_id: whether the keys must be ids, which may be slower.
        """
        load: Callable[[CommitKey], tuple[int, Sequence[CommitKey]]] = self.load  # type: ignore[assignment]  # ids are keys
        if by_id or self._grafts or self._objects.replacements:
            return bytes, load
        graph = commitgraph.find(self._objects.folders, self._objects.hash_size) if self._use_graph else None
        if graph is not None:
            return _over_graph(graph, self.load, start)
        packs = self._objects.packs
        if packs:
            load = _over_pack(max(packs, key=lambda pack: pack.ids.total), self.load)  # type: ignore[assignment]
        return bytes, load


def _over_graph(
    graph: commitgraph.CommitGraph, otherwise: Callable[[bytes], tuple[int, list[bytes]]], start: bytes | None
) -> tuple[Callable[[bytes], CommitKey], Callable[[CommitKey], tuple[int, Sequence[CommitKey]]]]:
    """Walk by positions in the graph, and by ids for commits outside it."""
    inside = graph.loader()

    def key(oid: bytes) -> CommitKey:
        position = graph.position(oid)
        return oid if position is None else position

    def load(commit: CommitKey) -> tuple[int, Sequence[CommitKey]]:
        if isinstance(commit, int):
            return inside(commit)
        date, parents = otherwise(commit)
        return date, [key(parent) for parent in parents]

    if start is not None and graph.position(start) is not None:
        # A graph is closed under ancestors, so no id will be met.
        return key, inside  # type: ignore[return-value]  # see above
    return key, load


def _over_pack(
    pack: Pack, otherwise: Callable[[bytes], tuple[int, list[bytes]]]
) -> Callable[[bytes], tuple[int, Sequence[bytes]]]:
    """A loader for the plain commits of one pack, in a third of the general time."""
    ids, data = pack.ids, pack.data
    cache = known_commits(pack.stamp)
    index, names, width, total = ids.data, ids.names, ids.width, ids.total
    offsets, size, large = pack.offsets, pack.hash_size, min(len(data), 1 << 31)
    if not offsets:
        return otherwise
    view, number = pack.view, int.from_bytes
    starts = (0, *ids.fanout)
    # Ids are evenly distributed, so interpolate: an id is near the place that its first digits suggest.
    near = 8 + int((total / 256) ** 0.5)
    before, both = names - near * width, 2 * near * width
    # Parse by position rather than digit by digit; commits that do not fit take the general way.
    hexadecimal = b".{%d}" % (size * 2)
    match = re.compile(
        rb"tree %b\n(?:parent (%b)\n(?:parent (%b)\n)?)?author .*\ncommitter [^>\n]*> ([0-9]{1,18}) [^>\n]*\n"
        % (hexadecimal, hexadecimal, hexadecimal)
    ).match

    def load(oid: bytes) -> tuple[int, Sequence[bytes]]:
        if oid in cache:
            return cache[oid]
        first = oid[0]
        low = starts[first]
        begin = before + (low + ((starts[first + 1] - low) * number(oid[1:4], "big") >> 24)) * width
        place = index[begin : begin + both].find(oid)
        if place < 0 or begin < 0 or place % width:
            return otherwise(oid)
        at = u32(index, offsets + (begin + place - names) // width * 4)[0]
        byte = data[at] if at < large else 0
        if byte & 0x70 != _COMMIT:
            return otherwise(oid)
        length, shift = byte & 15, 4
        while byte & 0x80:
            at += 1
            byte = data[at]
            length |= (byte & 0x7F) << shift
            shift += 7
        try:
            content = decompress(view[at + 1 : at + length + 64], 15, length)
            commit = match(content)
            if commit is None or len(content) != length:
                return otherwise(oid)
            one, two, date = commit.groups()
            parents = (unhexlify(one), unhexlify(two)) if two else (unhexlify(one),) if one else ()
            read = int(date), parents
        except (zlib_error, ValueError):
            return otherwise(oid)
        if len(cache) < _MOST_KNOWN:
            cache[oid] = read
        return read

    return load


@lru_cache(maxsize=4)
def known_commits(stamp: tuple[int, ...]) -> dict[bytes, tuple[int, Sequence[bytes]]]:
    """The commits of a pack that this process has already read."""
    del stamp
    return {}


def read_grafts(common_dir: str, hash_size: int, environment: Mapping[str, str]) -> dict[bytes, list[bytes]]:
    """The parents that ``info/grafts`` and ``shallow`` set.

    :raises DamagedRepository: if the list of the shallow border is malformed.
    """
    grafts: dict[bytes, list[bytes]] = {}
    word = re.compile(f"[0-9a-f]{{{hash_size * 2}}}")
    for line in _lines(environment.get("GIT_GRAFT_FILE") or f"{common_dir}/info/grafts"):
        words = line.rstrip().split(" ")
        if not line.startswith("#") and all(map(word.fullmatch, words)):
            first, *parents = map(bytes.fromhex, words)
            grafts.setdefault(first, parents)
    return grafts


def read_shallow(common_dir: str, hash_size: int, environment: Mapping[str, str]) -> list[bytes]:
    """The commits whose parents were not fetched."""
    path = environment.get("GIT_SHALLOW_FILE") or f"{common_dir}/shallow"
    ids = []
    for line in _lines(path):
        if not re.fullmatch(f"[0-9a-f]{{{hash_size * 2}}}", line):
            raise DamagedRepository(f"{path} has a line that is not an object name")
        ids.append(bytes.fromhex(line))
    return ids


def _lines(path: str) -> list[str]:
    return (text(path) or "").splitlines()
