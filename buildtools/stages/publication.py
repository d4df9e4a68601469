"""The part of a release that only ``publish`` has: its preflight, and its members as they are made and staged.

The protocol that this follows is in :mod:`buildtools.stages.releases`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

from buildtools import BuildToolsError, Cancelled, Failures, Refused, expected_failures, release
from buildtools.cancellation import Cancellation
from buildtools.channel import CHANNELS, channel_name, refuse_name
from buildtools.git.checkout import read_version, refuse_dirty
from buildtools.image.registry.image_to_push import PushedImage
from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.schedule import all_ended
from buildtools.stages.archives import store_archives
from buildtools.stages.channels import move_plan
from buildtools.stages.image_names import repository
from buildtools.stages.images import push_images, rfc3339
from buildtools.stages.planned import Planned
from buildtools.stages.releases import claim_version, manifest_location, preflight_failure, released
from buildtools.stages.signatures import check_keys
from buildtools.task_context import TaskContext

_Value = TypeVar("_Value")

_CHECKS = 8


def preflight(task: TaskContext) -> None:
    """Check everything that could stop a release before anything costly, and report all errors at once.

    :raises Conflict: if the version is released from another commit.
    :raises BuildToolsError: with every failure.
    """
    names = dict.fromkeys(folder.image for folder in task.image_folders())
    with ThreadPoolExecutor(max_workers=_CHECKS) as pool:
        of_store = pool.submit(_errors, lambda: task.services.store.check_access(dry_run=task.run.dry_run))
        of_channels = pool.submit(_errors, partial(_channel_errors, task))
        errors = _errors(lambda: task.services.registry.ping())
        if not errors:
            accesses = [partial(task.services.registry.check_push_access, repository(task, name)) for name in names]
            errors = [error for some in pool.map(_errors, accesses) for error in some]
        errors += [*of_store.result(), *of_channels.result(), *_errors(partial(_key_errors, task))]
    if errors:
        raise preflight_failure(errors)
    existing = None if task.version.dirty else released(task, task.version)
    if existing and existing.commit != task.version.commit:
        release.refuse_other_content(replace(existing, commit=task.version.commit), existing)


def _key_errors(task: TaskContext) -> None:
    if not task.version.dirty:
        check_keys(task)


def _channel_errors(task: TaskContext) -> list[str]:
    """The tags of this version that are names of channels; such a tag can be neither a version nor a moving tag.

    :raises Refused: if a configured channel may not have its name.
    """
    for name in task.settings.channels:
        refuse_name(name, task.settings.moving_tags)
    moving = release.moving_tags(task.settings.moving_tags, task.version, ())
    names = {*task.settings.channels, *(channel_name(entry.key) for entry in task.services.store.list(CHANNELS))}
    return [
        f"{tag} is the name of a channel: rename the git tag, or take {tag} out of moving_tags"
        for tag in dict.fromkeys((task.version.image_tag, *moving))
        if tag in names
    ]


def stage_members(task: TaskContext) -> Release:
    """Upload images and archives in parallel; the release consists of them as read back.

    No tag of the version is set and no archive appears before all images and archives are made and the version is
    claimed. So a version that fails leaves its names free for the commit that corrects it. An upload that fails while
    images are built stops these, since it needs no answer from them.

    :raises Conflict: if the version is claimed by another commit.
    :raises Refused: if the tree changed meanwhile, so that the members may not match the commit.
    """
    barrier = Barrier(2, action=None if task.version.dirty else partial(_claim, task))
    stopped = Cancellation()

    def stop_images() -> None:
        stopped.set()
        barrier.abort()

    with ThreadPoolExecutor(max_workers=2) as pool:
        images = pool.submit(_side, barrier, partial(push_images, task.until(stopped)))
        archives = pool.submit(_side, barrier, partial(store_archives, task, stop_images=stop_images))
        all_ended((images, archives))
        errors = [error for side in (images, archives) if (error := side.exception())]
    if errors:
        # A side that only stopped because of the other has no error of its own.
        causes = [error for error in errors if not isinstance(error, (BrokenBarrierError, Cancelled))] or errors
        raise Failures(expected_failures(causes)).combined(
            "neither images nor archives are complete", "fix the errors above and run again"
        )
    return release_of(task, images.result(), archives.result())


def release_of(task: TaskContext, images: Iterable[PushedImage], archives: tuple[ReleasedArchive, ...] = ()) -> Release:
    """The release that consists of these members."""
    version = task.version
    members = (
        ReleasedImage(
            image.name,
            task.settings.registry,
            repository(task, image.name),
            version.image_tag,
            image.digest,
            image.fingerprint,
        )
        for image in images
    )
    created = rfc3339(task.checkout.committed)
    return Release(version.text, version.commit, created, tuple(members), archives)


def _claim(task: TaskContext) -> None:
    """Claim the version for this commit.

    In a registry the last writer of a tag wins; in the store the first one does.
    """
    version = task.version
    refuse_dirty(task.settings.root, task.run.environment)
    if read_version(task.settings.root, task.settings.tag_prefix, task.run.environment).commit != version.commit:
        raise Refused(f"another commit was checked out while {version} was made", "run again, and leave the tree alone")
    claim_version(task, version, version.commit)


def _side(barrier: Barrier, work: Callable[[Callable[[], object]], _Value]) -> _Value:
    """The result of ``work``, which gets a function to wait for the other side.

    A failure here ends the other's wait.
    """
    try:
        return work(barrier.wait)
    except BaseException:
        barrier.abort()
        raise


def manifest_plan(task: TaskContext) -> tuple[Planned, ...]:
    """What would happen to the manifest, and to what then points to the version."""
    version = task.version
    existing = None if version.dirty else released(task, version)
    action = "not be written" if version.dirty else "be compared" if existing else "be written"
    manifest = Planned(manifest_location(task, version), action)
    return (manifest, *move_plan(task, version, existing.images if existing else ()))


def _errors(check: Callable[[], Iterable[str] | None]) -> list[BuildToolsError]:
    """The errors of a check that raises or returns a list of reasons."""
    try:
        return [Refused(reason) for reason in check() or ()]
    except BuildToolsError as error:
        return [error]
