"""A server that gives the answers it was told to, one after the other, and then says yes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.servers import Quiet, serving


@dataclass
class Answers:
    """``left`` are the statuses and headers to come; ``asked`` counts requests."""

    left: list[tuple[int, Mapping[str, str]]]
    asked: list[str] = field(default_factory=list)
    host: str = ""


@contextmanager
def answering(*answers: tuple[int, Mapping[str, str]]) -> Iterator[Answers]:
    """Serves every path."""
    script = Answers(list(answers))

    class Scripted(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append(f"{self.path} {self.headers.get('Authorization', '')}".strip())
            status, headers = script.left.pop(0) if script.left else (200, {})
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

    with serving(Scripted) as script.host:
        yield script
