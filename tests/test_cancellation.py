from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from buildtools.cancellation import Cancellation, SignalSafeEvent

_ROOT = Path(__file__).parent.parent

# Two signals, so many steps of the interpreter apart, in every window of the handler and of what it sets.
_TWO_SIGNALS = """
import faulthandler, os, signal, sys, threading
from buildtools.cancellation import Cancellation, Interrupted, SignalSafeEvent, cancel_on_signals

faulthandler.dump_traceback_later(60, exit=True)
first, second = int(sys.argv[1]), int(sys.argv[2])
ended = 0
for steps in range(120):
    cancelled, aborted = Cancellation(), SignalSafeEvent()
    cancelled.stops(aborted.set)
    left = steps

    def trace(frame, event, argument):
        global left
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_code.co_filename != __file__:
            left -= 1
            if left == 0:
                sys.settrace(None)
                os.kill(os.getpid(), second)
        return trace

    try:
        with cancel_on_signals(cancelled):
            sys.settrace(trace)
            os.kill(os.getpid(), first)
            aborted.wait(10)
    except Interrupted:
        ended += cancelled.is_set()
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
print(ended)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_end_a_run_however_close_they_are(first: int, second: int, tmp_path: Path) -> None:
    program = tmp_path / "two_signals.py"
    program.write_text(_TWO_SIGNALS)
    done = subprocess.run(
        [sys.executable, program, str(int(first)), str(int(second))],
        env={"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("120\n", 0) == (done.stdout, done.returncode), done.stderr


_HANG_UP = """
import os, signal
from buildtools.cancellation import Cancellation, Interrupted, cancel_on_signals

try:
    with cancel_on_signals(Cancellation()):
        os.kill(os.getpid(), signal.SIGHUP)
        print("went on")
except Interrupted as interruption:
    print(signal.Signals(interruption.number).name)
"""


@pytest.mark.parametrize(
    ("words", "expected"), [(["env", "--default-signal=HUP"], "SIGHUP\n"), (["nohup"], "went on\n")]
)
def test_a_terminal_that_closes_interrupts_a_run_unless_that_is_ignored(words: list[str], expected: str) -> None:
    program = [*words, sys.executable, "-c", _HANG_UP]
    assert expected == subprocess.check_output(program, env={"PYTHONPATH": str(_ROOT)}, text=True)


def test_an_event_is_set_while_the_same_thread_holds_its_lock() -> None:
    event = SignalSafeEvent()
    with event._cond:
        event.set()
    assert event.is_set()


def test_what_a_cancellation_stops_is_stopped_once_it_is_set_or_at_once() -> None:
    cancelled, stops = Cancellation(), [threading.Event(), threading.Event()]
    cancelled.stops(stops[0].set)
    assert not stops[0].is_set()
    cancelled.set()
    cancelled.stops(stops[1].set)
    assert [True, True] == [stop.is_set() for stop in stops]
