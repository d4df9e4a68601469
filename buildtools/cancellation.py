"""The user has cancelled the run: how those who work are told."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class SignalSafeEvent(threading.Event):
    """An event that the handler of a signal may set.

    A handler runs in the main thread, between any two of its steps. The lock of a ``threading.Event`` is not reentrant:
    where the main thread has just taken it, to wait or to set the event, a handler that sets the event would wait for
    ever, and take no signal any more but SIGKILL.
    """

    _cond: Any

    def __init__(self) -> None:
        super().__init__()
        self._cond = threading.Condition(threading.RLock())


class Cancellation(SignalSafeEvent):
    """Is set once, for good. Most look at it between two steps; ``stops`` are called by whoever sets it.

    They are for what a thread waits in and cannot look from, and may run in a handler of a signal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stops: list[Callable[[], object]] = []

    def stops(self, stop: Callable[[], object]) -> None:
        """Have ``stop`` called when this is set; at once, if it is."""
        self._stops.append(stop)
        if self.is_set():
            stop()

    def set(self) -> None:
        """Set it, and call what it stops."""
        super().set()
        for stop in self._stops:
            stop()


class Deadline(SignalSafeEvent):
    """Is set when its seconds are over, or the run is cancelled. A context manager."""

    def __init__(self, seconds: float, cancelled: Cancellation) -> None:
        super().__init__()
        self._timer = threading.Timer(seconds, self.set)
        self._timer.daemon = True
        self._cancelled = cancelled

    def __enter__(self) -> Deadline:
        self._timer.start()
        self._cancelled.stops(self.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @property
    def is_over(self) -> bool:
        """Whether it was the time that has set it."""
        return self.is_set() and not self._cancelled.is_set()


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def cancel_on_signals(cancelled: Cancellation) -> Iterator[None]:
    """A context in which the first SIGINT or SIGTERM sets ``cancelled`` and raises :class:`Interrupted`.

    More of them do nothing, also after the context has ended: they must not break into the end of the run.
    """
    arrivals: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        # Another one may come while this is at work, between any two steps.
        is_first = not arrivals
        arrivals.append(number)
        if is_first:
            cancelled.set()
            raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if cancelled.is_set() else handler)
