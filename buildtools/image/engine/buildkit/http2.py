"""The frames of HTTP/2: https://www.rfc-editor.org/rfc/rfc9113.

The shape. :class:`Http2` is one side of one connection as a state machine without I/O: received bytes go into
``take_in``, which yields events; calls such as ``send_data`` queue frames that ``take_out`` returns. ``grpc`` owns the
socket and decides which thread reads it. Both roles exist: we are the client of the engine's ``Control`` service and
the server of the services that it calls in our session.

The connection. A client sends the preface, then both sides send SETTINGS as their first frame (section 3.4). A peer
that sends anything else does not speak HTTP/2. That has its own exception (:class:`NotHttp2`), which distinguishes
another kind of server from an engine, or a proxy before it, that breaks a rule.

A stream is one call. Its frames come in the order HEADERS, DATA, HEADERS (trailers), with END_STREAM on the last of
each side. Numbers of a client's streams are odd and grow (section 5.1.1). A block of headers may be split into HEADERS
and CONTINUATION frames, with no other frame in between (section 4.3), so it is collected in ``_block`` and decoded as a
whole. HPACK's table (RFC 7541) is a state of the connection, so every block must be decoded in order, even one of a
stream that is no longer needed.

Flow control (sections 5.2 and 6.9) counts bytes of DATA twice, for the stream and for the connection, in both
directions:

* Towards the other side, ``room(stream)`` is what may be sent: the lesser of the two counters. Both shrink with each
  DATA frame and grow with WINDOW_UPDATE. SETTINGS_INITIAL_WINDOW_SIZE changes the counters of open streams too, by the
  difference, and may make them negative (section 6.9.2).
* Towards us, ``window`` is granted once for both, and everything is consumed at once. Consumed bytes are reported when
  they reach half a window, so that a sender never waits and few frames are needed. Padding counts.

What is left out, because both sides want the whole of every stream: priorities (received ones are ignored) and pushes
(declined in SETTINGS, so one that arrives is an error). Frames of unknown types are ignored, as section 4.1 demands.
Everything malformed raises :class:`Broken`; there is nothing to recover, because a build has one connection.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

from hpack import Decoder, Encoder, HPACKError

from buildtools.frozen import frozen

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Section 4.1: the length in 8 and 16 bits, type, flags, stream.
_HEAD = struct.Struct(">BHBBI")
# Frames of WINDOW_UPDATE, section 6.9. A server of Go sends two of them for every few kB that it has read.
_UPDATE = struct.Struct(">5xII")
_UPDATES = re.compile(rb"(?:\x00\x00\x04\x08.{9})+", re.DOTALL)
_DATA, _HEADERS, _, _RESET, _SETTINGS, _PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = range(10)
_OF_A_STREAM = (_DATA, _HEADERS, _RESET, _PROMISE, _CONTINUATION)
_OF_ALL = (_SETTINGS, _PING, _GOAWAY)
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_WITH_PRIORITY = 0x20
_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW, _LARGEST_FRAME, _LARGEST_HEADERS = 1, 2, 4, 5, 6
# Section 6.5.2: the initial values. We never ask for larger frames.
_FIRST_WINDOW = 65_535
_LARGEST = 16_384
_STREAM = 0x7FFF_FFFF

HeaderFields = Sequence[tuple[str, str]]


class Broken(Exception):
    """The other side violated HTTP/2, or ended the connection with an error."""


class NotHttp2(Broken):
    """The other side does not speak HTTP/2: section 3.4 requires its preface first, which ends with SETTINGS."""


@frozen
class HeadersReceived:
    """Headers, or trailers after the content."""

    stream: int
    fields: list[tuple[bytes, bytes]]


@frozen
class DataReceived:
    """Part of a stream's content."""

    stream: int
    data: memoryview


@frozen
class StreamEnded:
    """Nothing more comes on a stream. ``code`` is an error code of section 7 if it was reset, else None."""

    stream: int
    code: int | None = None


FrameEvent = HeadersReceived | DataReceived | StreamEnded


class Http2:
    """The state of one connection, without the connection itself: bytes go in and out. Not thread-safe.

    ``window`` is how many bytes may be in flight towards us, on each stream and in total; ``largest_headers`` is how
    many bytes of headers a message may have.
    """

    def __init__(self, *, is_client: bool, window: int, largest_headers: int) -> None:
        self.largest_frame = _LARGEST
        self._window = window
        self._largest_headers = largest_headers
        self._preface = b"" if is_client else _PREFACE
        self._has_settings = False
        self._next = 1
        self._in = b""
        self._out: list[bytes | memoryview] = [_PREFACE] if is_client else []
        self._encoder = Encoder()
        self._decoder = Decoder(max_header_list_size=largest_headers)
        # Incomplete headers: their stream, flags and parts.
        self._block: tuple[int, int, list[memoryview]] | None = None
        self._first_room = _FIRST_WINDOW
        self._room = _FIRST_WINDOW
        self._rooms: dict[int, int] = {}
        self._unreported: dict[int, int] = {}
        settings = [(_INITIAL_WINDOW, window), (_LARGEST_HEADERS, largest_headers)]
        if is_client:
            settings.append((_ENABLE_PUSH, 0))
        self._add(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings))
        self._add(_WINDOW_UPDATE, 0, 0, (window - _FIRST_WINDOW).to_bytes(4))

    @property
    def has_output(self) -> bool:
        """Whether there are bytes to write."""
        return bool(self._out)

    def take_out(self) -> bytes:
        """The bytes to write next; empty if there are none."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def open(self) -> int:
        """A new stream of a client."""
        number, self._next = self._next, self._next + 2
        self._rooms[number] = self._first_room
        return number

    def forget(self, stream: int) -> None:
        """Forget a stream on which nothing more is sent."""
        self._rooms.pop(stream, None)
        self._unreported.pop(stream, None)

    def room(self, stream: int) -> int:
        """How many bytes of content may be sent now; it may be negative."""
        return min(self._room, self._rooms.get(stream, 0))

    def send_headers(self, stream: int, fields: HeaderFields, *, end: bool = False) -> None:
        """Send headers; with ``end`` they are the last frame of the stream."""
        block = memoryview(self._encoder.encode(fields))
        cut = [block[at : at + self.largest_frame] for at in range(0, len(block), self.largest_frame)]
        flags = _END_STREAM if end else 0
        for number, part in enumerate(cut, 1):
            last = _END_HEADERS if number == len(cut) else 0
            self._add(_HEADERS if number == 1 else _CONTINUATION, flags | last, stream, part)
            flags = 0

    def send_data(self, stream: int, *parts: memoryview) -> int:
        """Send content, for which there must be room; how many bytes it has."""
        size = left = sum(map(len, parts))
        frame = 0
        for part in parts:
            at = 0
            while at < len(part):
                if not frame:
                    frame = min(self.largest_frame, left)
                    self._begin(_DATA, 0, stream, frame)
                piece = part[at : at + frame]
                self._out.append(piece)
                at += len(piece)
                frame -= len(piece)
                left -= len(piece)
        self._room -= size
        self._rooms[stream] -= size
        return size

    def end(self, stream: int) -> None:
        """End our side of a stream."""
        self._add(_DATA, _END_STREAM, stream, b"")

    def take_in(self, data: bytes) -> Iterator[FrameEvent]:
        """The events in received bytes.

        :raises Broken: if they are not valid HTTP/2.
        """
        data = self._in + data if self._in else data
        at = 0
        if self._preface:
            if len(data) < len(self._preface) and self._preface.startswith(data):
                self._in = data
                return
            if not data.startswith(self._preface):
                raise NotHttp2("what came is not HTTP/2")
            at, self._preface = len(self._preface), b""
        view = memoryview(data)
        while len(data) - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            size = high << 16 | low
            if not self._has_settings and (kind, flags & _ACK, stream) != (_SETTINGS, 0, 0):
                raise NotHttp2("what came is not HTTP/2")
            self._has_settings = True
            if size > _LARGEST:
                raise Broken(f"a frame of {size} bytes came, which is more than was agreed")
            if len(data) - at < _HEAD.size + size:
                break
            if kind == _WINDOW_UPDATE and not self._block and (updates := _UPDATES.match(data, at)):
                for which, more in _UPDATE.iter_unpack(updates[0]):
                    self._grow(which & _STREAM, more & _STREAM)
                at = updates.end()
                continue
            at += _HEAD.size + size
            yield from self._frame(kind, flags, stream & _STREAM, view[at - size : at])
        self._in = data[at:]

    def _add(self, kind: int, flags: int, stream: int, content: bytes | memoryview) -> None:
        self._begin(kind, flags, stream, len(content))
        self._out.append(content)

    def _begin(self, kind: int, flags: int, stream: int, size: int) -> None:
        self._out.append(_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream))

    def _frame(self, kind: int, flags: int, stream: int, content: memoryview) -> Iterator[FrameEvent]:
        if self._block and (kind != _CONTINUATION or stream != self._block[0]):
            raise Broken("a header was not ended")
        if kind in (_OF_ALL if stream else _OF_A_STREAM):
            raise Broken(f"a frame of type {kind} came on stream {stream}")
        try:
            if kind == _DATA:
                yield from self._content(flags, stream, content)
            elif kind in (_HEADERS, _CONTINUATION):
                yield from self._header(kind, flags, stream, content)
            elif kind == _RESET:
                yield StreamEnded(stream, *struct.unpack(">I", content))
            elif kind == _PROMISE:
                raise Broken("a push came, which was declined")
            else:
                self._govern(kind, flags, stream, content)
        except (struct.error, IndexError, HPACKError) as error:
            raise Broken(f"a frame of type {kind} cannot be read ({error})") from None

    def _content(self, flags: int, stream: int, content: memoryview) -> Iterator[FrameEvent]:
        # Padding counts too. Consumed bytes are reported once they are worth a frame: sections 5.2 and 6.9.
        for which in (0, stream):
            size = self._unreported.get(which, 0) + len(content)
            if size >= self._window // 2:
                self._add(_WINDOW_UPDATE, 0, which, size.to_bytes(4))
                size = 0
            self._unreported[which] = size
        if data := _without_padding(flags, content):
            yield DataReceived(stream, data)
        if flags & _END_STREAM:
            yield StreamEnded(stream)

    def _header(self, kind: int, flags: int, stream: int, content: memoryview) -> Iterator[FrameEvent]:
        if kind == _HEADERS:
            content = _without_padding(flags, content)
            self._block = stream, flags, [content[5:] if flags & _WITH_PRIORITY else content]
        elif self._block is None:
            raise Broken("a header went on that had not begun")
        else:
            self._block[2].append(content)
        _, first_flags, parts = self._block
        if sum(map(len, parts)) > self._largest_headers:
            raise Broken(f"a header of more than {self._largest_headers} bytes came")
        if not flags & _END_HEADERS:
            return
        self._block = None
        self._rooms.setdefault(stream, self._first_room)
        fields = self._decoder.decode(b"".join(parts), raw=True)
        yield HeadersReceived(stream, [(bytes(name), bytes(value)) for name, value in fields])
        if first_flags & _END_STREAM:
            yield StreamEnded(stream)

    def _govern(self, kind: int, flags: int, stream: int, content: memoryview) -> None:
        """Handle frames about the connection. Unknown types are ignored: section 4.1."""
        if kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", content):
                self._set(name, value)
            self._add(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._add(_PING, _ACK, 0, content)
        elif kind == _WINDOW_UPDATE:
            self._grow(stream, struct.unpack(">I", content)[0] & _STREAM)
        elif kind == _GOAWAY:
            _, code = struct.unpack_from(">II", content)
            # Without an error it only announces the end, which follows when all streams have ended: section 6.8.
            if code:
                debug_data = bytes(content[8:]).decode(errors="replace")
                raise Broken(f"the engine ended the connection with code {code}{debug_data and f' ({debug_data})'}")

    def _grow(self, stream: int, more: int) -> None:
        if stream == 0:
            self._room += more
        elif stream in self._rooms:
            self._rooms[stream] += more

    def _set(self, name: int, value: int) -> None:
        if name == _TABLE_SIZE:
            self._encoder.header_table_size = value
        elif name == _LARGEST_FRAME:
            if value < _LARGEST:
                raise Broken(f"frames of {value} bytes are wanted, which is less than there may be")
            self.largest_frame = value
        elif name == _INITIAL_WINDOW:
            # Section 6.9.2: it applies to existing streams too, whose room may become negative.
            for stream in self._rooms:
                self._rooms[stream] += value - self._first_room
            self._first_room = value


def _without_padding(flags: int, content: memoryview) -> memoryview:
    if not flags & _PADDED:
        return content
    end = len(content) - content[0]
    if end < 1:
        raise Broken("there is more padding than frame")
    return content[1:end]
