from __future__ import annotations

import http.client
import io
import socket

import pytest

from buildtools.image.http.responses import Response, read_answer

OK = b"HTTP/1.1 200 OK\r\n"
MULTIPLE = b"WWW-Authenticate: Basic realm=a\r\nwww-authenticate: Bearer realm=b\r\nContent-Length: 0\r\n\r\n"

WHOLE = {
    "with a length": OK + b"Content-Length: 4\r\n\r\nbody",
    "without a body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "unchanged, with the length of what is not sent": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    "until the end": OK + b"\r\nbody",
    "in chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1;a=b\r\ny\r\n0\r\n\r\n",
    "in chunks, with trailers": OK + b"Transfer-Encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\nDigest: x\r\n\r\n",
    "of an old server": b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "of an old server that stays": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody",
    "that is the last": OK + b"Connection: Close\r\nContent-Length: 4\r\n\r\nbody",
    "without a reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "with a field twice": b"HTTP/1.1 401 Unauthorized\r\n" + MULTIPLE,
    "with a field over two lines": OK + b"WWW-Authenticate: Basic\r\n  realm=a\r\nContent-Length: 0\r\n\r\n",
    "with bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
    "after one that is interim": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nbody",
}
BROKEN = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status cut off": b"HTTP/1.1 20",
    "a header cut off": OK + b"Content-Length: 4\r\n",
    "a field cut off": OK + b"Content-Le",
    "a body cut off": OK + b"Content-Length: 4\r\n\r\nbod",
    "a chunk cut off": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nbody",
    "chunks without an end": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
    "a chunk without a size": OK + b"Transfer-Encoding: chunked\r\n\r\nbody\r\n",
    "a line without end": OK + b"A: " + b"a" * 100_000,
    "fields without end": OK + b"A: a\r\n" * 1000,
}


class Heard:
    """As much of a socket as http.client asks for to read an answer."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        assert "rb" == mode
        return io.BytesIO(self._data)


def read(data: bytes, method: str = "GET") -> Response:
    return read_answer(io.BytesIO(data), method)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_an_answer_is_read_as_python_reads_it(data: bytes, method: str) -> None:
    heard: socket.socket = Heard(data)  # type: ignore[assignment]  # as much of one as is asked for
    expected = http.client.HTTPResponse(heard, method=method)
    expected.begin()
    ours = read(data, method)
    assert (expected.status, expected.read()) == (ours.status, ours.data)
    assert expected.will_close == ours.is_last
    for name in expected.headers:
        values = [" ".join(value.split()) for value in expected.headers.get_all(name) or ()]
        assert values == ours.headers.get_all(name)


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_whole_answer_is_an_error(data: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        read(data)


@pytest.mark.parametrize("length", [b"-1", b"four", b"0x4"])
def test_a_length_that_is_none_is_an_error(length: bytes) -> None:
    with pytest.raises(http.client.HTTPException, match="is no length"):
        read(OK + b"Content-Length: " + length + b"\r\n\r\nbody")


def test_the_next_answer_begins_where_one_ends() -> None:
    lasting = [data for data in WHOLE.values() if not read(data).is_last]
    stream = io.BytesIO(b"".join(lasting))
    assert [read(data).data for data in lasting] == [read_answer(stream, "GET").data for _ in lasting]


def test_a_field_is_found_by_its_name_in_any_case() -> None:
    headers = read(OK + b"X-Some: thing\r\nContent-Length: 0\r\n\r\n").headers
    assert ("thing", "none", "") == (headers.get("x-SOME"), headers.get("other", "none"), headers.get("other"))
