"""Something at an engine's address that is not an engine, or not quite."""

from __future__ import annotations

import socketserver
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import in_service


@contextmanager
def stranger(folder: Path, respond: Callable[[bytes], bytes]) -> Iterator[str]:
    """``DOCKER_HOST`` of what sends, for the first bytes on a connection, what ``respond`` returns, and hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(respond(self.request.recv(65536)))

    path = folder / "stranger"
    try:
        with in_service(socketserver.UnixStreamServer(str(path), Handler)):
            yield f"unix://{path}"
    finally:
        path.unlink()


def response(status: str, body: bytes = b"", **fields: str) -> bytes:
    """A response of HTTP/1.1; an underscore in a field's name is a hyphen."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]).encode() + body
