"""HTTP servers inside a test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer


class Quiet:
    """For handlers of requests: keeps connections and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves on loopback for as long as the context lasts; ``127.0.0.1:PORT``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    with in_service(server):
        yield f"127.0.0.1:{server.server_port}"


@contextmanager
def in_service(server: BaseServer) -> Iterator[None]:
    """A context in which a server serves in a thread of its own; in the end it is closed."""
    # Seconds between two looks at whether to end. The default of half a second is what most tests with a server take.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    with server:
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
