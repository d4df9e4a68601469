from __future__ import annotations

import io
import json
import threading

import pytest
from rich.cells import cell_len

from buildtools.console import Console, JsonConsole, LiveConsole, PlainConsole, open_console, table, without_controls
from buildtools.events import Event, Finished, Log, Outcome, Started, Step, Transferred, Warned
from buildtools.workboard import Workboard, duration, size

RUN: tuple[Event, ...] = (
    Started("app", "build"),
    Step("app", "FROM base", 1, 2, cached=True),
    Step("app", "RUN make", 2, 2),
    Log("app", "cc -o [bold]app[/bold]"),
    Transferred("app", 5, 10),
    Warned("app", "old base"),
    Warned("", "dirty tree"),
    Finished("app", "build", Outcome.FAILED, 71.2, "exit code 2"),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(console: Console, stream: io.StringIO) -> str:
    with console:
        for event in RUN:
            console(event)
    console.summary("app failed", failed=True)
    return stream.getvalue()


def test_plain_lines_are_prefixed_and_the_last_says_what_happened() -> None:
    stream = io.StringIO()
    assert [
        "[app] build started",
        "[app] 1/2 FROM base (cached)",
        "[app] 2/2 RUN make",
        "[app] | cc -o [bold]app[/bold]",
        "[app] warning: old base",
        "warning: dirty tree",
        "[app] build failed in 1m11s: exit code 2",
        "app failed",
    ] == shown(PlainConsole(stream), stream).splitlines()


def test_json_is_one_object_an_event_with_the_events_own_fields() -> None:
    stream = io.StringIO()
    objects = [json.loads(line) for line in shown(JsonConsole(stream), stream).splitlines()]
    assert ["started", "step", "step", "log", "transferred", "warned", "warned", "finished", "summary"] == [
        each["event"] for each in objects
    ]
    assert ("app", "failed", 71.2) == tuple(objects[7][key] for key in ("subject", "outcome", "seconds"))
    assert ("app failed", True) == (objects[8]["text"], objects[8]["failed"])


def test_the_live_view_shows_a_failures_log_and_ends_with_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    text = shown(LiveConsole(stream, colour=False), stream)
    reason = text.index("✗ app  build failed  1m11s  exit code 2")
    log = text.index("  | cc -o [bold]app[/bold]")
    assert reason < log
    assert "app failed" in text.splitlines()[-1]


def test_sixty_images_at_work_stay_within_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "10")
    console = LiveConsole(Terminal(), colour=False)
    for number in range(60):
        console(Started(f"image{number:02}", "build"))
        console(Step(f"image{number:02}", "RUN " + "x" * 200, 1, 1))
    view = str(console._view()).splitlines()
    assert 8 == len(view)
    assert "  and 53 more at work" == view[-1]
    assert all(len(line) <= 60 for line in view)


def test_lines_of_many_threads_stay_whole() -> None:
    stream = io.StringIO()
    console = PlainConsole(stream)

    def speak(number: int) -> None:
        for _ in range(200):
            console(Log(f"image{number}", "x" * 50))

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert 1600 == len(lines)
    assert {f"[image{number}] | {'x' * 50}" for number in range(8)} == set(lines)


@pytest.mark.parametrize(
    ("mode", "stream", "environment", "kind"),
    [
        ("auto", Terminal(), {"TERM": "xterm"}, LiveConsole),
        ("auto", Terminal(), {"TERM": "xterm", "CI": "true"}, PlainConsole),
        ("auto", Terminal(), {"TERM": "dumb"}, PlainConsole),
        ("auto", io.StringIO(), {"TERM": "xterm"}, PlainConsole),
        ("plain", Terminal(), {"TERM": "xterm"}, PlainConsole),
        ("live", io.StringIO(), {"TERM": "xterm"}, LiveConsole),
        ("json", Terminal(), {"TERM": "xterm"}, JsonConsole),
    ],
)
def test_the_mode_follows_the_request_then_the_terminal(
    mode: str, stream: io.StringIO, environment: dict[str, str], kind: type[Console]
) -> None:
    assert kind is type(open_console(mode, stream, environment))


@pytest.mark.parametrize(
    ("environment", "coloured"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)]
)
def test_no_color_is_obeyed(environment: dict[str, str], coloured: bool) -> None:
    stream = Terminal()
    assert coloured == ("\x1b[1;31m" in shown(open_console("live", stream, environment), stream))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (12.4, "12s"), (59.7, "1m00s"), (185.0, "3m05s")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert text == duration(seconds)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_960, "1.0 MB"), (2.5e9, "2.5 GB"), (2.5e12, "2500.0 GB")],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert text == size(count)


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert "name  state\nbase  up to date" == table(("name", "state"), [("base", "up to date")])
    assert "name  why\nbase\napp   new" == table(("name", "state", "why"), [("base", "", ""), ("app", "", "new")])


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert r"a\x1b[2J\x07 b\x9b" + "\n\tc é" == without_controls("a\x1b[2J\x07 b\x9b\n\tc é")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_outer_work_and_its_clock_stay_while_an_inner_one_comes_and_goes() -> None:
    clock = Clock()
    board = Workboard(clock)
    board.take(Started("app", "push"))
    clock.now = 5
    board.take(Started("app", "build"))
    board.take(Step("app", "RUN make", 2, 3))
    assert [("app", "build  2/3 RUN make", 5)] == board.lines()
    board.take(Finished("app", "build", Outcome.DONE, 1.0))
    assert [("app", "push", 5)] == board.lines()
    assert (0, 1) == board.counts()
    board.take(Finished("app", "push", Outcome.DONE, 6.0))
    assert ([], (1, 1)) == (board.lines(), board.counts())


def test_what_ends_without_having_begun_takes_nothing_else_away() -> None:
    board = Workboard(Clock())
    board.take(Started("app", "push"))
    board.take(Finished("app", "build", Outcome.UP_TO_DATE, 0.0))
    assert ["push"] == [doing for _, doing, _ in board.lines()]


def test_bytes_have_a_rate_and_a_time_left_once_they_have_gone_for_a_second() -> None:
    clock = Clock()
    board = Workboard(clock)
    board.take(Started("app", "push"))
    board.take(Transferred("app", 5_000_000, 1_000_000_000))
    assert "push  5.0 MB of 1.0 GB" == board.lines()[0][1]
    clock.now = 10
    board.take(Transferred("app", 100_000_000, 1_000_000_000))
    assert "push  100.0 MB of 1.0 GB, 10.0 MB/s, 1m30s left" == board.lines()[0][1]
    board.take(Transferred("app", 100_000_000))
    assert "push  100.0 MB, 10.0 MB/s" == board.lines()[0][1]
    board.take(Transferred("app", 1_000, 1_000_000_000))
    clock.now = 20
    assert "push  1.0 kB of 1.0 GB, 100 B/s" == board.lines()[0][1]


def test_a_plain_log_says_what_is_waited_for_after_thirty_seconds_of_silence() -> None:
    clock, stream = Clock(), io.StringIO()
    console = PlainConsole(stream, clock)
    console(Started("app", "build"))
    for now in (29.0, 31.0, 59.0, 62.0):
        clock.now = now
        console(Transferred("app", int(now) * 1_000_000))
        console.break_silence()
    assert [
        "[app] build started",
        "[app] still at work: build  31.0 MB, 15.5 MB/s (31s)",
        "[app] still at work: build  62.0 MB, 1.9 MB/s (1m02s)",
    ] == stream.getvalue().splitlines()
    console(Finished("app", "build", Outcome.DONE, 62.0))
    clock.now = 200.0
    console.break_silence()
    assert 4 == len(stream.getvalue().splitlines())
    # An image whose push only waits is less to the point than one that is built.
    for number in range(30):
        console(Started(f"image{number}", "push"))
    console(Started("image29", "build"))
    clock.now = 240.0
    console.break_silence()
    lines = stream.getvalue().splitlines()[35:]
    assert ("[image29] still at work: build (40s)", "and 10 more at work", 21) == (lines[0], lines[-1], len(lines))


def test_wide_characters_do_not_cut_the_clock() -> None:
    console = LiveConsole(io.StringIO(), colour=False)
    console(Started("app", "build"))
    console(Step("app", "RUN echo " + "漢字" * 100))
    (line,) = str(console._view()).splitlines()
    assert line.endswith("…  0.0s")
    assert cell_len(line) <= console._screen.width


def test_the_last_lines_of_a_log_and_a_count_stand_below_the_table() -> None:
    console = LiveConsole(io.StringIO(), colour=False)
    for name in ("base", "app"):
        console(Started(name, "build"))
    for number in range(9):
        console(Log("app", f"line {number}"))
    lines = str(console._view()).splitlines()
    assert ["  | line 6", "  | line 7", "  | line 8", "0 of 2 done"] == lines[2:]
