"""Commit-graph files: dates and parents of commits without reading the commits.

https://git-scm.com/docs/gitformat-commit-graph
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from buildtools.git.errors import DamagedRepository
from buildtools.git.storage.packs import SortedIds, mapped, u32, u64

_NO_PARENT = 0x70000000
_MORE_PARENTS = 0x80000000
_HASH_VERSIONS = {1: 20, 2: 32}


class _Layer:
    """One file. ``first`` is the position of its first commit in the whole chain."""

    def __init__(self, path: str, first: int, hash_size: int) -> None:
        self.first = first
        data = mapped(path)
        if len(data) < 8 or data[:4] != b"CGPH" or data[4] != 1 or _HASH_VERSIONS.get(data[5]) != hash_size:
            raise DamagedRepository(f"{path} is not a commit-graph that is understood")
        if data[-hash_size:] == bytes(hash_size):
            raise DamagedRepository(f"{path} has no checksum")
        self.bases = data[7]
        try:
            places = {data[at : at + 4]: u64(data, at + 4)[0] for at in range(8, 8 + 12 * data[6], 12)}
            fanout, names, self.commits = places[b"OIDF"], places[b"OIDL"], places[b"CDAT"]
        except (KeyError, struct.error):
            raise DamagedRepository(f"{path} lacks a part") from None
        self.edges = places.get(b"EDGE", 0)
        self.ids = SortedIds(data, fanout, names, hash_size, hash_size, path)
        if self.commits + self.ids.total * (hash_size + 16) > len(data) - hash_size:
            raise DamagedRepository(f"{path} is cut short")


class CommitGraph:
    """The commits of one file, or of a chain of files, by position."""

    def __init__(self, paths: Sequence[str], hash_size: int) -> None:
        self._layers: list[_Layer] = []
        total = 0
        for count, path in enumerate(paths):
            layer = _Layer(path, total, hash_size)
            if layer.bases != count:
                raise DamagedRepository(f"{path} does not fit into its chain")
            self._layers.append(layer)
            total += layer.ids.total
        self._total = total
        self._width = hash_size + 16
        self._hash_size = hash_size

    def position(self, oid: bytes) -> int | None:
        """The commit's position; ``None`` if it is in no file."""
        for layer in reversed(self._layers):
            position = layer.ids.position(oid)
            if position >= 0:
                return layer.first + position
        return None

    def loader(self) -> Callable[[int], tuple[int, Sequence[int]]]:
        """A function that returns the date and the parents' positions for a commit's position.

        It raises DamagedRepository if the file points outside itself.
        """
        layers = [(layer.first, layer) for layer in reversed(self._layers)]
        total, width, fields = self._total, self._width, struct.Struct(">IIII").unpack_from
        first, layer = layers[0]
        data, start, no_parent = layer.ids.data, layer.commits + self._hash_size - first * width, _NO_PARENT

        def load_from_last(position: int) -> tuple[int, Sequence[int]]:
            one, two, high, low = fields(data, start + position * width)
            if high & 3:
                low |= (high & 3) << 32
            if two == no_parent and one < total:
                return low, (one,)
            return low, self._parents(layer, one, two)

        def load(position: int) -> tuple[int, Sequence[int]]:
            if position >= first:
                return load_from_last(position)
            lower = next(layer for first, layer in layers if position >= first)
            at = lower.commits + (position - lower.first) * width + self._hash_size
            one, two, high, low = fields(lower.ids.data, at)
            return (high & 3) << 32 | low, self._parents(lower, one, two)

        return load if first else load_from_last

    def _parents(self, layer: _Layer, one: int, two: int) -> Sequence[int]:
        if one == _NO_PARENT:
            return ()
        parents = (one,) if two == _NO_PARENT else (one, two) if two < _MORE_PARENTS else self._octopus(layer, one, two)
        if max(parents) >= self._total:
            raise _points_outside()
        return parents

    def _octopus(self, layer: _Layer, first: int, place: int) -> tuple[int, ...]:
        parents = [first]
        at = layer.edges + 4 * (place & ~_MORE_PARENTS)
        while True:
            try:
                edge = u32(layer.ids.data, at)[0]
            except struct.error:
                raise _points_outside() from None
            parents.append(edge & ~_MORE_PARENTS)
            if edge & _MORE_PARENTS:
                return tuple(parents)
            at += 4


def _points_outside() -> DamagedRepository:
    return DamagedRepository(
        "the commit-graph points outside of itself", "run `git commit-graph write --reachable`, or delete it"
    )


def find(folders: Sequence[str], hash_size: int) -> CommitGraph | None:
    """The graph of a repository with these object folders; ``None`` if there is none that can be read.

    A graph only saves time, so a damaged one is ignored, as git does.
    """
    for folder in folders:
        try:
            try:
                return CommitGraph([f"{folder}/info/commit-graph"], hash_size)
            except FileNotFoundError:
                with open(f"{folder}/info/commit-graphs/commit-graph-chain", encoding="ascii") as stream:
                    names = stream.read().split()
            return CommitGraph([_layer_path(folders, name) for name in names], hash_size) if names else None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError, DamagedRepository):
            return None
    return None


def _layer_path(folders: Sequence[str], name: str) -> str:
    import os

    places = [f"{folder}/info/commit-graphs/graph-{name}.graph" for folder in folders]
    return next(filter(os.path.exists, places), places[0])
