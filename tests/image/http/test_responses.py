from __future__ import annotations

import contextlib
import http.client
import socket
import threading
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
