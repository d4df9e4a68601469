from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from buildtools.image.http.responses import Response, read_response

OK = b"HTTP/1.1 200 OK\r\n"
MULTIPLE = b"WWW-Authenticate: Basic realm=a\r\nwww-authenticate: Bearer realm=b\r\nContent-Length: 0\r\n\r\n"

WHOLE = {
    "with a length": (OK + b"Content-Length: 4\r\n\r\nbody", 200, b"body", False),
    "without a body": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", False),
    "unchanged, with the length of what is not sent": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        304,
        b"",
        False,
    ),
    "until the end": (OK + b"\r\nbody", 200, b"body", True),
    "in chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1;a=b\r\ny\r\n0\r\n\r\n", 200, b"body", False),
    "of an old server": (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", 200, b"body", True),
    "that is the last": (OK + b"Connection: Close\r\nContent-Length: 4\r\n\r\nbody", 200, b"body", True),
    "without a reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
    "after one that is interim": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nbody",
        200,
        b"body",
        False,
    ),
}
BROKEN = {
    "nothing": b"",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status cut off": b"HTTP/1.1 20",
    "a header cut off": OK + b"Content-Length: 4\r\n",
    "an interim one that nobody asked for": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "a field cut off": OK + b"Content-Le",
    "a body cut off": OK + b"Content-Length: 4\r\n\r\nbod",
    "a chunk cut off": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nbody",
    "chunks without an end": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
    "a chunk without a size": OK + b"Transfer-Encoding: chunked\r\n\r\nbody\r\n",
    "a line without end": OK + b"A: " + b"a" * 100_000,
    "fields without end": OK + b"A: a\r\n" * 1000,
}


def read(data: bytes, method: str = "GET", **bounds: Any) -> Response:
    """The first response in what a server has sent before it hung up."""
    ours, theirs = socket.socketpair()
    with ours:
        # From a thread: some of it is more than a socket holds.
        sender = threading.Thread(target=_send, args=(theirs, data))
        sender.start()
        try:
            return read_response(ours, method, **bounds)
        finally:
            ours.close()
            sender.join()


def read_in_pieces(data: bytes) -> Response:
    """The same, where the first byte comes alone."""
    # Such a socket keeps apart what was sent apart.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            for piece in filter(None, (data[:1], data[1:])):
                theirs.send(piece)
        return read_response(ours, "GET", largest=100)


def outcome(read_one: Callable[[], Response]) -> object:
    try:
        return read_one()
    except http.client.HTTPException:
        return http.client.HTTPException


def _send(sock: socket.socket, data: bytes) -> None:
    with sock, contextlib.suppress(OSError):
        sock.sendall(data)


@pytest.mark.parametrize(("data", "status", "body", "is_last"), WHOLE.values(), ids=WHOLE)
def test_a_response_is_read_to_its_end(data: bytes, status: int, body: bytes, is_last: bool) -> None:
    response = read(data)
    assert (status, body, is_last) == (response.status, response.data, response.is_last)


def test_a_head_has_no_body_whatever_length_it_tells() -> None:
    response = read(OK + b"Content-Length: 4\r\n\r\n", "HEAD")
    assert (b"", "4") == (response.data, response.header("content-length"))


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_not_a_whole_response_is_an_error(data: bytes) -> None:
    with pytest.raises(http.client.HTTPException):
        read(data)


# What only looks plain, and what is plain in an unusual way.
UNUSUAL = {
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 4\r\n\r\nbody",
    "two lengths in one": OK + b"Content-Length: 4, 4\r\n\r\nbody",
    "a length with a sign": OK + b"Content-Length: +4\r\n\r\nbody",
    "a negative length": OK + b"Content-Length: -4\r\n\r\nbody",
    "a length of digits that are not ours": OK + b"Content-Length: \xb2\r\n\r\nbody",
    "a length without end": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nbody",
    "a length and chunks": OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "more than its length": OK + b"Content-Length: 2\r\n\r\nbody",
    "too large": OK + b"Content-Length: 101\r\n\r\n" + b"b" * 101,
    "as large as it may be": OK + b"Content-Length: 100\r\n\r\n" + b"b" * 100,
    "lines that end in a newline alone": b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
    "a space before the colon": OK + b"Content-Length : 4\r\n\r\nbody",
    "a field without a name": OK + b": a\r\nContent-Length: 4\r\n\r\nbody",
    "a field without a colon": OK + b"Content\r\nContent-Length: 4\r\n\r\nbody",
    "a field over two lines": OK + b"A: a\r\n b\r\nContent-Length: 4\r\n\r\nbody",
    "a value that is not ASCII": OK + b"A: \xe4\x85b\r\nContent-Length: 4\r\n\r\nbody",
    "a connection that stays": OK + b"Connection: Keep-Alive\r\nContent-Length: 4\r\n\r\nbody",
    "a connection that ends, besides": OK + b"Connection: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\nbody",
    "another version": b"HTTP/1.2 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "99 fields": OK + b"A: a\r\n" * 98 + b"Content-Length: 4\r\n\r\nbody",
    "100 fields": OK + b"A: a\r\n" * 99 + b"Content-Length: 4\r\n\r\nbody",
}
EXAMPLES = {**{name: example[0] for name, example in WHOLE.items()}, **BROKEN, **UNUSUAL}


@pytest.mark.parametrize("data", EXAMPLES.values(), ids=EXAMPLES)
def test_a_response_means_the_same_in_one_piece_as_to_http_client(data: bytes) -> None:
    # Of which only the first byte has come is left to http.client.
    assert outcome(lambda: read_in_pieces(data)) == outcome(lambda: read(data, largest=100))


@pytest.mark.parametrize("data", [OK + b"Content-Length: 5\r\n\r\nbodys", OK + b"\r\nbodys"])
def test_a_response_that_is_too_large_is_an_error(data: bytes) -> None:
    assert b"bodys" == read(data, largest=5).data
    with pytest.raises(http.client.HTTPException, match="more than 4 bytes"):
        read(data, largest=4)


def test_a_header_field_is_found_by_its_name_in_any_case() -> None:
    response = read(OK + b"X-Some: thing\r\nContent-Length: 0\r\n\r\n")
    assert ("thing", "none", "") == (response.header("x-SOME"), response.header("other", "none"), response.header("a"))


def test_a_field_that_stands_twice_has_two_values_and_one_over_two_lines_has_one() -> None:
    twice = read(b"HTTP/1.1 401 Unauthorized\r\n" + MULTIPLE)
    assert ["Basic realm=a", "Bearer realm=b"] == twice.header_values("WWW-Authenticate")
    folded = read(OK + b"WWW-Authenticate: Basic\r\n  realm=a\r\nContent-Length: 0\r\n\r\n")
    assert ["Basic realm=a"] == folded.header_values("WWW-Authenticate")
