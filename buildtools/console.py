"""Progress output: a live view on a terminal, prefixed lines elsewhere, JSON lines on request.

A console is a :data:`~buildtools.events.Report`. It writes to one stream, normally standard error, so that standard
output carries only data.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import fields
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

from buildtools.caller import as_called
from buildtools.events import Event, Finished, Log, Outcome, Started, Step, Transferred, Warned
from buildtools.workboard import Work, Workboard, duration

if TYPE_CHECKING:
    import rich.console
    import rich.live

MODES = ("auto", "live", "plain", "json")
_REDRAWS_PER_SECOND = 8
# Below the table: enough of the running step's log to show that it makes progress.
_LOG_LINES = 3
# A log that is silent for this long looks like a hanging job, and some CI systems kill those.
_SILENCE_SECONDS = 30.0
# So many of the images that are at work are then written.
_MOST_AT_WORK = 20
# The control characters that a terminal obeys: C0 without tab and line feed, DEL, and C1.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# A full digest is too long for most terminals.
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")
_SHORT = r"\1"
_MARKS = {
    Outcome.DONE: ("✓", "green"),
    Outcome.UP_TO_DATE: ("=", "cyan"),
    Outcome.FAILED: ("✗", "bold red"),
    Outcome.SKIPPED: ("-", "yellow"),
    Outcome.CANCELLED: ("-", "yellow"),
}


def drop(stream: IO[str]) -> None:
    """Send a stream that cannot be written to the null device: Python would fail when it flushes the rest."""
    # A stream in memory has no descriptor.
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Lossy:
    """A stream that drops what cannot be written: a closed pipe or a full disk must not end the run."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._works = True

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, work: Callable[[], object]) -> None:
        if self._works:
            try:
                work()
            except (OSError, ValueError):
                self._works = False
                drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Console(AbstractContextManager["Console"]):
    """What all modes have in common. It may be called from any thread; each call writes whole lines."""

    def __init__(self, stream: IO[str]) -> None:
        # It has all that IO has, by way of the stream inside.
        stream = cast("IO[str]", _Lossy(stream))
        self.has_result = False
        """Whether a result was written to standard output."""
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Render one event."""
        raise NotImplementedError

    def rest(self) -> None:
        """Stop redrawing, because something else writes to the same terminal now."""

    def summary(self, text: str, *, failed: bool = False) -> None:
        """Write the last line of a run: what happened, or what is wrong and what to do."""
        self._write(as_called(text))
        del failed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _write(self, line: str) -> None:
        # One write per line, so that two processes sharing a log do not mix within a line.
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


class PlainConsole(Console):
    """Lines that each begin with ``[subject]``; nothing is drawn twice.

    After 30 s of silence it writes what is in progress. ``clock`` returns seconds.
    """

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._board = Workboard(clock)
        self._last_line = clock()
        self._ended = threading.Event()

    def __enter__(self) -> PlainConsole:
        threading.Thread(target=self._watch, name="console", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def __call__(self, event: Event) -> None:
        """Write the event's line. Transferred bytes do not get one."""
        with self._lock:
            self._board.take(event)
            self._last_line = self._last_line if isinstance(event, Transferred) else self._board.clock()
        line = _plain_line(event)
        if line is not None:
            self._write(line)

    def break_silence(self) -> None:
        """Write what is in progress, if nothing was written for a long time."""
        with self._lock:
            count = len(self._board.works)
            if not count or self._board.clock() - self._last_line < _SILENCE_SECONDS:
                return
            lines = self._board.lines(_MOST_AT_WORK)
            self._last_line = self._board.clock()
        for subject, doing, seconds in lines:
            self._write(f"[{subject}] still at work: {doing} ({duration(seconds)})")
        if count > len(lines):
            self._write(f"and {count - len(lines)} more at work")

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.break_silence()


def _plain_line(event: Event) -> str | None:
    match event:
        case Started(subject, action):
            return f"[{subject}] {action} started"
        case Step(subject, text, number, total, cached):
            return f"[{subject}] {_count_text(number, total)}{text}{' (cached)' if cached else ''}"
        case Log(subject, line):
            return f"[{subject}] | {line}"
        case Warned(subject, message):
            return f"[{subject}] warning: {message}" if subject else f"warning: {message}"
        case Finished(subject, action, outcome, seconds, detail):
            return f"[{subject}] {action} {outcome.value} in {duration(seconds)}{f': {detail}' if detail else ''}"
        case Transferred():
            return None


class JsonConsole(Console):
    """One JSON object per line:

    ``event`` is the kind in lower case, ``time`` is in seconds, the rest are the event's fields.
    """

    def __call__(self, event: Event) -> None:
        """Write the event with all its fields."""
        document: dict[str, Any] = {"event": type(event).__name__.lower(), "time": round(time.time(), 3)}
        for each in fields(event):
            value = getattr(event, each.name)
            document[each.name] = value.value if isinstance(value, Outcome) else value
        self._write(json.dumps(document))

    def summary(self, text: str, *, failed: bool = False) -> None:
        """Write the last object: ``{"event": "summary", "text": ..., "failed": ...}``."""
        self._write(
            json.dumps({"event": "summary", "time": round(time.time(), 3), "text": as_called(text), "failed": failed})
        )


class LiveConsole(Console):
    """One line for each image in progress, redrawn in place; a finished image leaves its last line above them."""

    def __init__(self, stream: IO[str], *, colour: bool) -> None:
        super().__init__(stream)
        import rich.console
        import rich.live

        self._board = Workboard()
        self._screen = rich.console.Console(
            file=self._stream, force_terminal=True, no_color=not colour, highlight=False, markup=False, soft_wrap=False
        )
        self._live = rich.live.Live(
            console=self._screen,
            get_renderable=self._view,
            refresh_per_second=_REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveConsole:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def rest(self) -> None:
        """Remove the live lines."""
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Record the event; the next redraw shows it."""
        with self._lock:
            work = self._board.take(event)
            match event:
                case Warned(subject, message):
                    self._print(f"! {subject + ': ' if subject else ''}{message}", "yellow")
                case Finished():
                    self._finish(event, work)

    def summary(self, text: str, *, failed: bool = False) -> None:
        """Write the last line, below all others."""
        self.rest()
        self._print(as_called(text), "bold red" if failed else "bold")

    def _finish(self, event: Finished, work: Work | None) -> None:
        mark, style = _MARKS[event.outcome]
        detail = f"  {_DIGEST.sub(_SHORT, event.detail)}" if event.detail else ""
        line = f"{mark} {event.subject}  {event.action} {event.outcome.value}  {duration(event.seconds)}{detail}"
        self._print(line, style)
        if event.outcome is Outcome.FAILED and work is not None:
            for text in work.tail:
                self._print(f"  | {text}", "")

    def _print(self, line: str, style: str) -> None:
        import rich.text

        self._screen.print(rich.text.Text(line, style=style), overflow="fold")

    def _view(self) -> rich.console.RenderableType:
        import rich.text

        # Called by the redrawing thread while events come from others, so it must not wait for one that is being
        # printed.
        width, height = self._screen.width, self._screen.height
        room = max(1, height - 2)
        count = len(self._board.works)
        lines = [
            _cut(f"… {subject}  {doing}", f"  {duration(seconds)}", width)
            for subject, doing, seconds in self._board.lines(room if count <= room else room - 1)
        ]
        ends, starts = self._board.counts()
        footer = [_cut(f"  | {line}", "", width) for line in self._board.last_log(_LOG_LINES)]
        footer += [f"{ends} of {starts} done"] if starts > 1 else []
        if count > len(lines):
            lines.append(f"  and {count - len(lines)} more at work")
        # What is in progress counts more than its log.
        footer = footer[: max(0, room - len(lines))]
        return rich.text.Text("\n".join([*lines, *footer]), no_wrap=True, overflow="crop")


def _cut(text: str, end: str, width: int) -> str:
    """The text cut so that it and ``end`` fit into ``width`` cells; some characters take two."""
    from rich.cells import cell_len, set_cell_size

    room = max(8, width - cell_len(end) - 1)
    return (text if cell_len(text) <= room else set_cell_size(text, room - 1).rstrip() + "…") + end


def _count_text(number: int, total: int) -> str:
    return f"{number}/{total} " if total else ""


def without_controls(text: str) -> str:
    """The text with control characters escaped, except line feeds and tabs: it may come from a commit or a server."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, without a trailing line feed. A column that is empty in every row is left out."""
    if not rows:
        return ""
    columns = [[heading, *cells] for heading, *cells in zip(headings, *rows, strict=True) if any(cells)]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    )


def open_console(mode: str, stream: IO[str], environment: Mapping[str, str]) -> Console:
    """The console for ``mode``; ``auto`` means live on a terminal outside CI, and plain otherwise.

    It obeys ``NO_COLOR`` (https://no-color.org) and ``TERM=dumb``.
    """
    if mode == "json":
        return JsonConsole(stream)
    dumb = environment.get("TERM", "dumb") == "dumb"
    if mode == "live" or (mode == "auto" and stream.isatty() and not dumb and not environment.get("CI")):
        return LiveConsole(stream, colour=not environment.get("NO_COLOR"))
    return PlainConsole(stream)
