"""Runs a graph of work: what is ready runs in parallel, what depends on a failure is skipped."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Generic, TypeVar

from buildtools import BuildToolsError
from buildtools.frozen import frozen

_Value = TypeVar("_Value")

# How many questions a service is asked at once, where no other limit is set. A distant registry takes 20 ms to answer,
# and a release of a thousand images needs several thousand answers.
QUESTIONS_AT_ONCE = 32
# The longest single wait, in seconds: a signal that arrives just as the main thread starts to wait for a lock or
# another thread does not wake it.
_STEP = 1.0
# How long a write to a store or registry of several servers may take to become visible, in seconds. After that it
# counts as an outage, and the user runs the same again.
REPLICATION_SECONDS = 5.0
_REPLICATION_PAUSE = 0.25


@frozen
class Results(Generic[_Value]):
    """How each name ended, in graph order: done with a value, failed with an error, or skipped.

    ``skipped`` maps a name to the failed or skipped parent that it needs; a cancelled run skips with an empty reason.
    """

    done: Mapping[str, _Value]
    failed: Mapping[str, BuildToolsError]
    skipped: Mapping[str, str]


class _Queue:
    """The names of a graph that were not begun. A name is ready once its parents are done."""

    def __init__(self, parents: Mapping[str, Collection[str]]) -> None:
        graph = {name: {parent for parent in above if parent in parents} for name, above in parents.items()}
        self._children: dict[str, list[str]] = {name: [] for name in graph}
        for name, above in graph.items():
            for parent in above:
                self._children[parent].append(name)
        # With the number of parents that are not done.
        self._waiting = {name: len(above) for name, above in graph.items()}
        self._places = {name: place for place, name in enumerate(graph)}
        # Sorted by their places in the graph, as a heap.
        self._ready = [(place, name) for name, place in self._places.items() if not self._waiting[name]]

    def __len__(self) -> int:
        return len(self._waiting)

    def pop(self) -> str | None:
        """The first name that is ready, in graph order; None if there is none."""
        if not self._ready:
            return None
        _, name = heapq.heappop(self._ready)
        del self._waiting[name]
        return name

    def clear(self) -> list[str]:
        """Take all names out."""
        names = list(self._waiting)
        self._waiting.clear()
        self._ready.clear()
        return names

    def release_children(self, name: str) -> None:
        """Note that a name is done: what waited for it alone is ready."""
        for child in self._children[name]:
            if child in self._waiting:
                self._waiting[child] -= 1
                if not self._waiting[child]:
                    heapq.heappush(self._ready, (self._places[child], child))

    def drop_dependents(self, name: str) -> dict[str, str]:
        """Take out what depends on a name that failed; returns each with the parent that it lacks."""
        lacking: dict[str, str] = {}
        names = [name]
        while names:
            parent = names.pop()
            for child in self._children[parent]:
                if child in self._waiting:
                    del self._waiting[child]
                    lacking[child] = parent
                    names.append(child)
        return lacking


def run_graph(
    parents: Mapping[str, Collection[str]],
    work: Callable[[str], _Value],
    *,
    jobs: int,
    cancelled: threading.Event | None = None,
) -> Results[_Value]:
    """Do ``work`` for every name, parents first, up to ``jobs`` at once.

    Parents that are not names of the graph count as done. An expected failure (:class:`BuildToolsError`) is recorded
    and its dependents are skipped, while the rest goes on. Any other exception ends the run and is raised.
    """
    queue = _Queue(parents)
    done: dict[str, _Value] = {}
    failed: dict[str, BuildToolsError] = {}
    skipped: dict[str, str] = {}
    running: dict[Future[_Value], str] = {}
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        while queue or running:
            if cancelled is not None and cancelled.is_set():
                skipped |= dict.fromkeys(queue.clear(), "")
            while len(running) < max(1, jobs) and (ready := queue.pop()) is not None:
                running[pool.submit(work, ready)] = ready
            if not running:
                skipped |= dict.fromkeys(queue.clear(), "")
                break
            futures, _ = wait(running, _STEP, return_when=FIRST_COMPLETED)
            for future in futures:
                name = running.pop(future)
                try:
                    done[name] = future.result()
                except BuildToolsError as error:
                    failed[name] = error
                    skipped |= queue.drop_dependents(name)
                else:
                    queue.release_children(name)
    order = list(parents)
    return Results(
        {name: done[name] for name in order if name in done},
        {name: failed[name] for name in order if name in failed},
        {name: skipped[name] for name in order if name in skipped},
    )


def all_ended(futures: Collection[Future[Any]]) -> None:
    """Wait until all of them have ended."""
    for future in futures:
        # To wait for all of them at once takes the lock of each, at every step.
        while not future.done():
            wait([future], _STEP)


def awaited(
    look_up: Callable[[], _Value | None], *, seconds: float = REPLICATION_SECONDS, pause: float = _REPLICATION_PAUSE
) -> _Value | None:
    """What ``look_up`` returns, retried because it may take a while to become visible; None after ``seconds``."""
    end = time.monotonic() + seconds
    while (value := look_up()) is None and time.monotonic() < end:
        time.sleep(pause)
    return value


def side_by_side(questions: Sequence[Callable[[], _Value]], *, jobs: int) -> list[_Value]:
    """The answers to questions without side effects, in order; up to ``jobs`` are asked at once.

    An error, or an interrupt of the calling thread, ends it: the remaining questions are not asked, and nobody waits
    for the answers to come.
    """
    answers: dict[int, _Value] = {}
    errors: list[BaseException] = []
    waiting = deque(enumerate(questions))
    ended = threading.Semaphore(0)
    count = min(jobs, len(questions))

    def ask() -> None:
        with suppress(IndexError):
            while True:
                number, question = waiting.popleft()
                try:
                    answers[number] = question()
                except BaseException as error:  # noqa: BLE001  it is raised where the answers are awaited
                    errors.append(error)
                    waiting.clear()
        ended.release()

    for _ in range(count):
        # An executor's threads would be waited for, at the latest when the program ends.
        threading.Thread(target=ask, daemon=True).start()
    try:
        for _ in range(count):
            while not ended.acquire(timeout=_STEP):
                pass
            if errors:
                raise errors[0]
    finally:
        waiting.clear()
    return [answers[number] for number in range(len(questions))]
