"""Pruning: delete releases that nobody needs any more, each completely, and none that something points to.

A release is deleted in the reverse order of its creation: the manifest first, so that the version no longer exists,
then its archives, its tags, the tags of fingerprints that no other release has, and the claim. A record of its members
is written to ``prunes/V/RUN.json`` before and deleted last, so that the next run finishes what a killed run began.

Nobody starts to use a release that is being pruned. A run that claims the version, or points a channel at it, looks for
such records afterwards; a run that prunes looks at channels and gates again after writing its record. So one of the two
sees the other. Each run has a record of its own, because one that keeps the version deletes its record while another
still prunes.

A run cannot tell whether another was killed or is slow, so it may finish what another is still doing, and then the
version may be published again. So each run looks, before it deletes the manifest and before each member, whether there
still is a record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from enum import Enum
from functools import partial
from uuid import uuid4

from buildtools import Refused
from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.gates import Gates, gates_key
from buildtools.git.checkout import tag_names
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import ImageLookup, fingerprint_tag, tag_digest
from buildtools.image.registry.manifest import FINGERPRINT_LABEL, Damaged, digest_of
from buildtools.image.registry.simple_signing import signature_tag
from buildtools.release import (
    GATES,
    PRUNES,
    Release,
    ReleasedImage,
    attestation_key,
    claim_key,
    manifest_key,
    prunes_of,
)
from buildtools.schedule import side_by_side
from buildtools.settings import GATE
from buildtools.stages import releases
from buildtools.stages.channels import parse_channels
from buildtools.task_context import TaskContext
from buildtools.version import Version

_SECONDS_A_DAY = 86_400
_QUESTIONS = 8
# The digest of no bytes, which cannot be a manifest.
_NOTHING = digest_of(b"")


class PruneState(Enum):
    """What happened, or would happen, to a version."""

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
    """Prune all releases except the newest ``keep``, those of the last ``days`` days, and those that are in use.

    Only versions that start with ``prefix`` are considered. A dry run only reports what would happen. The newest
    versions come first, and those that an earlier run began to prune come last.

    :raises Refused: if there is no git repository, which has the tags.
    :raises BuildToolsError: if a manifest or a channel cannot be read, since then it is unknown what it needs.
    """
    remaining, errors = releases.read_releases(task)
    if errors:
        raise errors[0]
    if not task.run.dry_run:
        _check_rights(task, remaining)
    remaining.sort(key=lambda release: Version.parse(release.version), reverse=True)
    records = _records(task)
    tags = {_tag(release) for release in remaining}
    reasons = _reasons(task)
    youngest = time.time() - days * _SECONDS_A_DAY
    entries = []
    of_prefix = f" of {prefix}" if prefix else ""
    subjects = [release for release in remaining if release.version.startswith(prefix)]
    for position, release in enumerate(subjects):
        why = f"one of the newest {keep}{of_prefix}" if position < keep else reasons.get(_tag(release), "")
        if not why and _seconds(release) > youngest:
            why = f"younger than {days} days"
        earlier = [key for key, record in records.items() if _tag(record) == _tag(release)]
        if not why and not task.run.dry_run:
            why = _prune(task, release, remaining, earlier)
        if why and earlier:
            where = ", ".join(map(task.services.store.location, earlier))
            fact = f"an earlier run began to prune {release.version}, so nobody can publish it or point to it"
            task.run.report(Warned("", f"{fact}: delete {where} to keep it"))
        entries.append(PruneEntry(release.version, release.created, PruneState.KEPT if why else PruneState.PRUNED, why))
    unfinished = {_tag(record): record for record in records.values() if _tag(record) not in tags}
    for tag, release in unfinished.items():
        if not task.run.dry_run:
            _delete_members(task, release, remaining, [key for key in records if _tag(records[key]) == tag])
        why = "an earlier run began with it"
        entries.append(PruneEntry(release.version, release.created, PruneState.PRUNED, why))
    return tuple(entries)


def _check_rights(task: TaskContext, existing: Sequence[Release]) -> None:
    """Check that we may delete, before the first manifest is deleted, by deleting what does not exist.

    :raises Refused: if we may not.
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
    """The commit's time in seconds since 1970; infinity if the date cannot be read."""
    try:
        return datetime.fromisoformat(release.created).timestamp()
    except ValueError:
        return float("inf")


def _records(task: TaskContext) -> dict[str, Release]:
    """What runs that have not finished began to prune, by the keys of their records. The manifest may be there."""
    store = task.services.store
    keys = [entry.key for entry in store.list(PRUNES)]
    contents = zip(keys, store.read_all(keys), strict=True)
    return {key: Release.parse(content.data, store.location(key)) for key, content in contents if content}


def _reasons(task: TaskContext) -> dict[str, str]:
    """The reasons to keep versions, by image tag: git tags, gates and channels."""
    settings = task.settings
    tags = tag_names(settings.root, settings.tag_prefix, task.run.environment)
    reasons = {Version.parse(tag).image_tag: "there is a git tag of it" for tag in tags if _may_be_version(tag)}
    keys = [entry.key for entry in task.services.store.list("releases/") if entry.key.endswith(GATES)]
    return reasons | _reasons_in_store(task, keys)


def _reasons_in_store(task: TaskContext, keys: Sequence[str]) -> dict[str, str]:
    """The reasons in the store to keep versions: gates whose records have these keys, and all channels."""
    store = task.services.store
    records = [
        Gates.parse(content.data, store.location(key))
        for key, content in zip(keys, store.read_all(keys), strict=True)
        if content
    ]
    # Nobody needs a version just because it passed `invoke stage`.
    tries = {GATE} - task.settings.target.keys()
    reasons = {Version.parse(each.version).image_tag: "it was promoted" for each in records if {*each.names} - tries}
    for channel in parse_channels(task):
        # A channel also needs the version that a rollback would go back to.
        for version in filter(None, (channel.previous, channel.version)):
            reasons[version.image_tag] = f"the channel {channel.name} needs it"
    return reasons


def _may_be_version(tag: str) -> bool:
    try:
        Version.parse(tag)
    except Refused:
        return False
    return True


def _prune(task: TaskContext, release: Release, remaining: list[Release], earlier: Sequence[str]) -> str:
    """Delete a release, and drop it from ``remaining``; if somebody has started to use it, return what keeps it.

    ``earlier`` are the keys of the records of runs that have not finished.
    """
    store, version = task.services.store, Version.parse(release.version)
    record = f"{prunes_of(version)}{uuid4().hex}.json"
    store.create(record, release.manifest(), "application/json")
    why = _reasons_in_store(task, [gates_key(version)]).get(version.image_tag, "")
    if why:
        store.delete(record)
        return why
    if store.head(record):
        store.delete(manifest_key(version))
        remaining.remove(release)
        _delete_members(task, release, remaining, [*earlier, record])
    return ""


def _delete_members(task: TaskContext, release: Release, remaining: Sequence[Release], records: Sequence[str]) -> None:
    """Delete all members of a release that no other release needs, and last the records with these keys.

    If these are gone, another run has deleted the rest, and who publishes the version again has new members.
    """
    store = task.services.store
    for delete in _deletions(task, release, remaining):
        if not any(map(store.head, records)):
            return
        delete()
    for key in records:
        store.delete(key)


def _deletions(task: TaskContext, release: Release, remaining: Sequence[Release]) -> Iterator[Callable[[], object]]:
    """Functions that delete one member each, in order; last come the gates and the claim."""
    store, version = task.services.store, Version.parse(release.version)
    needed = {archive.key for other in remaining for archive in other.archives}
    for archive in release.archives:
        if archive.key not in needed:
            yield partial(store.delete, archive.key)
    if release.attestation and release.attestation not in {other.attestation for other in remaining}:
        yield partial(store.delete, attestation_key(release.attestation))
    images = [image for other in remaining for image in other.images]
    for image in release.images:
        yield partial(_delete_image, task, image, [each for each in images if each.repository == image.repository])
    yield partial(store.delete, gates_key(version))
    yield partial(store.delete, claim_key(version))


def _delete_image(task: TaskContext, image: ReleasedImage, others: Collection[ReleasedImage]) -> None:
    """Delete an image, its signatures, and the image with its fingerprint, with all tags, unless ``others`` need them.

    The registry's own garbage collection deletes layers that no image names.
    """
    registry, repository = task.services.registry_at(image.registry), image.repository
    needed = {other.digest for other in others}
    digests = [tag_digest(registry, repository, image.tag), image.digest]
    if image.digest not in needed:
        digests.append(tag_digest(registry, repository, signature_tag(image.digest)))
    fingerprints, fingerprints_needed = _fingerprints(task, image), {other.fingerprint for other in others}
    if fingerprints != {image.fingerprint}:
        fingerprints_needed.update(*(_fingerprints(task, other) for other in others))
    tags = map(fingerprint_tag, fingerprints - fingerprints_needed - {""})
    digests += [tag_digest(registry, repository, tag) for tag in tags]
    # What an index lists has the labels of its version or of its fingerprint, so no other index lists it.
    digests += [entry for digest in digests if digest for entry in _entries(registry, repository, digest)]
    for digest in dict.fromkeys(digests):
        if digest and digest not in needed and not registry.delete_manifest(repository, digest):
            task.run.report(Warned("", f"the registry {image.registry} does not delete: {image.reference} stays"))
            return


def _fingerprints(task: TaskContext, image: ReleasedImage) -> set[str]:
    """The fingerprint of an image, or those of its variants for several platforms."""
    registry = task.services.registry_at(image.registry)
    with suppress(Damaged):
        manifest = registry.get_manifest(image.repository, image.digest)
        variants = ImageLookup(registry, task.registry_cache).variants_of(image.repository, manifest)
        if variants and len(variants[1]) > 1:
            return {each.labels.get(FINGERPRINT_LABEL, "") for each in variants[1].values() if each}
    return {image.fingerprint}


def _entries(registry: Registry, repository: str, digest: str) -> tuple[str, ...]:
    """The digests of the manifests that an index lists; none for anything else."""
    manifest = registry.get_manifest(repository, digest)
    with suppress(Damaged):
        return tuple(entry.digest for entry in manifest.entries) if manifest and manifest.is_index else ()
    return ()
