"""Blobs of a host's content store, read by digest over BuildKit's connection.

An engine with containerd's store answers this in larger pieces than its own export, which also looks through its list
of images for each of them. https://github.com/containerd/containerd/blob/main/api/services/content/v1/content.proto
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import IO

from buildtools import BuildToolsError
from buildtools.image.engine.buildkit.control import connect_control
from buildtools.image.engine.buildkit.grpc import Connection, Gone, Status
from buildtools.image.engine.buildkit.host import BuildkitHost
from buildtools.image.engine.buildkit.protobuf import Message, int_field, string_field

_READ = "/containerd.services.content.v1.Content/Read"
# Bytes of one call, all of which may arrive before the first is used.
_CHUNK = 4 * 1024 * 1024


class NoContent(Exception):
    """The host does not have the blob, or lets nobody read its store."""


class ContentStore:
    """The content store of a host, connected on first use. Thread-safe."""

    def __init__(self, host: BuildkitHost) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._documents: dict[str, bytes] = {}

    def close(self) -> None:
        """End the connection."""
        if self._connection:
            self._connection.close()

    def document(self, digest: str) -> bytes:
        """A manifest or a configuration, which is kept in memory.

        :raises NoContent: if it is not there.
        """
        if digest not in self._documents:
            self._documents[digest] = b"".join(self._read(digest, 0, 0))
        return self._documents[digest]

    def open(self, digest: str, size: int) -> IO[bytes]:
        """A stream of a blob of ``size`` bytes. Its methods raise :class:`NoContent` if the blob is not there."""
        chunks = (
            data for offset in range(0, size, _CHUNK) for data in self._read(digest, offset, min(_CHUNK, size - offset))
        )
        return io.BufferedReader(_Chunks(chunks))

    def _read(self, digest: str, offset: int, size: int) -> Iterator[bytes]:
        """A part of a blob; all of it if ``size`` is 0."""
        request = string_field(1, digest) + int_field(2, offset) + int_field(3, size)
        try:
            for message in self._connected().call(_READ, request):
                yield Message(message).blob(2)
        except (BuildToolsError, Status, Gone, ValueError) as error:
            raise NoContent(str(error)) from None

    def _connected(self) -> Connection:
        with self._lock:
            self._connection = self._connection or connect_control(self._host)
            return self._connection


class _Chunks(io.RawIOBase):
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            data = next(self._chunks, None)
            if data is None:
                return 0
            self._rest = memoryview(data)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
