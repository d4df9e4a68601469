"""The user has had enough: how those who work are told."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Cancellation(threading.Event):
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
