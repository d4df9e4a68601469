"""Turning a connection to the engine's HTTP API into something else, RFC 9110, 7.8."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable

from buildtools import Unreachable
from buildtools.image.engine.client import Engine, EngineError
from buildtools.request_log import Stopwatch

_LONGEST_HEAD = 64 * 1024


def upgrade(engine: Engine, path: str, headers: Iterable[tuple[str, str]] = ()) -> tuple[socket.socket, bytes]:
    """A socket that speaks HTTP/2 from here on, and the bytes that already came on it.

    :raises EngineError: the engine declines.
    :raises Unreachable: it went away.
    """
    # One line for each header, for the engine does not split values at commas, and the SDK cannot repeat a header.
    lines = [
        f"POST /v{engine.api_version}{path} HTTP/1.1",
        "Host: docker",
        "Connection: Upgrade",
        "Upgrade: h2c",
        "Content-Length: 0",
        *(f"{name}: {value}" for name, value in headers),
    ]
    stopwatch = Stopwatch()
    sock = engine.dial()
    try:
        try:
            sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
            head, rest = _read_head(sock)
            if not head.startswith((b"HTTP/1.1 101 ", b"HTTP/1.0 101 ")):
                raise EngineError(f"the engine at {engine.address} declines {path}: {_reason(sock, head, rest)}")
            stopwatch.log("engine", "POST", path, head.split(b" ", 2)[1].decode("ascii"))
        except OSError as error:
            raise Unreachable(f"the engine at {engine.address} went away ({error})", "run again") from None
    except BaseException:
        sock.close()
        raise
    return sock, rest


def _read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(4096)
        if not data or len(received) > _LONGEST_HEAD:
            raise ConnectionError("its answer is cut off")
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def _reason(sock: socket.socket, head: bytes, body: bytes) -> str:
    sock.settimeout(5)
    try:
        while len(body) < _LONGEST_HEAD and not body.rstrip().endswith((b"}", b"0")) and (data := sock.recv(4096)):
            body += data
        return str(json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return head.partition(b"\r\n")[0].decode("latin-1")
