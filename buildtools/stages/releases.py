"""Releases: claim, manifest, moving tags. :mod:`buildtools.stages.publication` has what comes before.

The problem. A version consists of images in registries and archives in an object store. No transaction spans these
services, any request may fail, and a run may be killed between any two of them. Yet a version must exist completely or
not at all, and must belong to one commit only.

The answer is one small object that is written last, by a conditional write, and names everything by its content:

1. **Make.** Build images and archives under names that belong to no version (``fp-`` tags, ``dist/``). A failure here
   leaves nothing of the version behind.
2. **Claim** (:func:`claim_version`). ``claims/V.json`` is created with ``If-None-Match: *``. It contains the commit and
   nothing that differs between two runs, so the same commit finds its own claim again and another one is refused. From
   here on only one commit writes under the names of ``V``. Before the claim, images and archives wait for each other
   (the barrier in ``stage_members``), so that a version that cannot be made is not claimed.
3. **Stage.** Set the tags ``:V``, let the archives appear, and read back each of them. This is not a release yet:
   readers look only at manifests.
4. **Commit** (:func:`commit`). ``releases/V.json`` is created with ``If-None-Match: *``, and read back. This write is
   the release. A run that comes second reads what is there and compares: equal content is success, other content a
   conflict.
5. **Point** (:func:`point`). Move moving tags such as ``latest``. They follow from the manifests that exist, so any run
   may repeat it; a run that sees a newer release afterwards gives the tag back to that one.

Why a kill is harmless: each step's write is one request, takes effect completely or not at all, and the next run can
safely repeat it. That run finds out by reading where the last one stopped. No state is kept on the machine itself.

Why a race is harmless: the two conditional writes decide. Between claim and manifest two runs of one commit may both
stage. The run whose bytes the manifest names wins, and the tag that the other one set is moved back.

What is trusted: a member's digest after it was read back, or a checksum that the service computed itself; never the
response to a write, nor metadata from an uploader. ``docs/internals.md`` has the states and races as tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from buildtools import BuildToolsError, Conflict, Drifted, Failures, Refused, Unreachable, release
from buildtools.channel import Channel, channel_key, may_be_channel
from buildtools.image.registry.lookup import move_tag
from buildtools.release import Release, ReleasedImage
from buildtools.schedule import awaited
from buildtools.stages.planned import Planned
from buildtools.stages.signatures import refuse_unsigned, warn_of_unsigned
from buildtools.stages.tag_moves import move_tags, outdated_tags
from buildtools.task_context import TaskContext
from buildtools.version import Version


def preflight_failure(errors: Iterable[BuildToolsError]) -> BuildToolsError:
    """One error for everything that would stop a release."""
    failures = Failures(errors)
    return failures.combined(f"preflight failed ({len(failures.errors)} errors)", "fix the errors above and run again")


def commit(task: TaskContext, staged: Release) -> tuple[Release, bool]:
    """Write the manifest, which makes the version exist; returns the release, and whether this run wrote the manifest.

    The manifest is read back like every member, because the response to a write is not trusted.

    Two agents may build different bytes from the same inputs. The manifest decides whose are released, and a tag that
    the other agent moved goes back.

    :raises Conflict: if the version is released with other content, or was pruned meanwhile.
    :raises Drifted: if the existing manifest is not signed as required.
    :raises Unreachable: if the store accepted the manifest but does not have it.
    """
    version, manifest = Version.parse(staged.version), staged.manifest()
    # A prune deletes the claim last. As long as it exists, so do the members, unless a prune is under way.
    if not awaited(lambda: task.services.store.head(release.claim_key(version))):
        raise Conflict(f"version {version} was pruned while it was released", "run the same command again")
    refuse_pruned(task, version)
    written = task.services.store.create(release.manifest_key(version), manifest, "application/json")
    # A replicated store may show an object with a delay.
    existing = awaited(lambda: released(task, version))
    if existing is None:
        raise Unreachable(
            f"{manifest_location(task, version)} is not there after it was written",
            "nothing is released; check the store, then run the same command again",
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
    if staged.attestation and not existing.attestation:
        # An agent without a key has released it meanwhile.
        warn_of_unsigned(task, version)
    for name, image in same.items():
        if image != ours[name]:
            move_tag(task.services.registry, image.repository, image.tag, image.digest)
    return existing, False


def point(task: TaskContext, version: Version, staged: Release) -> tuple[str, ...]:
    """Move the moving tags that this version takes over; returns those that were moved.

    If a newer version was released meanwhile, they go back to it, since it may have moved them first.

    :raises Drifted: if the newer version is not signed as required.
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
    # A release writes its manifest before it moves a tag, so the run that moves a tag last sees all newer releases.
    for later in _released_versions(task) if references else ():
        is_rival = later > version and not set(tags).isdisjoint(release.moving_tags(patterns, later, ()))
        if is_rival and (newer := released(task, later)):
            refuse_unsigned(task, newer)
            references += point(task, later, newer)
    return tuple(dict.fromkeys(references))


def point_plan(task: TaskContext, version: Version, images: Sequence[ReleasedImage]) -> Iterator[Planned]:
    """What :func:`point` would do; ``images`` are those of the release, or empty if it is not made yet."""
    patterns = task.settings.moving_tags
    for tag in release.moving_tags(patterns, version, list(_released_versions(task)) if patterns else ()):
        if images and not outdated_tags(task, images, tag):
            yield Planned(f"tag {tag}", "not change", ("already there",))
        else:
            yield Planned(f"tag {tag}", f"be moved to {version}")


def manifest_keys(task: TaskContext) -> list[str]:
    """The keys of all manifests; other objects beside them are ignored."""
    return [entry.key for entry in task.services.store.list("releases/") if release.version_of(entry.key)]


def read_releases(task: TaskContext) -> tuple[list[Release], list[BuildToolsError]]:
    """Every release, and an error for each manifest that cannot be read."""
    store, keys = task.services.store, manifest_keys(task)
    readable, errors = [], []
    for key, content in zip(keys, store.read_all(keys), strict=True):
        try:
            # It may have been deleted after it was listed.
            readable += [release_at(key, content.data, store.location(key))] if content else []
        except BuildToolsError as error:
            errors.append(error)
    return readable, errors


def release_at(key: str, manifest: bytes, location: str) -> Release:
    """The release that the manifest at ``key`` describes; ``location`` is that of the key in messages.

    :raises BuildToolsError: if it is not a manifest; ``Drifted`` if it is another version's.
    """
    existing = Release.parse(manifest, location)
    if release.manifest_key(Version.parse(existing.version)) != key:
        raise Drifted(f"{location} is the manifest of {existing.version}", "restore it from a backup")
    return existing


def refuse_pruned(task: TaskContext, version: Version) -> None:
    """Raise :class:`Conflict` if a run is pruning the version, or was killed while it did.

    :raises Conflict: if there is a record of its pruning.
    """
    for entry in task.services.store.list(release.prunes_of(version)):
        raise Conflict(
            f"version {version} is being pruned ({task.services.store.location(entry.key)})",
            "let `invoke prune` finish that, delete that object to keep the version, or choose another version",
        )


def _released_versions(task: TaskContext) -> Iterator[Version]:
    """Every version that has a manifest."""
    for key in manifest_keys(task):
        version = release.version_of(key)
        if version and "_" not in version.text:
            yield version
        elif version:
            # A "_" in the key may be a "+" in the version; only the manifest has the real text.
            try:
                manifest = released(task, version)
            except Unreachable:
                raise
            except BuildToolsError:
                continue
            if manifest:
                yield Version.parse(manifest.version)


def named_release(task: TaskContext, name: str) -> Release:
    """The release that ``name``, a version or a channel, refers to.

    :raises Refused: if there is none.
    """
    content = task.services.store.read(channel_key(name)) if may_be_channel(name) else None
    if content:
        return channel_release(task, Channel.parse(content.data, task.services.store.location(channel_key(name))))
    return released_version(task, Version.parse(name))


def channel_release(task: TaskContext, channel: Channel) -> Release:
    """The release that a channel points to.

    :raises Drifted: if it is no longer released, or from another commit.
    """
    last = channel.moves[-1]
    version = Version.parse(last.version)
    existing = released(task, version)
    if existing is None or (existing.version, existing.commit) != (last.version, last.commit):
        raise Drifted(
            f"{channel.name} points to {version} of commit {last.commit[:12]}, "
            f"but {manifest_location(task, version)} does not describe that",
            f"restore the manifest, or point {channel.name} to another version with --to",
        )
    return existing


def released(task: TaskContext, version: Version) -> Release | None:
    """The release of a version, read from its manifest; None if there is none.

    :raises BuildToolsError: as :func:`release_at`.
    """
    manifest = read_manifest(task, version)
    return release_at(release.manifest_key(version), manifest, manifest_location(task, version)) if manifest else None


def released_version(task: TaskContext, version: Version) -> Release:
    """The release of a version.

    :raises Refused: if the version is not released.
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
    """The manifest of a version as it was published; empty if there is none."""
    content = task.services.store.read(release.manifest_key(version))
    return content.data if content else b""


def manifest_location(task: TaskContext, version: Version) -> str:
    """The location of a version's manifest, for display."""
    return task.services.store.location(release.manifest_key(version))


def claim_version(task: TaskContext, version: Version, commit: str) -> None:
    """Claim a version for a commit.

    :raises Conflict: if another commit has claimed it.
    """
    key = release.claim_key(version)
    if not task.services.store.create(key, _claim_document(version, commit), "application/json") and not awaited(
        lambda: refuse_other_claim(task, version, commit) or None
    ):
        raise Unreachable(f"{task.services.store.location(key)} is not there after it was written", "check the store")
    refuse_pruned(task, version)


def refuse_other_claim(task: TaskContext, version: Version, commit: str) -> bool:
    """Whether a version is claimed for a commit.

    :raises Conflict: if another commit has claimed it.
    """
    key = release.claim_key(version)
    existing = task.services.store.read(key)
    if existing and existing.data != _claim_document(version, commit):
        raise Conflict(
            f"version {version} is claimed by another commit (publish running or unfinished)",
            f"cut a new version, or delete {task.services.store.location(key)} to abandon that one",
        )
    return existing is not None


def _claim_document(version: Version, commit: str) -> bytes:
    return json.dumps({"schema": 1, "version": version.text, "commit": commit}).encode() + b"\n"
