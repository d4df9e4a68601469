"""Releases: preflight, members, manifest, moving tags.

The problem. A version consists of images in registries and archives in an object store. No transaction spans these
services, any request may fail, and a run may be killed between any two of them. Yet a version must exist as a whole or
not at all, and must be one commit's only.

The answer is one small object that is written last, by a conditional write, and names everything by its content:

1. **Make.** Build images and archives under names that belong to no version (``fp-`` tags, ``dist/``). What fails here
   leaves nothing of the version.
2. **Claim** (:func:`_claim`). ``claims/V.json`` is created with ``If-None-Match: *``. It holds the commit and nothing
   that differs between two runs, so the same commit finds its own claim again and another one is refused. From here on
   only one commit writes under the names of ``V``. Both sides, images and archives, wait for each other before it
   (the barrier in :func:`stage_members`), so that a version that cannot be made is not claimed.
3. **Stage.** Set the tags ``:V``, upload the archives, and read back each of them. Neither is a release yet: a reader
   looks at manifests alone.
4. **Commit** (:func:`commit`). ``releases/V.json`` is created with ``If-None-Match: *``, and read back. This write is
   the release. Who comes second reads what is there and compares: equal content is success, other content a conflict.
5. **Point** (:func:`point`). Move moving tags such as ``latest``. They follow from the manifests that exist, so each
   run may do it anew; a run that sees a newer release afterwards gives the tag back to that one.

Why a kill is harmless: each step's write is one request, takes effect whole or not at all, and is repeated safely by
the next run, which finds out by reading where the last one stopped. There is no state on the machine that runs it.

Why a race is harmless: the two conditional writes decide. Between claim and manifest two runs of one commit may both
stage; whose bytes the manifest names is released, and the other one's tag is moved back.

What is believed: a member's digest after it was read back, or a checksum that the service computed itself; never the
answer to a write, nor a note that an uploader left. ``docs/internals.md`` has the states and races as tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

from buildtools import BuildToolsError, Conflict, Drifted, Failures, Refused, Unreachable, expected_failures, release
from buildtools.channel import CHANNELS, Channel, channel_key, channel_name, may_be_channel
from buildtools.git.checkout import read_version, refuse_dirty
from buildtools.image.registry.lookup import move_tag
from buildtools.image.registry.push import PushedImage
from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.schedule import all_ended, awaited
from buildtools.stages.archives import store_archives
from buildtools.stages.image_names import repository
from buildtools.stages.images import push_images, rfc3339
from buildtools.stages.planned import Planned
from buildtools.stages.signatures import check_keys, refuse_unsigned
from buildtools.stages.tag_moves import move_tags, outdated_tags
from buildtools.task_context import TaskContext
from buildtools.version import Version

_Value = TypeVar("_Value")

_CHECKS = 8


def preflight(task: TaskContext) -> None:
    """Everything that could stop a release, found out before anything costs; all errors at once.

    :raises Conflict: the version is released from another commit.
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


def preflight_failure(errors: Iterable[BuildToolsError]) -> BuildToolsError:
    """One error for all that would stop a release."""
    failures = Failures(errors)
    return failures.combined(f"preflight failed ({len(failures.errors)} errors)", "fix the errors above and run again")


def _key_errors(task: TaskContext) -> None:
    if not task.version.dirty:
        check_keys(task)


def _channel_errors(task: TaskContext) -> list[str]:
    """A tag that is a channel's belongs to no version, and is no moving tag."""
    moving = release.moving_tags(task.settings.moving_tags, task.version, ())
    names = {channel_name(entry.key) for entry in task.services.store.list(CHANNELS)}
    return [
        f"{tag} is the name of a channel: rename the git tag, or take {tag} out of moving_tags"
        for tag in dict.fromkeys((task.version.image_tag, *moving))
        if tag in names
    ]


def stage_members(task: TaskContext) -> Release:
    """Send images and archives up side by side; what came of it, as read back, is the release.

    No tag of the version is set and no archive sent before all images and all archives are made, and the version is
    claimed: one that cannot be finished leaves its names free for the one that corrects it.

    :raises Conflict: the version is claimed by another commit.
    :raises Refused: what was made may not be what the commit says, for the tree has changed meanwhile.
    """
    barrier = Barrier(2, action=None if task.version.dirty else partial(_claim, task))
    with ThreadPoolExecutor(max_workers=2) as pool:
        images = pool.submit(_side, barrier, partial(push_images, task))
        archives = pool.submit(_side, barrier, partial(store_archives, task))
        all_ended((images, archives))
        errors = [error for side in (images, archives) if (error := side.exception())]
    if errors:
        # A side that only stopped waiting for the other one has nothing to say of its own.
        causes = [error for error in errors if not isinstance(error, BrokenBarrierError)] or errors
        raise Failures(expected_failures(causes)).combined(
            "neither images nor archives are complete", "fix the errors above and run again"
        )
    return release_of(task, images.result(), archives.result())


def release_of(task: TaskContext, images: Iterable[PushedImage], archives: tuple[ReleasedArchive, ...] = ()) -> Release:
    """The release that these members make up."""
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


def commit(task: TaskContext, staged: Release) -> tuple[Release, bool]:
    """Write the manifest, which makes the version exist; the release, and whether this wrote it or it was there before.

    The manifest is read back like every member: what the answer to a write says is not believed.

    What two agents built of the same inputs may differ in its bytes. The manifest says whose is released, and a tag
    that the other one moved goes back to it.

    :raises Conflict: the version is released with other content, or was pruned meanwhile.
    :raises Drifted: the manifest that is there is not signed as it must be.
    :raises Unreachable: the store says that it wrote the manifest, and does not have it.
    """
    version, manifest = Version.parse(staged.version), staged.manifest()
    # Whoever prunes takes the claim away last: while it is there, so is what was read back, or it is being taken away.
    if not awaited(lambda: task.services.store.head(release.claim_key(version))):
        raise Conflict(f"version {version} was pruned while it was released", "run the same again")
    refuse_pruned(task, version)
    written = task.services.store.create(release.manifest_key(version), manifest, "application/json")
    # A replicated store may show an object a moment late.
    existing = awaited(lambda: released(task, version))
    if existing is None:
        raise Unreachable(
            f"{manifest_location(task, version)} is not there after it was written",
            "nothing is released; check the store, then run the same again",
        )
    if written and existing.manifest() == manifest:
        return staged, True
    ours = {image.name: image for image in staged.images}
    same = {
        image.name: image
        for image in existing.images
        if image.name in ours and replace(image, digest=ours[image.name].digest) == ours[image.name]
    }
    release.refuse_other_content(replace(staged, images=tuple(same.get(name, ours[name]) for name in ours)), existing)
    refuse_unsigned(task, existing)
    for name, image in same.items():
        if image != ours[name]:
            move_tag(task.services.registry, image.repository, image.tag, image.digest)
    return existing, False


def point(task: TaskContext, version: Version, staged: Release) -> tuple[str, ...]:
    """Move the moving tags that this version takes over; those that were moved.

    A newer version that was released meanwhile gets them back: it may have moved them first.

    :raises Drifted: the newer one is not signed as it must be.
    """
    patterns = task.settings.moving_tags
    if not patterns:
        return ()
    references = []
    tags = release.moving_tags(patterns, version, list(_released_versions(task)))
    for tag in tags:
        moves = outdated_tags(task, staged.images, tag)
        move_tags(task, moves)
        references += [move.reference for move in moves]
    # A release writes its manifest before it moves a tag, so whoever moves one last sees all that are newer.
    for later in _released_versions(task) if references else ():
        is_rival = later > version and not set(tags).isdisjoint(release.moving_tags(patterns, later, ()))
        if is_rival and (newer := released(task, later)):
            refuse_unsigned(task, newer)
            references += point(task, later, newer)
    return tuple(dict.fromkeys(references))


def manifest_keys(task: TaskContext) -> list[str]:
    """Where manifests lie; what else lies beside them is left alone."""
    return [entry.key for entry in task.services.store.list("releases/") if release.version_of(entry.key)]


def read_releases(task: TaskContext) -> tuple[list[Release], list[BuildToolsError]]:
    """Every release, and the failures of manifests that cannot be read."""
    store, keys = task.services.store, manifest_keys(task)
    readable, errors = [], []
    for key, content in zip(keys, store.read_all(keys), strict=True):
        try:
            # One that was deleted since it was listed is no release any more.
            readable += [_listed_release(content.data, key, store.location(key))] if content else []
        except BuildToolsError as error:
            errors.append(error)
    return readable, errors


def _listed_release(manifest: bytes, key: str, location: str) -> Release:
    existing = Release.parse(manifest, location)
    if release.manifest_key(Version.parse(existing.version)) != key:
        raise BuildToolsError(f"{location} is the manifest of {existing.version}", "restore it from a backup")
    return existing


def refuse_pruned(task: TaskContext, version: Version) -> None:
    """Nothing, unless a run is taking the version away, or was killed while it did.

    :raises Conflict: it is.
    """
    if task.services.store.head(release.prune_key(version)):
        raise Conflict(
            f"version {version} is being pruned ({task.services.store.location(release.prune_key(version))})",
            "let `invoke prune` finish that, or choose another version",
        )


def _released_versions(task: TaskContext) -> Iterator[Version]:
    """Every version that has a manifest."""
    for key in manifest_keys(task):
        version = release.version_of(key)
        if version and "_" not in version.text:
            yield version
        elif version:
            # A name has "_" where the version may have "+", and then only the manifest can tell.
            try:
                manifest = released(task, version)
            except Unreachable:
                raise
            except BuildToolsError:
                continue
            if manifest:
                yield Version.parse(manifest.version)


def named_release(task: TaskContext, name: str) -> Release:
    """The release that a user means by ``name``, which is a version or a channel.

    :raises Refused: there is none.
    """
    content = task.services.store.read(channel_key(name)) if may_be_channel(name) else None
    if content:
        return channel_release(task, Channel.parse(content.data, task.services.store.location(channel_key(name))))
    return released_version(task, Version.parse(name))


def channel_release(task: TaskContext, channel: Channel) -> Release:
    """The release that a channel points to.

    :raises Drifted: it is not released any more, or from another commit.
    """
    last = channel.moves[-1]
    version = Version.parse(last.version)
    existing = released(task, version)
    if existing is None or (existing.version, existing.commit) != (last.version, last.commit):
        raise Drifted(
            f"{channel.name} points to {version} of commit {last.commit[:12]}, "
            f"and {manifest_location(task, version)} is not that",
            f"restore the manifest, or point {channel.name} to another version with --to",
        )
    return existing


def released(task: TaskContext, version: Version) -> Release | None:
    """The release of a version, as its manifest tells; None where there is none."""
    manifest = read_manifest(task, version)
    return Release.parse(manifest, manifest_location(task, version)) if manifest else None


def released_version(task: TaskContext, version: Version) -> Release:
    """The release of a version.

    :raises Refused: the version is not released.
    """
    existing = released(task, version)
    if existing is None or existing.version != version.text:
        location = manifest_location(task, version)
        why = f"{location} is that of {existing.version}" if existing else f"{location} does not exist"
        raise Refused(
            f"version {version} is not released: {why}", "release it with `invoke publish`, or name another version"
        )
    return existing


def read_manifest(task: TaskContext, version: Version) -> bytes:
    """The manifest of a version as it was published; empty where there is none."""
    content = task.services.store.read(release.manifest_key(version))
    return content.data if content else b""


def manifest_location(task: TaskContext, version: Version) -> str:
    """Where the manifest of a version is, for people."""
    return task.services.store.location(release.manifest_key(version))


def _claim(task: TaskContext) -> None:
    """Take the version for this commit. A registry lets whoever comes last have a tag; the store lets the first."""
    version = task.version
    refuse_dirty(task.settings.root, task.run.environment)
    if read_version(task.settings.root, task.settings.tag_prefix, task.run.environment).commit != version.commit:
        raise Refused(f"another commit was checked out while {version} was made", "run again, and leave the tree alone")
    claim_version(task, version, version.commit)


def claim_version(task: TaskContext, version: Version, commit: str) -> None:
    """Take a version for a commit.

    :raises Conflict: another commit has it.
    """
    key = release.claim_key(version)
    claim = json.dumps({"schema": 1, "version": version.text, "commit": commit}).encode() + b"\n"
    if task.services.store.create(key, claim, "application/json"):
        refuse_pruned(task, version)
        return
    existing = awaited(lambda: task.services.store.read(key))
    if existing is None:
        raise Unreachable(f"{task.services.store.location(key)} is not there after it was written", "check the store")
    if existing.data != claim:
        raise Conflict(
            f"version {version} is claimed by another commit (publish running or unfinished)",
            f"cut a new version, or delete {task.services.store.location(key)} to abandon that one",
        )
    refuse_pruned(task, version)


def _side(barrier: Barrier, work: Callable[[Callable[[], object]], _Value]) -> _Value:
    """What ``work`` gives; it is handed how to wait for the other side, which stops waiting where this one fails."""
    try:
        return work(barrier.wait)
    except BaseException:
        barrier.abort()
        raise


def manifest_plan(task: TaskContext) -> Planned:
    """What would become of the manifest."""
    version = task.version
    exists = not version.dirty and released(task, version) is not None
    action = "not be written" if version.dirty else "be compared" if exists else "be written"
    return Planned(manifest_location(task, version), action)


def _errors(check: Callable[[], Iterable[str] | None]) -> list[BuildToolsError]:
    """What is wrong, by an exception or by a list of reasons."""
    try:
        return [Refused(reason) for reason in check() or ()]
    except BuildToolsError as error:
        return [error]
