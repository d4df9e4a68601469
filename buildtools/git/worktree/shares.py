"""Looking at many entries in several processes at once.

Git asks for the status of files in threads (``core.preloadIndex``); those of Python would wait for one another.
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
    """How many processes may share the work, this one among them; 1 where none may be added."""
    # What a forked child finds locked by another thread stays locked.
    if sys.platform != "linux" or len(os.listdir("/proc/self/task")) > 1:
        return 1
    return min(_MOST, len(os.sched_getaffinity(0)))


def gathered(find: Callable[[int, int | None], Sequence[int]], total: int, shares: int) -> list[int]:
    """What ``find(first, end)`` gives for all positions, in order; the last share is worked out in this process."""
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
    """A child that works out one share and tells it through a pipe."""

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
                # Nothing that this process has buffered or registered is the child's to write or to run.
                os._exit(status)
        os.close(writing)

    def positions(self) -> list[int] | None:
        """The child's answer; ``None`` when it came to nothing, and the share is still to be worked out."""
        with open(self._pipe, "rb") as pipe:
            answer = pipe.read()
        if self._pid > 0:
            # The program around may collect all children itself.
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        numbers = array("I", answer[: len(answer) // 4 * 4]).tolist()
        return numbers[:-1] if numbers and numbers[-1] == _END else None
