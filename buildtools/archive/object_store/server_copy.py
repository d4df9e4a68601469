"""Copy one object inside a service, from bucket to bucket, without its bytes passing through this machine.

It is copied in the same parts as an upload, so that the service computes the same checksum, and created by the request
that completes an upload, which supports conditions wherever uploads do.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from buildtools.archive.checksums import PART
from buildtools.archive.object_store.bucket import Bucket, checksum_algorithm
from buildtools.archive.object_store.multipart import EXISTS_OR_LOST, MultipartUpload
from buildtools.archive.object_store.refusals import code
from buildtools.archive.store import StoredObject
from buildtools.schedule import all_ended

# A service copies a part internally; waiting for it takes no memory here.
_IN_FLIGHT = 8


def copy_range(
    bucket: Bucket, source: Bucket, stored: StoredObject, first: int, end: int, target: Mapping[str, Any]
) -> dict[str, Any]:
    """Copy the bytes from ``first`` up to ``end`` of an object in ``source`` as the part of an upload, ``target``.

    Returns the service's description of the part.

    :raises BuildToolsError: if the service cannot copy, may not read the source, or the object has changed.
    """
    answer: dict[str, Any] = bucket.ask(
        "upload_part_copy",
        requires=("CopyPartResult",),
        CopySource=source.address(stored.key),
        CopySourceIfMatch=stored.etag,
        CopySourceRange=f"bytes={first}-{end - 1}",
        **target,
    )["CopyPartResult"]
    return answer


def copy_parts(
    bucket: Bucket,
    source: Bucket,
    stored: StoredObject,
    attributes: dict[str, Any],
    conditions: dict[str, Any],
    *,
    checksums: bool,
) -> bool:
    """Create in ``bucket`` the object that ``source`` has under the same key; returns False if it already exists.

    :raises BuildToolsError: if the service cannot copy, or may not read the source; no object appears.
    """

    def copy(upload: MultipartUpload, number: int) -> dict[str, Any]:
        start = (number - 1) * PART
        target = {**upload.target, "PartNumber": number}
        answer = copy_range(bucket, source, stored, start, min(start + PART, stored.size), target)
        names = ("ETag", "ChecksumSHA256") if checksums else ("ETag",)
        return {"PartNumber": number, **{name: answer[name] for name in names if name in answer}}

    with MultipartUpload(bucket, stored.key, {**attributes, **checksum_algorithm(checksums=checksums)}) as upload:
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            parts = [pool.submit(copy, upload, number + 1) for number in range(-(-stored.size // PART))]
            all_ended(parts)
        return not code(upload.complete([part.result() for part in parts], conditions, EXISTS_OR_LOST))
