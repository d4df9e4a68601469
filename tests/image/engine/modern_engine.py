"""Any engine, seen as one that has lost ``POST /grpc`` and ``POST /session`` and speaks gRPC on its API socket itself.

usage: DOCKER_HOST=... python -m tests.image.engine.modern_engine SOCKET [--only-grpc]; it says so on its output once it
listens. With ``--only-grpc`` there is no HTTP/1 either, as at a BuildKit daemon.
It is a program, for tests count the threads and files of their own process.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import socketserver
import sys
import threading

from buildtools.image.engine.buildkit.upgrade import RouteMissing, upgrade
from buildtools.image.engine.client import Engine

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n"


class ModernEngine(socketserver.ThreadingUnixStreamServer):
    """Passes connections on to ``engine``."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, engine: Engine, *, only_grpc: bool = False, routes: bool = False) -> None:
        super().__init__(path, _Connection)
        self.engine = engine
        self.routes = routes
        self.only_grpc = only_grpc


class _Connection(socketserver.BaseRequestHandler):
    server: ModernEngine
    request: socket.socket

    def handle(self) -> None:
        # Every request, and the preface of HTTP/2 with what follows it, is longer than that.
        begin = self.request.recv(32, socket.MSG_PEEK | socket.MSG_WAITALL)
        if not self.server.routes and re.match(rb"POST (?:/v[0-9.]+)?/(?:grpc|session) ", begin):
            self.request.sendall(NOT_FOUND + b'{"message":"page not found"}\n')
            return
        if begin.startswith(b"PRI * HTTP/2.0\r\n"):
            try:
                engine, received = upgrade(self.server.engine, "/grpc")
            except RouteMissing:
                # It is such an engine itself.
                engine, received = self.server.engine.dial(), b""
            assert isinstance(engine, socket.socket)
            self.request.sendall(received)
        elif self.server.only_grpc:
            return
        else:
            engine = self.server.engine.dial()
        with engine:
            back = threading.Thread(target=_pass_on, args=(engine, self.request), daemon=True)
            back.start()
            _pass_on(self.request, engine)
            back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    path, *options = sys.argv[1:]
    with (
        contextlib.closing(Engine.connect(os.environ)) as engine,
        ModernEngine(path, engine, only_grpc="--only-grpc" in options, routes="--routes" in options) as server,
    ):
        sys.stdout.write("listens\n")
        sys.stdout.flush()
        server.serve_forever()
