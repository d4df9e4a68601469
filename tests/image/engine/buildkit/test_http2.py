"""Frames, next to h2, which knows all of the protocol."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from buildtools.image.engine.buildkit.http2 import (
    Broken,
    DataReceived,
    FrameEvent,
    HeadersReceived,
    Http2,
    NotHttp2,
    StreamEnded,
)

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "b")]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
MIB = 1024 * 1024


class Pair:
    """Our side and that of h2. ``heard`` came to us and ``told`` to h2, the content of streams apart."""

    def __init__(self, *, is_client: bool) -> None:
        self.ours = Http2(is_client=is_client, window=MIB, largest_headers=MIB)
        self.theirs = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=not is_client, header_encoding="utf-8")
        )
        self.theirs.decoder.max_header_list_size = MIB
        self.theirs.initiate_connection()
        self.heard: list[FrameEvent] = []
        self.heard_content = b""
        self.told: list[h2.events.Event] = []
        self.told_content = b""
        self._unread: list[h2.events.DataReceived] = []
        self.talk()

    def talk(self) -> None:
        """Carry bytes over until nobody has more to say."""
        while True:
            ours, theirs = self.ours.take_out(), self.theirs.data_to_send()
            if not ours and not theirs:
                return
            for told in self.theirs.receive_data(ours):
                if isinstance(told, h2.events.DataReceived):
                    self.told_content += told.data
                    self._unread.append(told)
                else:
                    self.told.append(told)
            for heard in self.ours.take_in(theirs):
                if isinstance(heard, DataReceived):
                    self.heard_content += heard.data
                else:
                    self.heard.append(heard)

    def read(self) -> None:
        """Let h2 say that it has read all that came."""
        while self._unread:
            event = self._unread.pop()
            self.theirs.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.talk()

    def told_of(self, kind: type[h2.events.Event]) -> list[h2.events.Event]:
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
def calling() -> Pair:
    """Our side has called on stream 1."""
    pair = Pair(is_client=True)
    assert 1 == pair.ours.open()
    pair.ours.send_headers(1, REQUEST)
    pair.talk()
    return pair


@pytest.fixture
def called() -> Pair:
    """h2 has called on stream 1."""
    pair = Pair(is_client=False)
    pair.theirs.send_headers(1, REQUEST)
    pair.talk()
    return pair


@pytest.mark.parametrize("size", [1, 5000, 100_000])
def test_a_call_of_ours_and_its_answer_arrive_whole(size: int) -> None:
    pair = Pair(is_client=True)
    stream = pair.ours.open()
    fields = [*REQUEST, ("x-long", "l" * size)]
    pair.ours.send_headers(stream, fields)
    pair.ours.send_data(stream, memoryview(b"question"))
    pair.ours.end(stream)
    pair.talk()
    (request,) = pair.told_of(h2.events.RequestReceived)
    assert isinstance(request, h2.events.RequestReceived)
    assert fields == [(str(name), str(value)) for name, value in request.headers]
    assert (b"question", 1) == (pair.told_content, len(pair.told_of(h2.events.StreamEnded)))

    pair.theirs.send_headers(stream, [(":status", "200"), ("x-long", "l" * size)])
    pair.theirs.send_data(stream, b"answer", pad_length=7)
    pair.theirs.send_headers(stream, [("grpc-status", "0")], end_stream=True)
    pair.talk()
    assert [
        HeadersReceived(stream, [(b":status", b"200"), (b"x-long", b"l" * size)]),
        HeadersReceived(stream, [(b"grpc-status", b"0")]),
        StreamEnded(stream),
    ] == pair.heard
    assert b"answer" == pair.heard_content


def test_a_call_to_us_is_answered_with_a_trailer() -> None:
    pair = Pair(is_client=False)
    pair.theirs.send_headers(1, REQUEST, priority_weight=20, end_stream=True)
    pair.talk()
    assert [
        HeadersReceived(1, [(key.encode(), value.encode()) for key, value in REQUEST]),
        StreamEnded(1),
    ] == pair.heard
    pair.ours.send_headers(1, [(":status", "200")])
    pair.ours.send_data(1, memoryview(b"answer"))
    pair.ours.send_headers(1, [("grpc-status", "0")], end=True)
    pair.talk()
    assert b"answer" == pair.told_content
    assert 1 == len(pair.told_of(h2.events.TrailersReceived)) == len(pair.told_of(h2.events.StreamEnded))


def test_no_more_is_sent_than_the_other_side_has_room_for(calling: Pair) -> None:
    content = Random(1).randbytes(300_000)
    left = memoryview(content)
    rooms = []
    while left:
        rooms.append(calling.ours.room(1))
        calling.ours.send_data(1, left[: rooms[-1]])
        left = left[rooms[-1] :]
        calling.talk()
        assert left or 0 < calling.ours.room(1)
        calling.read()
    assert content == calling.told_content
    assert 65_535 == max(rooms)


def test_a_window_that_shrinks_under_way_leaves_no_room(calling: Pair) -> None:
    calling.ours.send_data(1, memoryview(bytes(10_000)))
    calling.theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 4000})
    calling.talk()
    assert -6000 == calling.ours.room(1)
    calling.theirs.increment_flow_control_window(7000, 1)
    calling.talk()
    assert 1000 == calling.ours.room(1)
    assert 4000 == calling.ours.room(calling.ours.open())


def test_every_growth_of_a_window_counts_also_when_many_come_at_once(calling: Pair) -> None:
    other = calling.ours.open()
    for more in (1, 20, 300):
        calling.theirs.increment_flow_control_window(more)
        calling.theirs.increment_flow_control_window(more, 1)
        calling.theirs.ping(b"01234567")
    calling.talk()
    # A stream that they do not know yet has as much as its own window lets it have.
    assert (65_535 + 321, 65_535) == (calling.ours.room(1), calling.ours.room(other))


def test_what_is_sent_in_parts_fills_frames(calling: Pair) -> None:
    calling.ours.send_data(1, memoryview(b"head"), memoryview(bytes(20_000)), memoryview(b"tail"))
    sent = calling.ours.take_out()
    sizes = []
    while sent:
        _, size = Frame.parse_frame_header(memoryview(sent[:9]))
        sizes.append(size)
        sent = sent[9 + size :]
    assert [16_384, 20_008 - 16_384] == sizes


def test_frames_are_as_large_as_the_other_side_takes_them(calling: Pair) -> None:
    calling.theirs.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: 50_000})
    calling.talk()
    calling.ours.send_data(1, memoryview(bytes(60_000)))
    frame, size = Frame.parse_frame_header(memoryview(calling.ours.take_out()[:9]))
    assert isinstance(frame, DataFrame)
    assert 50_000 == calling.ours.largest_frame == size


@pytest.mark.parametrize("pad", [None, 0, 255])
def test_a_sender_never_waits_for_who_reads_all(called: Pair, pad: int | None) -> None:
    content = Random(1).randbytes(5 * MIB)
    for at in range(0, len(content), 8000):
        called.theirs.send_data(1, content[at : at + 8000], pad_length=pad)
        called.talk()
    called.theirs.end_stream(1)
    called.talk()
    assert content == called.heard_content
    assert StreamEnded(1) == called.heard[-1]


def test_a_ping_is_answered(calling: Pair) -> None:
    calling.theirs.ping(b"01234567")
    calling.talk()
    (answer,) = calling.told_of(h2.events.PingAckReceived)
    assert isinstance(answer, h2.events.PingAckReceived)
    assert b"01234567" == answer.ping_data


def test_a_stream_that_is_broken_off_says_why(called: Pair) -> None:
    called.theirs.reset_stream(1, error_code=8)
    called.talk()
    assert StreamEnded(1, code=8) == called.heard[-1]


def test_bytes_may_come_in_any_pieces() -> None:
    theirs = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    theirs.initiate_connection()
    theirs.send_headers(1, [*REQUEST, ("x-long", "l" * 40_000)])
    theirs.send_data(1, b"content", end_stream=True)
    sent = theirs.data_to_send()

    def heard(pieces: Sequence[bytes]) -> list[FrameEvent]:
        ours = Http2(is_client=False, window=MIB, largest_headers=MIB)
        return [event for piece in pieces for event in ours.take_in(piece)]

    assert 3 == len(heard([sent]))
    assert heard([sent]) == heard([sent[at : at + 1] for at in range(len(sent))])


def header(*, end: bool = True, **fields: str) -> bytes:
    flags = ["END_HEADERS"] if end else []
    return HeadersFrame(1, Encoder().encode(list(fields.items())), flags=flags).serialize()


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "is not HTTP/2"),
        (PREFACE + DataFrame(1).serialize().replace(b"\0\0\0\1", bytes(4)), "type 0 came on stream 0"),
        (PREFACE + struct.pack(">BHBBI", 0, 8, 6, 0, 1) + bytes(8), "type 6 came on stream 1"),
        (PREFACE + struct.pack(">BHBBI", 1, 0, 0, 0, 1), "a frame of 65536 bytes"),
        (PREFACE + header(a="b", end=False) + PingFrame(0).serialize(), "a header was not ended"),
        (PREFACE + ContinuationFrame(1, b"").serialize(), "that had not begun"),
        (PREFACE + HeadersFrame(1, b"\xff\xff", flags=["END_HEADERS"]).serialize(), "type 1 cannot be read"),
        (PREFACE + struct.pack(">BHBBI", 0, 2, 0, 8, 1) + b"\x02x", "more padding than frame"),
        (PREFACE + struct.pack(">BHBBI", 0, 0, 0, 8, 1), "type 0 cannot be read"),
        (PREFACE + struct.pack(">BHBBI", 0, 3, 3, 0, 1) + bytes(3), "type 3 cannot be read"),
        (PREFACE + struct.pack(">BHBBI", 0, 5, 4, 0, 0) + bytes(5), "type 4 cannot be read"),
        (PREFACE[:24] + PingFrame(0).serialize(), "is not HTTP/2"),
        (PREFACE + SettingsFrame(0, {5: 100}).serialize(), "frames of 100 bytes"),
        (PREFACE + PushPromiseFrame(1, 2, b"").serialize(), "a push"),
        (
            PREFACE + GoAwayFrame(0, error_code=11, additional_data=b"too_many_pings").serialize(),
            r"11 \(too_many_pings",
        ),
        (PREFACE + header(end=False) + ContinuationFrame(1, b"x" * 16_000).serialize() * 70, "header of more than"),
    ],
)
def test_what_is_not_http_2_is_refused(sent: bytes, why: str) -> None:
    ours = Http2(is_client=False, window=MIB, largest_headers=MIB)
    with pytest.raises(Broken, match=why):
        list(ours.take_in(sent))


def test_a_server_that_speaks_an_older_http_is_told_apart() -> None:
    ours = Http2(is_client=True, window=MIB, largest_headers=MIB)
    with pytest.raises(NotHttp2):
        list(ours.take_in(b"HTTP/1.1 301 Moved Permanently\r\nLocation: /%2A\r\n\r\n"))


def test_what_does_not_concern_us_is_passed_over() -> None:
    ours = Http2(is_client=False, window=MIB, largest_headers=MIB)
    unknown = struct.pack(">BHBBI", 0, 3, 99, 255, 7) + b"abc"
    frames = [PriorityFrame(1, depends_on=3), WindowUpdateFrame(5, window_increment=10), GoAwayFrame(0)]
    sent = PREFACE + unknown + b"".join(frame.serialize() for frame in frames) + header(a="b")
    assert [HeadersReceived(1, [(b"a", b"b")])] == list(ours.take_in(sent))
    assert [StreamEnded(9, code=2)] == list(ours.take_in(RstStreamFrame(9, error_code=2).serialize()))
