"""Parts of an upload that the service copies from an object that it has, so that only what is new is sent.

The problem. Two versions of an archive differ in a few headers, each a few hundred bytes, between files of many
megabytes. S3 copies any range of an object as a part of another one (``UploadPartCopy``). But parts have 5 MiB at
least, and ours have fixed borders, for equal contents must have equal checksums of parts. So a part without a header in
it is one range of the old object, and a part with one is not.

The answer is that the *last* part of an object may be as short as it likes. What cannot be a part can be put together
in objects of its own, *joints*, each a part of the next:

    part n                  ┃ old bytes a ┃ new header h ┃ old bytes b ┃
    joint 1                 ┃ 5 MiB of the old object that end with a ┃ h, sent ┃
    joint 2                 ┃ joint 1 ┃ b ┃
    part n                  the end of joint 2, copied

Each step is four requests, so a part with more than a few headers is sent, and all such parts are if the parts that can
be copied are fewer than half: then joints cost more time than they save. Joints are deleted at once, by whoever may
delete; who may not makes none. A killed run leaves some; their names begin with the time, by which
:meth:`S3Store.discard_unfinished` finds them.

Nothing here is believed: the service tells the checksum of each part that it copied, and the caller sends those that
are not what they must be.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from buildtools import BuildToolsError, Refused
from buildtools.archive.checksums import PART
from buildtools.archive.object_store.bucket import Bucket
from buildtools.archive.object_store.multipart import MultipartUpload
from buildtools.archive.object_store.server_copy import copy_range
from buildtools.archive.store import SharedRange, StoredObject
from buildtools.frozen import frozen

JOINTS = ".joints/"
_TIME = "%Y%m%dT%H%M%SZ"
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_LEAST_PART = 5 << 20
# To copy less is not worth a step.
_LEAST_RANGE = 256 << 10
# A header between two files makes three pieces, two such headers five.
_MOST_PIECES = 5


def is_left_over(key: str, older_than: datetime) -> bool:
    """Whether a key is that of a joint which was made before ``older_than``."""
    try:
        birth = datetime.strptime(key.removeprefix(JOINTS).partition("-")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return False
    return key.startswith(JOINTS) and birth < older_than


@frozen
class _Piece:
    """``size`` bytes of a part from ``start``; the old object has them from ``source``, where that is not None."""

    start: int
    size: int
    source: int | None


def _can_be_copied(pieces: Sequence[_Piece]) -> bool:
    """Whether a part of these pieces is copied, with joints if there are several."""
    unknown = sum(piece.size for piece in pieces if piece.source is None)
    return len(pieces) <= _MOST_PIECES and 2 * unknown <= sum(piece.size for piece in pieces)


def _pieces(ranges: Sequence[SharedRange], start: int, size: int) -> Iterator[_Piece]:
    position, end = start, start + size
    for common in ranges:
        first, last = max(common.start, start), min(common.start + common.size, end)
        if last - first < _LEAST_RANGE and last - first < size:
            continue
        if first > position:
            yield _Piece(position - start, first - position, None)
        yield _Piece(first - start, last - first, common.source + first - common.start)
        position = last
    if position < end:
        yield _Piece(position - start, end - position, None)


class PartCopier:
    """Copies parts out of ``source``, which has ``ranges`` of what is uploaded. Safe to share between threads.

    ``size`` is that of what is uploaded; ``conditions`` are those that objects of this bucket are created on.
    """

    def __init__(
        self,
        bucket: Bucket,
        source: StoredObject,
        ranges: Iterable[SharedRange],
        size: int,
        conditions: Mapping[str, Any],
    ) -> None:
        self._bucket = bucket
        self._source = source
        self._conditions = conditions
        self._copy_range = partial(copy_range, bucket, bucket)
        common = tuple(ranges)
        self._parts = {start: list(_pieces(common, start, min(PART, size - start))) for start in range(0, size, PART)}
        count = sum(map(_can_be_copied, self._parts.values()))
        self._may_delete = False
        self._may_join = source.size >= _LEAST_PART and 2 * count >= len(self._parts)

    def copy(self, part: bytes, start: int, target: Mapping[str, Any]) -> dict[str, Any] | None:
        """Copy the part whose bytes begin at ``start`` of the archive, and return what the service says of it.

        None if too little of it is in the old object, or copying takes a right that is not granted.

        :raises BuildToolsError: if the service does not copy, or the old object is not what it was.
        """
        pieces = self._parts[start]
        if len(pieces) == 1:
            return None if pieces[0].source is None else self._copy_piece(pieces[0], target)
        if not (self._may_join and _can_be_copied(pieces)):
            return None
        return self._copy_joined(part, pieces, target)

    def _copy_piece(self, piece: _Piece, target: Mapping[str, Any]) -> dict[str, Any]:
        source = piece.source or 0
        return self._copy_range(self._source, source, source + piece.size, target)

    def _copy_joined(self, part: bytes, pieces: list[_Piece], target: Mapping[str, Any]) -> dict[str, Any] | None:
        prefix = f"{JOINTS}{datetime.now(UTC).strftime(_TIME)}-{secrets.token_hex(8)}"
        try:
            # Nothing is there yet. Who may not delete must not leave anything to delete either.
            if not self._may_delete:
                self._bucket.ask("delete_object", f"{prefix}-0")
                self._may_delete = True
        except Refused:
            self._may_join = False
            return None
        keys: list[str] = []
        try:
            joint, rest = self._source, pieces
            # The first joint begins with what ends where the first piece does; else with anything.
            begin, end = 0, _LEAST_PART
            if pieces[0].source is not None and pieces[0].source + pieces[0].size >= _LEAST_PART:
                end = pieces[0].source + pieces[0].size
                begin, rest = end - max(_LEAST_PART, pieces[0].size), pieces[1:]
            while rest:
                # What is no last part must have the least size of a part.
                count = next((n for n, piece in enumerate(rest, 1) if piece.size < _LEAST_PART), len(rest))
                keys.append(f"{prefix}-{len(keys)}")
                joint = self._join(keys[-1], joint, (begin, end), part, rest[:count])
                begin, end, rest = 0, joint.size, rest[count:]
            return self._copy_range(joint, joint.size - len(part), joint.size, target)
        finally:
            for key in keys:
                with suppress(BuildToolsError):
                    self._bucket.ask("delete_object", key)

    def _join(
        self, key: str, source: StoredObject, bounds: tuple[int, int], part: bytes, pieces: list[_Piece]
    ) -> StoredObject:
        """A new object: a range of ``source``, then pieces of ``part``, of which only the last may be short."""
        with MultipartUpload(self._bucket, key, {}) as upload:
            etags = [self._copy_range(source, *bounds, {**upload.target, "PartNumber": 1})["ETag"]]
            for number, piece in enumerate(pieces, 2):
                place = {**upload.target, "PartNumber": number}
                if piece.source is None:
                    body = part[piece.start : piece.start + piece.size]
                    etags.append(self._bucket.ask("upload_part", requires=("ETag",), Body=body, **place)["ETag"])
                else:
                    etags.append(self._copy_piece(piece, place)["ETag"])
            listing = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
            response = upload.complete(listing, self._conditions)
        size = bounds[1] - bounds[0] + sum(piece.size for piece in pieces)
        return StoredObject(key, size, response["ETag"])
