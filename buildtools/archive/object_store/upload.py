"""Upload one object in parts of equal size, several in flight while the next is being read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from buildtools import BuildToolsError
from buildtools.archive.checksums import PART, Checksums, PartWriter
from buildtools.archive.object_store.bucket import Bucket, checksum_algorithm
from buildtools.archive.object_store.multipart import EXISTS_OR_LOST, MultipartUpload
from buildtools.archive.object_store.part_copier import PartCopier
from buildtools.archive.object_store.refusals import COLLISION, EXISTS, code

# Four parts of 16 MiB saturate 1 Gbit/s at 500 ms each; more would only take memory.
_IN_FLIGHT = 4


class Upload:
    """One object that appears only when complete, and only if there was none; a sink and a context manager.

    Content of one part is one PUT, larger content a multipart upload, which is aborted if anything raises.
    ``attributes`` are the parameters to create the object with, ``conditions`` those that must hold for it to appear.
    ``arrived`` is called with the number of bytes that the service has. Parts that ``copier`` has are not sent.
    """

    def __init__(
        self,
        bucket: Bucket,
        key: str,
        attributes: dict[str, Any],
        conditions: dict[str, Any],
        *,
        checksums: bool,
        arrived: Callable[[int], None],
        copier: PartCopier | None = None,
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._attributes = {**attributes, **checksum_algorithm(checksums=checksums)}
        self._conditions = conditions
        self._checksums = checksums
        self._arrived = arrived
        self._copier = copier
        self._arrived_size = 0
        self._open = ExitStack()
        self._upload: MultipartUpload | None = None
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, "upload")
        self._pending: deque[Future[dict[str, Any]]] = deque()
        self._part_list: list[dict[str, Any]] = []
        self._only_part = b""
        self._is_closing = False
        self._parts = PartWriter(self._part_ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._open.close()

    def write(self, data: bytes, /) -> None:
        """Write all of ``data``."""
        self._parts.write(data)

    def send_rest(self, checksums: Checksums) -> None:
        """Send what is left of the content, and wait until all of it is there. Nothing may be written afterwards.

        :raises BuildToolsError: if what was written does not match ``checksums``.
        """
        self._is_closing = True
        self._parts.close()
        if (self._parts.size, self._parts.composite) != (checksums.size, checksums.composite):
            raise BuildToolsError(
                f"{self._bucket.location(self._key)} was not uploaded: the archive changed after it was packed",
                "run again, with nothing else writing to it",
            )
        while self._pending:
            self._collect()

    def complete(self) -> bool:
        """Make the object appear, after :meth:`send_rest`; returns False if it already exists."""
        if self._upload is None:
            return self._put(self._only_part)
        return not code(self._upload.complete(self._part_list, self._conditions, EXISTS_OR_LOST))

    def _put(self, part: bytes) -> bool:
        response = self._bucket.ask(
            "put_object",
            self._key,
            tolerates={*EXISTS, COLLISION, "NoSuchKey"},
            requires=("ETag",),
            Body=part,
            **self._checksum(1),
            **self._attributes,
            **self._conditions,
        )
        self._arrived(len(part))
        return not code(response)

    def _part_ended(self, part: bytes, number: int) -> None:
        if self._is_closing and number == 1:
            self._only_part = part
            return
        if self._upload is None:
            upload = MultipartUpload(self._bucket, self._key, self._attributes)
            self._upload = self._open.enter_context(upload)
        if len(self._pending) == _IN_FLIGHT:
            self._collect()
        target = {**self._upload.target, "PartNumber": number}
        self._pending.append(self._pool.submit(self._send, part, number, target))

    def _send(self, part: bytes, number: int, target: Mapping[str, Any]) -> dict[str, Any]:
        checksum = self._checksum(number)
        response = self._copied(part, number, target) or self._bucket.ask(
            "upload_part", requires=("ETag",), Body=part, **target, **checksum
        )
        return {"PartNumber": number, "ETag": response["ETag"], "size": len(part), **checksum}

    def _copied(self, part: bytes, number: int, target: Mapping[str, Any]) -> dict[str, Any] | None:
        """The service's answer about a part that it copied, and that is what it must be."""
        copier = self._copier
        if copier is None:
            return None
        try:
            response = copier.copy(part, (number - 1) * PART, target)
        except BuildToolsError:
            # Not every service copies, and the object may be gone. What is sent needs neither.
            self._copier = None
            return None
        agrees = response and response.get("ChecksumSHA256") == self._parts.part_checksum(number)
        return response if agrees else None

    def _collect(self) -> None:
        part = self._pending.popleft().result()
        self._arrived_size += part.pop("size")
        self._part_list.append(part)
        self._arrived(self._arrived_size)

    def _checksum(self, number: int) -> dict[str, Any]:
        return {"ChecksumSHA256": self._parts.part_checksum(number)} if self._checksums else {}
