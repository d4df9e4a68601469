"""What is written goes up to S3 while more is being written: hashed once, in parts of one size, several in flight."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

# Parts always end at the same bytes, so equal contents have equal checksums of parts.
PART = 16 << 20
_IN_FLIGHT = 4


class Summed:
    """A sink that knows what was written: ``size`` in bytes, ``sha256`` in hex, and S3's ``checksum``.

    The checksum is the SHA-256 in base64 for contents of one part, else S3's composite: the SHA-256 of the parts'
    SHA-256, with ``-N`` for N parts.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """

    def __init__(self) -> None:
        self.size = 0
        self._whole = hashlib.sha256()
        self._part = bytearray()
        self._sums: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        """Takes all of ``data``."""
        rest = memoryview(data)
        while rest:
            if len(self._part) == PART:
                self._end_part()
            taken = rest[: PART - len(self._part)]
            self._part += taken
            rest = rest[len(taken) :]
        self._whole.update(data)
        self.size += len(data)

    def end(self) -> None:
        """Closes the last part; nothing may be written after."""
        self._end_part()

    @property
    def sha256(self) -> str:
        """Of all that was written, in hex."""
        return self._whole.hexdigest()

    @property
    def checksum(self) -> str:
        """As S3 gives it for the same parts; only after the end."""
        if len(self._sums) == 1:
            return base64.b64encode(self._sums[0]).decode()
        return f"{base64.b64encode(hashlib.sha256(b''.join(self._sums)).digest()).decode()}-{len(self._sums)}"

    def _end_part(self) -> None:
        part, self._part = self._part, bytearray()
        self._sums.append(hashlib.sha256(part).digest())
        self._part_ended(part, len(self._sums))

    def _part_ended(self, part: bytearray, number: int) -> None:
        """For those who do something with each part, numbered from 1."""


class Upload(Summed):
    """One object that appears only when it is whole, and only where there was none; a context manager.

    Contents of one part are one PUT, larger ones a multipart upload, which is aborted when anything raises.
    ``client`` is botocore's; ``target`` holds ``Bucket`` and ``Key``, ``attributes`` what else the object is created
    with; ``sent`` is told the bytes that have arrived.
    """

    def __init__(
        self,
        client: Any,
        target: dict[str, str],
        attributes: dict[str, Any],
        *,
        checksums: bool,
        sent: Callable[[int], None],
    ) -> None:
        super().__init__()
        self._client = client
        self._target = target
        self._attributes = attributes
        self._checksums = checksums
        self._sent = sent
        self._arrived = 0
        self._id = ""
        self._completed = False
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, "upload")
        self._pending: deque[Future[dict[str, Any]]] = deque()
        self._parts: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._id and not self._completed:
            # The first error is the one to tell; a service that is gone cannot be asked to forget the parts either.
            with suppress(Exception):
                self._client.abort_multipart_upload(**self._target, UploadId=self._id)

    def complete(self) -> None:
        """Makes the object appear.

        :raises botocore.exceptions.ClientError: ``PreconditionFailed`` where there is one already.
        """
        if not self._sums:
            only = self._part
            self._sums.append(hashlib.sha256(only).digest())
            attributes = {**self._attributes, "Metadata": {"sha256": self.sha256}}
            self._client.put_object(**self._target, **attributes, **self._sum(1), Body=only, IfNoneMatch="*")
            self._sent(len(only))
            return
        self.end()
        while self._pending:
            self._collect()
        self._client.complete_multipart_upload(
            **self._target, UploadId=self._id, MultipartUpload={"Parts": self._parts}, IfNoneMatch="*"
        )
        self._completed = True

    def _part_ended(self, part: bytearray, number: int) -> None:
        if not self._id:
            algorithm = {"ChecksumAlgorithm": "SHA256"} if self._checksums else {}
            self._id = self._client.create_multipart_upload(**self._target, **self._attributes, **algorithm)["UploadId"]
        if len(self._pending) == _IN_FLIGHT:
            self._collect()
        self._pending.append(self._pool.submit(self._send, part, number))

    def _send(self, part: bytearray, number: int) -> dict[str, Any]:
        checksum = self._sum(number)
        answer = self._client.upload_part(**self._target, **checksum, UploadId=self._id, PartNumber=number, Body=part)
        return {"PartNumber": number, "ETag": answer["ETag"], "size": len(part), **checksum}

    def _collect(self) -> None:
        part = self._pending.popleft().result()
        self._arrived += part.pop("size")
        self._parts.append(part)
        self._sent(self._arrived)

    def _sum(self, number: int) -> dict[str, str]:
        if not self._checksums:
            return {}
        return {"ChecksumSHA256": base64.b64encode(self._sums[number - 1]).decode()}
