"""Examine many entries in several processes at once.

Git uses threads for this (``core.preloadIndex``); threads in Python would wait for each other.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise

_END = 0xFFFFFFFF  # no position: an index counts its entries in 32 bits, and has fewer
_MOST = 8


def processes() -> int:
    """How many processes may share the work, including this one; 1 if none may be added."""
    # A lock that another thread holds at the fork stays locked in the child.
    if sys.platform != "linux" or len(os.listdir("/proc/self/task")) > 1:
        return 1
    return min(_MOST, len(os.sched_getaffinity(0)))


def gathered(find: Callable[[int, int | None], Sequence[int]], total: int, shares: int) -> list[int]:
    """The results of ``find(first, end)`` for all positions, in order; this process computes the last share."""
    borders = [total * share // shares for share in range(shares)]
    helpers = [_Helper(find, first, end) for first, end in pairwise(borders)]
    try:
        last = find(borders[-1], None)
    finally:
        parts = [helper.positions() for helper in helpers]
    positions: list[int] = []
    for (first, end), part in zip(pairwise(borders), parts, strict=True):
        positions += find(first, end) if part is None else part
    return [*positions, *last]


class _Helper:
    """A child process that computes one share and returns it through a pipe."""

    def __init__(self, find: Callable[[int, int | None], Sequence[int]], first: int, end: int) -> None:
        self._pipe, writing = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            self._pid = -1  # too many processes: the empty pipe is the answer
        if self._pid == 0:
            status = 1
            try:
                with open(writing, "wb", buffering=0) as pipe:
                    left = memoryview(array("I", [*find(first, end), _END]).tobytes())
                    while left:
                        left = left[pipe.write(left) :]
                status = 0
            finally:
                # The child must not flush this process's buffers or run its exit handlers.
                os._exit(status)
        os.close(writing)

    def positions(self) -> list[int] | None:
        """The child's result; ``None`` if it failed, and the share still has to be computed."""
        with open(self._pipe, "rb") as pipe:
            answer = pipe.read()
        if self._pid > 0:
            # The program that uses us may reap all children itself.
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        numbers = array("I", answer[: len(answer) // 4 * 4]).tolist()
        return numbers[:-1] if numbers and numbers[-1] == _END else None
