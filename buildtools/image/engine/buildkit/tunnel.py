"""A connection inside a call: the bytes of a session as messages of ``moby.buildkit.v1.Control/Session``.

Engines since 29.2 (API 1.53) speak gRPC on their API socket and will lose ``POST /session``. BuildKit's own clients
have always used this: https://github.com/moby/buildkit/blob/master/client/solve.go.
"""

from __future__ import annotations

from collections.abc import Iterable

from buildtools.image.engine.buildkit.grpc import Connection, Gone, frame_prefix
from buildtools.image.engine.buildkit.protobuf import Message, bytes_head


class Tunnel:
    """A ``ByteChannel`` through one call on ``outer``, a connection that the tunnel owns.

    ``headers`` are those of ``POST /session``.
    """

    def __init__(self, outer: Connection, headers: Iterable[tuple[str, str]]) -> None:
        self._outer = outer
        try:
            self._stream = outer.open(
                "/moby.buildkit.v1.Control/Session", [(name.lower(), value) for name, value in headers]
            )
        except Gone:
            # The reader gets an error; so does the build, which never gets its session.
            outer.close()
            raise

    def recv(self, _size: int, /) -> bytes:
        """The bytes of the next non-empty message, however many; empty at the end.

        :raises OSError: if the call failed or broke.
        """
        try:
            while (message := self._stream.receive()) is not None:
                if data := Message(message).blob(1):
                    return data
        except Gone as error:
            raise ConnectionError(str(error)) from None
        status = self._stream.status()
        if status.code:
            raise ConnectionError(status.message)
        return b""

    def sendall(self, data: bytes, /) -> None:
        """Send bytes as one message.

        :raises OSError: if the call broke.
        """
        try:
            head = bytes_head(1, len(data))
            self._stream.write(frame_prefix(len(head) + len(data)), head, data)
        except Gone as error:
            raise ConnectionError(str(error)) from None

    def shutdown(self, _how: int, /) -> None:
        """End the call, which ends reads and writes."""
        self._outer.close()

    def close(self) -> None:
        """The same as :meth:`shutdown`."""
        self._outer.close()
