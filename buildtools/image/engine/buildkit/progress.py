"""BuildKit's reports about a running build as events: ``moby.buildkit.v1.StatusResponse``."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from buildtools.events import Log, PartialTransfers, Report, Step, Warned
from buildtools.image.engine.buildkit.protobuf import Message

# Lines kept for each step, for the message if it fails: more than a message shows.
_KEPT_LINES = 20
# A step may print without any line ending; longer text becomes several lines.
_LONGEST_LINE = 64 * 1024
# Hiding shorter secrets would hide half of the alphabet.
_SHORTEST_SECRET = 4

# The Dockerfile frontend's prefixCommand: "[linux/arm64 builder 2/5] RUN make".
_STEP = re.compile(r"\[(?:(?P<stage>.*) )?(?P<number>\d+)/(?P<total>\d+)\] (?P<text>.*)", re.DOTALL)

_LINE = re.compile(r" \(line \d+\)$")


@dataclass
class Vertex:
    """One step of a build. ``stage`` is the stage's name if there are several, ``number`` is 0 outside of stages."""

    name: str = ""
    stage: str = ""
    text: str = ""
    number: int = 0
    total: int = 0
    error: str = ""
    announced: bool = False
    unfinished_line: bytes = b""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))


class Progress:
    """Collects BuildKit's reports, passes them on as events, and keeps what explains a failure.

    ``dockerfile`` is its name in warnings, ``hidden`` are secrets to be masked in the output of commands.
    """

    def __init__(self, subject: str, dockerfile: str, report: Report, *, hidden: Iterable[bytes] = ()) -> None:
        self._subject = subject
        self._dockerfile = dockerfile
        self._report = report
        self._vertices: dict[str, Vertex] = {}
        self._reported_before: set[str] = set()
        self._warnings: set[str] = set()
        self._layer_arrived = PartialTransfers(report, subject)
        self._hide = _hiding(hidden)

    def begin_again(self) -> None:
        """Start over with another attempt: its failure is its own, but steps that an earlier one ran are not new.

        In the new attempt they are cached, as if this run had not built them.
        """
        self._reported_before |= {vertex.name for vertex in self._vertices.values() if vertex.announced}
        self._vertices.clear()

    def hear(self, status: Message) -> None:
        """Process one ``StatusResponse``."""
        for message in status.messages(1):
            self._hear_vertex(message)
        for message in status.messages(2):
            # A layer of a base image being pulled. Other byte counts have no total.
            if message.text(1).startswith("sha256:") and (total := message.number(5)):
                self._layer_arrived(message.text(1), min(message.number(4), total), total)
        for message in status.messages(3):
            vertex = self._vertices.setdefault(message.text(1), Vertex())
            *lines, vertex.unfinished_line = (vertex.unfinished_line + message.blob(4)).split(b"\n")
            if len(vertex.unfinished_line) > _LONGEST_LINE:
                lines.append(vertex.unfinished_line)
                vertex.unfinished_line = b""
            for line in lines:
                self._log(vertex, line)
        for message in status.messages(4):
            warning = self._warning(message)
            if warning not in self._warnings:
                self._warnings.add(warning)
                self._report(Warned(self._subject, warning))

    def failed(self) -> Vertex | None:
        """The step that failed, rather than one that was only stopped because another one failed."""
        failures = [vertex for vertex in self._vertices.values() if vertex.error]
        causes = (vertex for vertex in failures if "context canceled" not in vertex.error)
        return next(causes, next(iter(failures), None))

    def _hear_vertex(self, message: Message) -> None:
        vertex = self._vertices.setdefault(message.text(1), Vertex())
        if not vertex.name:
            vertex.name = vertex.text = message.text(3)
            if match := _STEP.fullmatch(vertex.name):
                vertex.stage = match["stage"] or ""
                vertex.text = match["text"]
                vertex.number, vertex.total = int(match["number"]), int(match["total"])
        vertex.error = message.text(7) or vertex.error
        if not vertex.announced and message.message(5):
            vertex.announced = True
            if vertex.name not in self._reported_before:
                text = f"[{vertex.stage}] {vertex.text}" if vertex.stage else vertex.text
                cached = bool(message.number(4))
                self._report(Step(self._subject, self._hide(text), vertex.number, vertex.total, cached))
        if message.message(6) and vertex.unfinished_line:
            self._log(vertex, vertex.unfinished_line)
            vertex.unfinished_line = b""

    def _log(self, vertex: Vertex, line: bytes) -> None:
        # Of a progress bar, a terminal would show what follows the last carriage return.
        text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        text = self._hide(text)
        vertex.last_lines.append(text)
        self._report(Log(self._subject, text))

    def _warning(self, message: Message) -> str:
        start = next((span.message(1) for span in message.messages(7)), None)
        text = _LINE.sub("", message.text(3))
        where = f" ({self._dockerfile}:{start.number(1)})" if start else ""
        return f"{text}{where}, see {message.text(5)}" if message.text(5) else f"{text}{where}"


def _hiding(secrets: Iterable[bytes]) -> Callable[[str], str]:
    lines = {line.strip() for secret in secrets for line in secret.decode("utf-8", "replace").splitlines()}
    parts = sorted((line for line in lines if len(line) >= _SHORTEST_SECRET), key=len, reverse=True)
    if not parts:
        return lambda text: text
    pattern = re.compile("|".join(map(re.escape, parts)))
    return lambda text: pattern.sub("***", text)
