"""An object in S3 that is put together from parts; unless it is completed, its parts are discarded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from buildtools import BuildToolsError
from buildtools.archive.object_store.bucket import Bucket
from buildtools.archive.object_store.refusals import COLLISION, EXISTS, code

# The responses after which the object may already exist. A retry after a lost response finds no upload, but perhaps its
# own object.
EXISTS_OR_LOST = EXISTS | {COLLISION, "NoSuchUpload", "NoSuchKey"}


class MultipartUpload:
    """The upload of one object, begun with its ``attributes``. A context manager that aborts it unless it is complete.

    ``target`` are the parameters that name it in the request for a part.
    """

    def __init__(self, bucket: Bucket, key: str, attributes: Mapping[str, Any]) -> None:
        response = bucket.ask("create_multipart_upload", key, requires=("UploadId",), **attributes)
        self.target: Mapping[str, Any] = {"key": key, "UploadId": response["UploadId"]}
        self._bucket = bucket
        self._is_complete = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_complete:
            # Report the first error; a service that is down cannot discard the parts either.
            with suppress(BuildToolsError):
                self._bucket.ask("abort_multipart_upload", attempts=1, **self.target)

    def complete(
        self, parts: Sequence[Mapping[str, Any]], conditions: Mapping[str, Any], tolerates: Collection[str] = ()
    ) -> dict[str, Any]:
        """Make the object appear; returns the service's response, which may be an error that is in ``tolerates``."""
        response = self._bucket.ask(
            "complete_multipart_upload",
            tolerates=tolerates,
            requires=("ETag",),
            MultipartUpload={"Parts": parts},
            **self.target,
            **conditions,
        )
        self._is_complete = not code(response)
        return response
