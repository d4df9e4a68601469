"""Where an archive's segments lie in it, so that a store can take them from the object of the last version.

Equal names mean equal bytes: a segment has the name of its entry in the :class:`SegmentCache`. The store itself keeps
the map of the archive that was published last, since the next agent may be a fresh one. The map is only a hint: what is
copied by a wrong one does not have the checksum that it must have, and is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from buildtools import BuildToolsError
from buildtools.archive.store import ArtifactStore, Basis, Content, SharedRange
from buildtools.frozen import frozen
from buildtools.json_document import encode_document, parse_document, value_of

_SCHEMA = 1


@frozen
class Segment:
    """A segment of an archive: ``size`` bytes from ``start``."""

    name: str
    start: int
    size: int


def map_key(name: str) -> str:
    """The key of a distribution's map."""
    return f".segments/{name}.json"


def last_map(store: ArtifactStore, name: str) -> Content | None:
    """The map of a distribution's last archive; None if there is none, or it cannot be read."""
    with suppress(BuildToolsError):
        return store.read(map_key(name))
    return None


def basis_of(last: Content | None, segments: Iterable[Segment]) -> Basis | None:
    """What these segments have in common with the archive of the last map; None if it is no map."""
    with suppress(BuildToolsError):
        if last:
            key, theirs = parse_document(last.data, "the last archive", "map of segments", _SCHEMA, _read_map)
            return Basis(key, shared_ranges(segments, theirs))
    return None


def remember(store: ArtifactStore, name: str, last: Content | None, key: str, segments: Iterable[Segment]) -> None:
    """Put the map of the archive with this key in place of the last one, so that the next version is based on it.

    Another run may do the same at this moment, and what cannot be written only costs time.
    """
    rows = [[segment.name, segment.start, segment.size] for segment in segments]
    data = encode_document(_SCHEMA, {"archive": key, "segments": rows})
    with suppress(BuildToolsError):
        if last is None:
            store.create(map_key(name), data, "application/json")
        elif last.data != data:
            store.replace(map_key(name), data, last.etag, "application/json")


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


def _read_map(document: Mapping[str, Any]) -> tuple[str, list[Segment]]:
    rows = value_of(document, "segments", "list")
    if not all(isinstance(row, list) and [type(value) for value in row] == [str, int, int] for row in rows):
        raise TypeError("segments have a name, a start and a size")
    return value_of(document, "archive", "str"), [Segment(*row) for row in rows]
