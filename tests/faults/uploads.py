"""A registry's upload endpoint, in process, that knows how to go on after a break, as the specification has it.

Distribution 2.8, the registry of the other tests, forgets an upload whose connection broke.
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-a-blob-in-chunks
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from buildtools.image.registry.manifest import digest_of
from tests.servers import Quiet, serving


@dataclass
class Uploads:
    """What arrived. ``breaks`` are the byte counts of the upload at which the connection is cut, each once."""

    breaks: list[int]
    received: bytearray = field(default_factory=bytearray)
    total: int = 0
    stored: dict[str, bytes] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    host: str = ""


@contextmanager
def resumable_uploads(*breaks: int) -> Iterator[Uploads]:
    """Serves one upload at a time to any repository."""
    uploads = Uploads(list(breaks))

    class Resumable(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            uploads.received.clear()
            self.reply(202)

        def do_GET(self) -> None:
            if self.path == "/v2/":
                self.reply(200)
            else:
                self.reply(204)

        def do_HEAD(self) -> None:
            self.reply(404)

        def do_PATCH(self) -> None:
            left = int(self.headers["Content-Length"])
            expected = self.headers.get("Content-Range", "")
            uploads.ranges.append(expected)
            if expected and int(expected.partition("-")[0]) != len(uploads.received):
                self.reply(416)
                return
            while left:
                stop = uploads.breaks[0] - len(uploads.received) if uploads.breaks else left
                block = self.rfile.read(min(left, 65536, stop))
                uploads.received += block
                uploads.total += len(block)
                left -= len(block)
                if uploads.breaks and len(uploads.received) == uploads.breaks[0]:
                    uploads.breaks.pop(0)
                    self.close_connection = True
                    self.connection.close()
                    return
            self.reply(202)

        def do_PUT(self) -> None:
            uploads.received += self.rfile.read(int(self.headers.get("Content-Length", 0)))
            digest = parse_qs(urlsplit(self.path).query)["digest"][0]
            assert digest == digest_of(bytes(uploads.received))
            uploads.stored[digest] = bytes(uploads.received)
            self.reply(201)

        def reply(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Location", "/v2/app/blobs/uploads/1")
            self.send_header("Range", f"0-{max(len(uploads.received) - 1, 0)}")
            if status != 204:
                self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Resumable) as uploads.host:
        yield uploads
