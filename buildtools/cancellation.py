"""How a cancelled run stops its work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class SignalSafeEvent(threading.Event):
    """An event that a signal handler may set.

    A handler runs in the main thread, between any two of its steps, and the lock of a ``threading.Event`` is not
    reentrant. If the main thread holds that lock, to wait for the event or to set it, a handler that sets the event
    deadlocks, and the process then obeys only SIGKILL.
    """

    _cond: Any

    def __init__(self) -> None:
        super().__init__()
        self._cond = threading.Condition(threading.RLock())


class Cancellation(SignalSafeEvent):
    """An event that is set once, for good.

    Most code polls it between two steps. A thread that blocks where it cannot poll registers a callback with
    :meth:`stops`; callbacks run in whichever thread sets the event, perhaps in a signal handler.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stops: list[Callable[[], object]] = []

    def stops(self, stop: Callable[[], object]) -> None:
        """Call ``stop`` when this is set; at once if it already is."""
        self._stops.append(stop)
        if self.is_set():
            stop()

    def set(self) -> None:
        """Set it, and run the callbacks."""
        super().set()
        for stop in self._stops:
            stop()


class Deadline(SignalSafeEvent):
    """An event that is set when its time is up or the run is cancelled. A context manager."""

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
        """Whether the time is up, rather than the run cancelled."""
        return self.is_set() and not self._cancelled.is_set()


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP arrived; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def cancel_on_signals(cancelled: Cancellation) -> Iterator[None]:
    """A context in which the first SIGINT, SIGTERM or SIGHUP sets ``cancelled`` and raises :class:`Interrupted`.

    A terminal sends SIGHUP when it closes; where that is ignored, as under ``nohup``, it stays ignored. Later signals
    do nothing, even after the context has ended, so they cannot interrupt the clean-up.
    """
    arrivals: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        # Another signal may arrive between any two of these steps.
        is_first = not arrivals
        arrivals.append(number)
        if is_first:
            cancelled.set()
            raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if cancelled.is_set() else handler)
