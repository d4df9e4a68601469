"""Where an archive's segments lie in it, so that a store can take them from the object of the last version.

Equal names mean equal bytes: a segment has the name of its entry in the :class:`SegmentCache`, which keeps these maps
too. It knows the archives that this machine packed; a fresh agent sends everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress

from buildtools.archive.segment_cache import SegmentCache, name_of
from buildtools.archive.store import Basis, SharedRange
from buildtools.frozen import frozen


@frozen
class Segment:
    """A segment of an archive: ``size`` bytes from ``start``."""

    name: str
    start: int
    size: int


def remember(cache: SegmentCache, sha256: str, segments: Iterable[Segment]) -> None:
    """Keep the map of the archive with this checksum."""
    rows = [[segment.name, segment.start, segment.size] for segment in segments]
    cache.write(_map_name(sha256), json.dumps(rows).encode())


def remember_object(cache: SegmentCache, folder: str, key: str, sha256: str) -> None:
    """Keep the archive that ``folder`` of a store got last, an address for display, and its key."""
    cache.write(_object_name(folder), json.dumps([key, sha256]).encode())


def last_basis(cache: SegmentCache, folder: str, sha256: str) -> Basis | None:
    """What the archive with this checksum has in common with the last one that ``folder`` got; None if unknown."""
    with suppress(ValueError, TypeError):
        key, source = json.loads(cache.read(_object_name(folder)) or b"")
        ours, theirs = (_segments(cache, archive) for archive in (sha256, source))
        return Basis(key, shared_ranges(ours, theirs))
    return None


def shared_ranges(ours: Iterable[Segment], theirs: Iterable[Segment]) -> tuple[SharedRange, ...]:
    """The segments that both have, sorted; those that follow each other in both are one range."""
    starts = {segment.name: segment.start for segment in theirs}
    ranges: list[SharedRange] = []
    for segment in ours:
        source = starts.get(segment.name)
        if source is None:
            continue
        last = ranges[-1] if ranges else None
        if last and (last.start + last.size, last.source + last.size) == (segment.start, source):
            ranges[-1] = SharedRange(last.start, last.source, last.size + segment.size)
        else:
            ranges.append(SharedRange(segment.start, source, segment.size))
    return tuple(ranges)


def _segments(cache: SegmentCache, sha256: str) -> list[Segment]:
    return [Segment(*row) for row in json.loads(cache.read(_map_name(sha256)) or b"")]


def _map_name(sha256: str) -> str:
    return name_of((b"map", sha256.encode()))


def _object_name(folder: str) -> str:
    return name_of((b"object", folder.encode()))
