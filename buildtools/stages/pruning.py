"""Pruning: releases that nobody needs any more are taken away, each as a whole, and none that something points to.

A release goes the way that it came, backwards: the manifest first, so that the version does not exist any more, then
its archives, its tags and those of fingerprints that no other release has, and the claim. What it consisted of is
written into ``prunes/V.json`` before and deleted last, so that the next run finishes what a killed one began.

Nobody starts to use a release that is being pruned: whoever claims the version, or points a channel at it, looks for
that record afterwards, and whoever prunes looks at channels and gates again after it was written. So one of two runs
sees the other.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import datetime
from enum import Enum
from functools import partial

from buildtools import Refused
from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.gates import Gates, gates_key
from buildtools.git.checkout import tag_names
from buildtools.image.registry.lookup import fingerprint_tag, tag_digest
from buildtools.image.registry.manifest import digest_of
from buildtools.image.registry.simple_signing import signature_tag
from buildtools.release import (
    GATES,
    PRUNES,
    Release,
    ReleasedImage,
    attestation_key,
    claim_key,
    manifest_key,
    prune_key,
)
from buildtools.schedule import side_by_side
from buildtools.settings import GATE
from buildtools.stages import releases
from buildtools.stages.channels import parse_channels
from buildtools.task_context import TaskContext
from buildtools.version import Version

_SECONDS_A_DAY = 86_400
_QUESTIONS = 8
# The digest of no bytes at all, which are not a manifest.
_NOTHING = digest_of(b"")


class PruneState(Enum):
    """What became of a version, or would become of it."""

    KEPT = "kept"
    PRUNED = "pruned"


@frozen
class PruneEntry:
    """One version. ``created`` is its commit's date, RFC 3339; ``why`` says what keeps it."""

    version: str
    created: str
    state: PruneState
    why: str = ""


def prune_releases(task: TaskContext, keep: int, days: int, prefix: str = "") -> tuple[PruneEntry, ...]:
    """Prune all releases but the newest ``keep``, those of the last so many days, and those that something points to.

    Only versions that start with ``prefix`` are looked at. In a dry run it is only said what would become of each. The
    newest come first, and those last that an earlier run had begun with.

    :raises Refused: there is no repository to tell which git tags there are.
    :raises BuildToolsError: a manifest or a channel cannot be read, and so not what it is about.
    """
    remaining, errors = releases.read_releases(task)
    if errors:
        raise errors[0]
    if not task.run.dry_run:
        _check_rights(task, remaining)
    remaining.sort(key=lambda release: Version.parse(release.version), reverse=True)
    unfinished = _unfinished(task, {_tag(release) for release in remaining})
    reasons = _reasons(task)
    youngest = time.time() - days * _SECONDS_A_DAY
    entries = []
    of_prefix = f" of {prefix}" if prefix else ""
    subjects = [release for release in remaining if release.version.startswith(prefix)]
    for position, release in enumerate(subjects):
        why = f"one of the newest {keep}{of_prefix}" if position < keep else reasons.get(_tag(release), "")
        if not why and _seconds(release) > youngest:
            why = f"younger than {days} days"
        if not why and not task.run.dry_run:
            why = _prune(task, release, remaining)
        entries.append(PruneEntry(release.version, release.created, PruneState.KEPT if why else PruneState.PRUNED, why))
    for release in unfinished:
        if not task.run.dry_run:
            _delete_members(task, release, remaining)
        why = "an earlier run began with it"
        entries.append(PruneEntry(release.version, release.created, PruneState.PRUNED, why))
    return tuple(entries)


def _check_rights(task: TaskContext, existing: Sequence[Release]) -> None:
    """Find out whether we may delete, before the first manifest goes, by deleting what is not there.

    :raises Refused: we may not.
    """
    task.services.store.delete(f"{PRUNES}{_NOTHING}")
    places = sorted({(image.registry, image.repository) for release in existing for image in release.images})
    questions = [
        partial(task.services.registry_at(host).delete_manifest, repository, _NOTHING) for host, repository in places
    ]
    side_by_side(questions, jobs=_QUESTIONS)


def _tag(release: Release) -> str:
    return Version.parse(release.version).image_tag


def _seconds(release: Release) -> float:
    """When it was committed, in seconds since 1970; of a date that cannot be read, the end of time."""
    try:
        return datetime.fromisoformat(release.created).timestamp()
    except ValueError:
        return float("inf")


def _unfinished(task: TaskContext, tags: set[str]) -> list[Release]:
    """The releases that a killed run has taken the manifest of. One that still has it is looked at like any other."""
    store = task.services.store
    keys = [entry.key for entry in store.list(PRUNES)]
    contents = zip(keys, store.read_all(keys), strict=True)
    records = [Release.parse(content.data, store.location(key)) for key, content in contents if content]
    return [release for release in records if _tag(release) not in tags]


def _reasons(task: TaskContext) -> dict[str, str]:
    """What keeps versions, by their image tags: git tags, gates and channels."""
    settings = task.settings
    tags = tag_names(settings.root, settings.tag_prefix, task.run.environment)
    reasons = {Version.parse(tag).image_tag: "there is a git tag of it" for tag in tags if _may_be_version(tag)}
    keys = [entry.key for entry in task.services.store.list("releases/") if entry.key.endswith(GATES)]
    return reasons | _reasons_in_store(task, keys)


def _reasons_in_store(task: TaskContext, keys: Sequence[str]) -> dict[str, str]:
    """What keeps versions: the gates whose records have these keys, and all channels."""
    store = task.services.store
    records = [
        Gates.parse(content.data, store.location(key))
        for key, content in zip(keys, store.read_all(keys), strict=True)
        if content
    ]
    # That a version passed `invoke stage` makes nobody need it.
    tries = {GATE} - task.settings.target.keys()
    reasons = {Version.parse(each.version).image_tag: "it was promoted" for each in records if {*each.names} - tries}
    for channel in parse_channels(task):
        # What a rollback would go back to is needed as long as the channel is.
        for version in filter(None, (channel.previous, channel.version)):
            reasons[version.image_tag] = f"the channel {channel.name} needs it"
    return reasons


def _may_be_version(tag: str) -> bool:
    try:
        Version.parse(tag)
    except Refused:
        return False
    return True


def _prune(task: TaskContext, release: Release, remaining: list[Release]) -> str:
    """Take a release away, and out of those that remain; or say what keeps it, if somebody has begun to use it."""
    store, version = task.services.store, Version.parse(release.version)
    store.create(prune_key(version), release.manifest(), "application/json")
    why = _reasons_in_store(task, [gates_key(version)]).get(version.image_tag, "")
    if why:
        store.delete(prune_key(version))
        return why
    store.delete(manifest_key(version))
    remaining.remove(release)
    _delete_members(task, release, remaining)
    return ""


def _delete_members(task: TaskContext, release: Release, remaining: Sequence[Release]) -> None:
    """Delete all that a release consisted of and no other one needs, and last the record of that."""
    store, version = task.services.store, Version.parse(release.version)
    needed = {archive.key for other in remaining for archive in other.archives}
    for archive in release.archives:
        if archive.key not in needed:
            store.delete(archive.key)
    if release.attestation and release.attestation not in {other.attestation for other in remaining}:
        store.delete(attestation_key(release.attestation))
    images = [image for other in remaining for image in other.images]
    for image in release.images:
        _delete_image(task, image, [each for each in images if each.repository == image.repository])
    store.delete(gates_key(version))
    store.delete(claim_key(version))
    store.delete(prune_key(version))


def _delete_image(task: TaskContext, image: ReleasedImage, others: Collection[ReleasedImage]) -> None:
    """Delete an image, its signatures, and the image with its fingerprint, with all tags, unless ``others`` need them.

    What a registry has of layers it gives up by itself, when no image names them.
    """
    registry = task.services.registry_at(image.registry)
    needed = {other.digest for other in others}
    digests = [tag_digest(registry, image.repository, image.tag), image.digest]
    if image.digest not in needed:
        digests.append(tag_digest(registry, image.repository, signature_tag(image.digest)))
    if image.fingerprint and image.fingerprint not in {other.fingerprint for other in others}:
        digests.append(tag_digest(registry, image.repository, fingerprint_tag(image.fingerprint)))
    manifest = registry.get_manifest(image.repository, image.digest)
    if manifest and manifest.is_index:
        # Each has this version's labels, so that no other version has it.
        digests += manifest.platforms.values()
    for digest in dict.fromkeys(digests):
        if digest and digest not in needed and not registry.delete_manifest(image.repository, digest):
            task.run.report(Warned("", f"the registry {image.registry} does not delete: {image.reference} stays"))
            return
