"""Tags that follow a release: which of them are outdated, and moving them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from buildtools import Failures, expected_failures
from buildtools.frozen import frozen
from buildtools.image.reference import Reference
from buildtools.image.registry.lookup import move_tag, tag_digest
from buildtools.release import ReleasedImage
from buildtools.schedule import all_ended, side_by_side
from buildtools.task_context import TaskContext

_JOBS = 8


@frozen
class TagMove:
    """A tag that is to be moved, or was. ``before`` and ``after`` are digests; ``before`` is empty for a new tag."""

    reference: str
    before: str
    after: str


def outdated_tags(task: TaskContext, images: Sequence[ReleasedImage], tag: str) -> tuple[TagMove, ...]:
    """The moves that make ``tag`` point to each of these images, without tags that already do."""
    questions = [
        partial(tag_digest, task.services.registry_at(image.registry), image.repository, tag) for image in images
    ]
    digests = side_by_side(questions, jobs=_JOBS)
    return tuple(
        TagMove(f"{image.registry}/{image.repository}:{tag}", digest or "", image.digest)
        for image, digest in zip(images, digests, strict=True)
        if digest != image.digest
    )


def check_rights(task: TaskContext, moves: Iterable[TagMove]) -> None:
    """Check that the moves are permitted, without leaving anything behind.

    :raises BuildToolsError: with every failure; ``Refused`` if the registry denies access.
    """

    def check(move: TagMove) -> None:
        tag = Reference.parse(move.reference)
        task.services.registry_at(tag.registry).check_push_access(tag.repository)

    _each(moves, check, "cannot be moved")


def move_tags(task: TaskContext, moves: Iterable[TagMove]) -> None:
    """Move the tags; a failure does not stop the others.

    :raises BuildToolsError: with every failure.
    """

    def make(move: TagMove) -> None:
        tag = Reference.parse(move.reference)
        move_tag(task.services.registry_at(tag.registry), tag.repository, tag.tag, move.after)

    _each(moves, make, "were not moved")


def _each(moves: Iterable[TagMove], work: Callable[[TagMove], None], failed: str) -> None:
    """Do ``work`` for several moves at once; ``failed`` completes the message about those that fail."""
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        running = [pool.submit(work, move) for move in moves]
        all_ended(running)
    errors = expected_failures(error for future in running if (error := future.exception()))
    if errors:
        raise Failures(errors).combined(
            f"{len(errors)} of {len(running)} tags {failed}", "correct what is named above and run again"
        )
