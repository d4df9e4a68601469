"""gRPC over HTTP/2 on one socket, in either role, with threads: one reads, one writes, and one for each call.

The reader never waits for the writer; otherwise two sides that both have much to send would deadlock.
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import queue
import socket
import struct
import threading
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from buildtools.image.engine.buildkit.http2 import DataReceived, FrameEvent, HeadersReceived, Http2, NotHttp2
from buildtools.request_log import Stopwatch

# https://grpc.io/docs/guides/status-codes/
OK, UNKNOWN, NOT_FOUND, UNIMPLEMENTED = 0, 2, 5, 12

# How many bytes may be in flight towards us. All of it is wanted at once, so this should never block a sender.
_WINDOW = 16 * 1024 * 1024
# A .dockerignore of thousands of lines arrives as one header each; gRPC in Go accepts as much.
_HEADERS = 16 * 1024 * 1024
# How much is prepared while as much is being written. This sends small messages together.
_BATCH = 256 * 1024
# Four of the largest frames; a Unix socket returns little more at once.
_READ = 64 * 1024
# How many seconds a call's thread gets to notice that the connection has ended. One that lists a large folder notices
# late, and must not delay Ctrl-C.
_CALL_ENDS = 0.5


class Gone(Exception):
    """The other side ended the stream or the connection before the call was over."""


class NotGrpc(Gone):
    """The other side does not speak gRPC at all."""


class Status(Exception):
    """A call ended with a status other than OK. ``details`` is an encoded ``google.rpc.Status``, or empty."""

    def __init__(self, code: int, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class Stream:
    """One call. ``metadata`` is what its caller sent, each key with all its values."""

    def __init__(self, connection: Connection, number: int, metadata: Mapping[str, list[str]]) -> None:
        self.number = number
        self.metadata = metadata
        self.outcome: dict[str, str] = {}
        self.answered = False
        self.end_reason: Gone | None = None
        self._connection = connection
        self._inbox: queue.SimpleQueue[bytes | Gone | None] = queue.SimpleQueue()
        self._partial = bytearray()

    def receive(self) -> bytes | None:
        """Wait for the next message; None if the other side has finished sending.

        :raises Gone: if the stream or the connection broke.
        """
        message = self._inbox.get()
        if isinstance(message, Gone):
            raise message
        return message

    def waits(self) -> bool:
        """Whether :meth:`receive` would have to wait."""
        return self._inbox.empty()

    def send(self, message: bytes) -> None:
        """Send one message, waiting until the other side has room for it.

        :raises Gone: if the stream or the connection broke.
        """
        self.write(frame_prefix(len(message)), message)

    def write(self, *parts: bytes) -> None:
        """Send bytes that are already :func:`framed`, split in any way; more at once means fewer frames.

        :raises Gone: if the stream or the connection broke.
        """
        self._connection.write(self, *parts)

    def take(self, data: memoryview) -> None:
        """Accept incoming bytes; called by the connection."""
        buffer = self._partial
        buffer += data
        at = 0
        while len(buffer) - at >= 5:
            end = at + 5 + int.from_bytes(buffer[at + 1 : at + 5])
            if len(buffer) < end:
                break
            self._inbox.put(bytes(buffer[at + 5 : end]))
            at = end
        del buffer[:at]

    def status(self) -> Status:
        """How the other side ended the call; UNKNOWN if it sent no gRPC status."""
        code = self.outcome.get("grpc-status", "")
        message = urllib.parse.unquote(self.outcome.get("grpc-message", ""))
        if not (code.isascii() and code.isdigit()):
            http_status = self.outcome.get(":status", "")
            code, message = str(UNKNOWN), f"the answer has no gRPC status (HTTP status {http_status or 'missing'})"
        return Status(int(code), message, _base64(self.outcome.get("grpc-status-details-bin", "")))

    def end(self, end_reason: Gone | None = None) -> None:
        """Record that nothing more will arrive; called by the connection."""
        self.end_reason = self.end_reason or end_reason
        self._inbox.put(end_reason)


def framed(message: bytes) -> bytes:
    """A message with gRPC's five-byte prefix."""
    return frame_prefix(len(message)) + message


def frame_prefix(size: int) -> bytes:
    """The prefix of a message of ``size`` bytes."""
    return struct.pack(">BI", 0, size)


Handler = Callable[[Stream], None]


class ByteChannel(Protocol):
    """What a connection is built on: the parts of a socket that it uses.

    One thread reads and one writes. ``shutdown`` makes both return or raise, whatever they are doing; after it, and
    after ``close``, both may be called again.
    """

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class Connection:
    """One HTTP/2 connection. With ``handlers``, by path, we are the server; without them, the client.

    A handler runs in its own thread and raises :class:`Status` to fail the call. ``failure`` keeps the first exception
    of any other kind, for the caller that waits for the overall result. ``received`` are the bytes that were already
    read when the socket was upgraded.
    """

    def __init__(
        self, channel: ByteChannel, received: bytes = b"", handlers: Mapping[str, Handler] | None = None
    ) -> None:
        self.failure: Exception | None = None
        self._channel = channel
        self._handlers = handlers
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._unwritten = threading.Condition(self._lock)
        self._batch = 0
        self._streams: dict[int, Stream] = {}
        self._threads: set[threading.Thread] = set()
        self._end_reason: Gone | None = None
        self._http = Http2(is_client=handlers is None, window=_WINDOW, largest_headers=_HEADERS)
        self._loops = [
            threading.Thread(target=self._read, args=(received,), name="buildkit-read", daemon=True),
            threading.Thread(target=self._write, name="buildkit-write", daemon=True),
        ]
        for thread in self._loops:
            thread.start()

    def call(self, path: str, message: bytes) -> Iterator[bytes]:
        """The responses to a call with one message, as they arrive.

        :raises Status: if the call failed.
        :raises Gone: if the connection broke.
        """
        stopwatch = Stopwatch()
        stream = self.open(path)
        stream.send(message)
        with self._changing():
            self._http.end(stream.number)
        return self._answers(stream, path, len(message), stopwatch)

    def open(self, path: str, metadata: Iterable[tuple[str, str]] = ()) -> Stream:
        """Start a call on which both sides may send any number of messages. ``metadata`` has names in lower case.

        :raises Gone: if the connection broke.
        """
        with self._changing():
            stream = Stream(self, self._http.open(), {})
            stream.answered = True
            self._streams[stream.number] = stream
            self._http.send_headers(
                stream.number,
                [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", path),
                    (":authority", "localhost"),
                    ("te", "trailers"),
                    ("content-type", "application/grpc"),
                    *metadata,
                ],
            )
        return stream

    def write(self, stream: Stream, *parts: bytes) -> None:
        """Send framed bytes on a stream; see :meth:`Stream.write`."""
        left = deque(memoryview(part) for part in parts)
        with self._changing():
            self._answer(stream)
            while left:
                end_reason = stream.end_reason or self._end_reason
                if end_reason:
                    raise end_reason
                room = self._http.room(stream.number)
                if room <= 0 or self._batch >= _BATCH:
                    self._unwritten.notify()
                    self._room.wait()
                    continue
                self._batch += self._http.send_data(stream.number, *_front(left, room))

    def close(self) -> None:
        """End the connection and every call on it, and wait for their threads, but not for long."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        for thread in self._loops:
            thread.join()
        with self._lock:
            calls = tuple(self._threads)
        for thread in calls:
            # A thread that lists a large folder notices only when it sends next.
            thread.join(_CALL_ENDS)
        self._channel.close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock for a change, and wake the writer afterwards."""
        with self._lock:
            if self._end_reason:
                raise self._end_reason
            try:
                yield
            finally:
                self._unwritten.notify()

    def _answer(self, stream: Stream) -> None:
        if not stream.answered:
            stream.answered = True
            self._http.send_headers(stream.number, [(":status", "200"), ("content-type", "application/grpc")])

    def _answers(self, stream: Stream, path: str, sent: int, stopwatch: Stopwatch) -> Iterator[bytes]:
        size = 0
        while (message := stream.receive()) is not None:
            size += len(message)
            yield message
        status = stream.status()
        stopwatch.log("buildkit", "CALL", path, status.code, sent=sent, received=size)
        if status.code != OK:
            raise status

    def _read(self, data: bytes) -> None:
        end_reason = Gone("the connection was closed from there")
        try:
            while True:
                with self._lock:
                    for event in self._http.take_in(data):
                        self._handle(event)
                    if self._http.has_output:
                        self._unwritten.notify()
                    self._room.notify_all()
                data = self._channel.recv(_READ)
                if not data:
                    break
        except NotHttp2 as error:
            end_reason = NotGrpc(str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, nobody may wait forever
            end_reason = Gone(str(error))
        with self._lock:
            self._end_reason = end_reason
            for stream in self._streams.values():
                stream.end(end_reason)
            self._unwritten.notify()
            self._room.notify_all()

    def _write(self) -> None:
        while True:
            with self._lock:
                while not (data := self._http.take_out()) and not self._end_reason:
                    self._unwritten.wait()
                self._batch = 0
                self._room.notify_all()
            if not data:
                return
            try:
                self._channel.sendall(data)
            except OSError:
                # Whatever the reason, it must also end the reader.
                with contextlib.suppress(OSError):
                    self._channel.shutdown(socket.SHUT_RDWR)
                return

    def _handle(self, event: FrameEvent) -> None:
        stream = self._streams.get(event.stream)
        if stream is None:
            if isinstance(event, HeadersReceived) and self._handlers is not None:
                self._begin(event)
        elif isinstance(event, DataReceived):
            stream.take(event.data)
        elif isinstance(event, HeadersReceived):
            stream.outcome.update((_header(key), _header(value)) for key, value in event.fields)
        else:
            stream.end(None if event.code is None else Gone(f"the call was broken off from there (code {event.code})"))

    def _begin(self, event: HeadersReceived) -> None:
        metadata: dict[str, list[str]] = {}
        for key, value in event.fields:
            metadata.setdefault(_header(key), []).append(_header(value))
        self._streams[event.stream] = stream = Stream(self, event.stream, metadata)
        thread = threading.Thread(target=self._serve, args=(stream,), name="buildkit", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _serve(self, stream: Stream) -> None:
        path = stream.metadata.get(":path", [""])[0]
        handler = (self._handlers or {}).get(path)
        stopwatch = Stopwatch()
        code, message = OK, ""
        try:
            if handler is None:
                raise Status(UNIMPLEMENTED, f"{path} is not served here")
            handler(stream)
        except Status as error:
            code, message = error.code, error.message
        except Gone:
            pass
        except Exception as error:  # noqa: BLE001  it is raised where the result is awaited
            self.failure = self.failure or error
            code, message = UNKNOWN, str(error)
        stopwatch.log("buildkit", "SERVE", path, code)
        trailers = [("grpc-status", str(code))]
        if message:
            trailers.append(("grpc-message", urllib.parse.quote(message, safe=" !#$&'()*+,/:;=?@[]")))
        with contextlib.suppress(Gone), self._changing():
            if not stream.end_reason:
                self._answer(stream)
                self._http.send_headers(stream.number, trailers, end=True)
        with self._lock:
            self._http.forget(stream.number)
            self._streams.pop(stream.number, None)
            self._threads.discard(threading.current_thread())


def _front(parts: deque[memoryview], size: int) -> Iterator[memoryview]:
    """Take at most so many bytes off the front."""
    while parts and size:
        part = parts.popleft()
        if len(part) > size:
            parts.appendleft(part[size:])
            part = part[:size]
        size -= len(part)
        yield part


def _header(value: bytes) -> str:
    # File names are sent as header values; like the file system, Go does not require UTF-8.
    return value.decode("utf-8", "surrogateescape")


def _base64(value: str) -> bytes:
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4))
    except binascii.Error:
        return b""
