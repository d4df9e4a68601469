"""Upgrade a connection to the engine's HTTP API to another protocol (RFC 9110, 7.8)."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Iterable

from buildtools import BuildToolsError, Unreachable
from buildtools.image.engine.buildkit.grpc import ByteChannel
from buildtools.image.engine.buildkit.host import BuildkitHost
from buildtools.image.engine.client import EngineError, forbidden
from buildtools.image.engine.documents import failure_reason
from buildtools.request_log import Stopwatch

# Only a server that is not an engine sends more; an engine's response has less than a thousand bytes.
_LONGEST_HEAD = 64 * 1024
# Seconds for the reason of a refusal, which arrives with it or never.
_PATIENCE = 5


class RouteMissing(EngineError):
    """The engine does not have the path: HTTP status 404."""


def upgrade(
    host: BuildkitHost, path: str, headers: Iterable[tuple[str, str]] = (), *, body: bytes = b"", protocol: str = "h2c"
) -> tuple[ByteChannel, bytes]:
    """A connection that now speaks another protocol (by default HTTP/2), and the bytes that have already arrived on it.

    A path that the engine lacks is requested only once in a run.

    :raises RouteMissing: if the engine does not have it.
    :raises Refused: if something between us and the engine forbids it.
    :raises EngineError: if the engine declines.
    :raises Unreachable: if the connection was lost.
    """
    if path in host.missing_routes:
        raise RouteMissing(f"{host.title} has no {path}")
    # One line for each value, because the engine does not split values at commas, and the SDK cannot repeat a header.
    lines = [
        f"POST /v{host.api_version}{path} HTTP/1.1",
        "Host: docker",
        "Connection: Upgrade",
        f"Upgrade: {protocol}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    stopwatch = Stopwatch()
    sock = host.dial()
    try:
        try:
            sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body)
            head, rest = _read_head(sock)
            status = _status(head)
            stopwatch.log("engine", "POST", path, status or "not HTTP")
            if status != http.client.SWITCHING_PROTOCOLS:
                raise _refusal(host, path, status, _reason(sock, status, rest))
        except OSError as error:
            raise Unreachable(f"{host.title} went away ({error})", "run the same command again") from None
    except BaseException:
        sock.close()
        raise
    return sock, rest


def _status(head: bytes) -> int:
    """The status of a response; 0 if it is not HTTP/1."""
    match = re.match(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |$|\r)", head)
    return int(match[1]) if match else 0


def _refusal(host: BuildkitHost, path: str, status: int, reason: str) -> BuildToolsError:
    if status == http.client.NOT_FOUND:
        host.missing_routes.add(path)
        return RouteMissing(f"{host.title} has no {path}")
    if status == http.client.FORBIDDEN:
        return forbidden(host.address, "POST", path, reason)
    return EngineError(f"{host.title} declines POST {path} ({reason})", "see why in its log")


def _read_head(sock: ByteChannel) -> tuple[bytes, bytes]:
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(4096)
        if not data or len(head) > _LONGEST_HEAD:
            raise ConnectionError("its answer is cut off")
        head += data
    head, _, rest = head.partition(b"\r\n\r\n")
    return head, rest


def _reason(sock: ByteChannel, status: int, body: bytes) -> str:
    timer = threading.Timer(_PATIENCE, sock.shutdown, [socket.SHUT_RDWR])
    timer.daemon = True
    timer.start()
    with contextlib.suppress(OSError):
        while len(body) < _LONGEST_HEAD and not body.rstrip().endswith((b"}", b"0")) and (data := sock.recv(4096)):
            body += data
    timer.cancel()
    if b"{" in body and b"}" in body:
        # It may be chunked; ignore the chunk sizes.
        body = body[body.index(b"{") : body.rindex(b"}") + 1]
    return failure_reason(status, body)
