"""Work over a graph: what is ready runs side by side, what depends on a failure is skipped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from buildtools import BuildToolsError

Value = TypeVar("Value")

# Nothing waits longer than so many seconds at a time: a signal that arrives just as the main thread goes to sleep on a
# lock, or at another thread, does not wake it.
_STEP = 1.0


@dataclass(frozen=True)
class Results(Generic[Value]):
    """How each name ended, in the order of the graph: done with a value, failed with an error, or skipped.

    ``skipped`` maps a name to the one that it could not do without; a cancelled run skips with an empty reason.
    """

    done: Mapping[str, Value]
    failed: Mapping[str, BuildToolsError]
    skipped: Mapping[str, str]


def run(
    parents: Mapping[str, Collection[str]],
    work: Callable[[str], Value],
    *,
    jobs: int,
    cancelled: threading.Event | None = None,
) -> Results[Value]:
    """Do ``work`` for every name, parents first, up to ``jobs`` at once.

    Parents that are not names of the graph are taken as done. An expected failure (:class:`BuildToolsError`) is
    recorded and its dependents are skipped while the rest goes on; any other exception ends the run and is raised.
    """
    waiting = {name: {parent for parent in needed if parent in parents} for name, needed in parents.items()}
    done: dict[str, Value] = {}
    failed: dict[str, BuildToolsError] = {}
    skipped: dict[str, str] = {}
    running: dict[Future[Value], str] = {}
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        while waiting or running:
            if cancelled is not None and cancelled.is_set():
                skipped |= dict.fromkeys(waiting, "")
                waiting.clear()
            ready = [name for name, needed in waiting.items() if not needed - done.keys()]
            for name in ready[: max(1, jobs) - len(running)]:
                del waiting[name]
                running[pool.submit(work, name)] = name
            if not running:
                skipped |= dict.fromkeys(waiting, "")
                break
            finished, _ = wait(running, _STEP, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                try:
                    done[name] = future.result()
                except BuildToolsError as error:
                    failed[name] = error
                    _skip_dependents(name, waiting, skipped)
    order = list(parents)
    return Results(
        {name: done[name] for name in order if name in done},
        {name: failed[name] for name in order if name in failed},
        {name: skipped[name] for name in order if name in skipped},
    )


def all_ended(futures: Collection[Future[Any]]) -> None:
    """Wait until all of them have ended."""
    while wait(futures, _STEP).not_done:
        pass


def _skip_dependents(name: str, waiting: dict[str, set[str]], skipped: dict[str, str]) -> None:
    for dependent in [other for other, needed in waiting.items() if name in needed]:
        if dependent in waiting:
            del waiting[dependent]
            skipped[dependent] = name
            _skip_dependents(dependent, waiting, skipped)
