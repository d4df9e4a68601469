"""What a push does to many images at once: its threads, and one error for all that could not be pushed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from buildtools import BuildToolsError, Failures, expected_failures
from buildtools.image.registry.image_to_push import ImageToPush
from buildtools.schedule import all_ended

_Value = TypeVar("_Value")

# A registry answers 8 requests in parallel about as fast as one; with more it makes the others wait.
_JOBS = 8


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A thread pool; tasks that have not started are dropped when the block ends."""
    pool = ThreadPoolExecutor(max_workers=_JOBS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def each_image(
    pool: ThreadPoolExecutor, work: Callable[[ImageToPush], _Value], images: Iterable[ImageToPush]
) -> dict[ImageToPush, _Value]:
    """The results of ``work`` for every image, in parallel; errors are raised once all have ended."""
    running = {image: pool.submit(work, image) for image in images}
    all_ended(running.values())
    errors = expected_failures(error for future in running.values() if (error := future.exception()))
    if errors:
        raise _together(errors)
    return {image: future.result() for image, future in running.items()}


def _together(errors: Sequence[BuildToolsError]) -> BuildToolsError:
    """One error with the messages of several."""
    failures = Failures(errors)
    return failures.combined(f"{len(failures.errors)} images could not be pushed", "fix the errors above and run again")
