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
    graph = {name: {parent for parent in above if parent in parents} for name, above in parents.items()}
    children: dict[str, list[str]] = {name: [] for name in graph}
    for name, above in graph.items():
        for parent in above:
            children[parent].append(name)
    # Names that were not begun, with the number of parents that are not done.
    waiting = {name: len(above) for name, above in graph.items()}
    places = {name: place for place, name in enumerate(graph)}
    # Sorted by their places in the graph, as a heap.
    ready = [(place, name) for name, place in places.items() if not waiting[name]]
    done: dict[str, _Value] = {}
    failed: dict[str, BuildToolsError] = {}
    skipped: dict[str, str] = {}
    running: dict[Future[_Value], str] = {}
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        while waiting or running:
            if cancelled is not None and cancelled.is_set():
                skipped |= dict.fromkeys(waiting, "")
                waiting.clear()
                ready.clear()
            while ready and len(running) < max(1, jobs):
                _, name = heapq.heappop(ready)
                del waiting[name]
                running[pool.submit(work, name)] = name
            if not running:
                skipped |= dict.fromkeys(waiting, "")
                break
            futures, _ = wait(running, _STEP, return_when=FIRST_COMPLETED)
            for future in futures:
                name = running.pop(future)
                try:
                    done[name] = future.result()
                except BuildToolsError as error:
                    failed[name] = error
                    _skip_dependents(name, children, waiting, skipped)
                    continue
                for child in children[name]:
                    if child in waiting:
                        waiting[child] -= 1
                        if not waiting[child]:
                            heapq.heappush(ready, (places[child], child))
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


def _skip_dependents(
    name: str, children: Mapping[str, Sequence[str]], waiting: dict[str, int], skipped: dict[str, str]
) -> None:
    names = [name]
    while names:
        parent = names.pop()
        for child in children[parent]:
            if child in waiting:
                del waiting[child]
                skipped[child] = parent
                names.append(child)
