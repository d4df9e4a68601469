"""Pruning: delete releases that nobody needs any more, each completely, and none that something points to.

A release is deleted in the reverse order of its creation: the manifest first, so that the version no longer exists,
then its archives, its tags, the tags of fingerprints that no other release has, and the claim. A record of its members
is written to ``prunes/V/RUN.json`` before and deleted last, so that the next run finishes what a killed run began.

Nobody starts to use a release that is being pruned. A run that claims the version, or points a channel at it, looks for
such records afterwards; a run that prunes looks at channels and gates again after writing its record. So one of the two
sees the other. Each run has a record of its own, because one that keeps the version deletes its record while another
still prunes.

A run cannot tell whether another was killed or is slow, so it may finish what another is still doing, and then the
version may be published again. So each run looks, before it deletes the manifest and before each group of members,
whether there still is a record.

Several releases are pruned at once, so that what concerns the whole store is asked once for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import Enum
from functools import partial
from typing import TypeVar
from uuid import uuid4

from buildtools import Refused
from buildtools.archive.store import Content
from buildtools.channel import Direction
from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.gates import Gates, gates_key
from buildtools.git.checkout import tag_names
from buildtools.image.registry.manifest import digest_of
from buildtools.release import GATES, PRUNES, Release, manifest_key, prunes_of
from buildtools.schedule import QUESTIONS_AT_ONCE, all_ended, side_by_side
from buildtools.settings import GATE
from buildtools.stages import releases
from buildtools.stages.channels import parse_channels
from buildtools.stages.member_deletion import MemberDeletion, NeededMembers
from buildtools.stages.tag_moves import outdated_tags
from buildtools.task_context import TaskContext
from buildtools.version import Version

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_SECONDS_A_DAY = 86_400
# How many releases are pruned at once: a killed run leaves at most so many in part.
_AT_ONCE = 8
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
    reasons = _reasons(task) | _channel_tags(task, remaining)
    youngest = time.time() - days * _SECONDS_A_DAY
    of_prefix = f" of {prefix}" if prefix else ""
    subjects = [release for release in remaining if release.version.startswith(prefix)]
    whys = {}
    for position, release in enumerate(subjects):
        why = f"one of the newest {keep}{of_prefix}" if position < keep else reasons.get(_tag(release), "")
        if not why and _seconds(release) > youngest:
            why = f"younger than {days} days"
        whys[release.version] = why
    unfinished = {_tag(record): record for record in records.values() if _tag(record) not in tags}
    if not task.run.dry_run:
        with ThreadPoolExecutor(QUESTIONS_AT_ONCE) as pool:
            pruning = _Pruning(task, pool, remaining, records)
            for some in _groups([release for release in subjects if not whys[release.version]]):
                whys |= pruning.prune(some)
            for some in _groups([*unfinished.values()]):
                pruning.delete_members(some)
    entries = []
    for release in subjects:
        why = whys[release.version]
        earlier = [key for key, record in records.items() if _tag(record) == _tag(release)]
        if why and earlier:
            where = ", ".join(map(task.services.store.location, earlier))
            fact = f"an earlier run began to prune {release.version}, so nobody can publish it or point to it"
            task.run.report(Warned("", f"{fact}: delete {where} to keep it"))
        entries.append(PruneEntry(release.version, release.created, PruneState.KEPT if why else PruneState.PRUNED, why))
    why = "an earlier run began with it"
    entries += [PruneEntry(each.version, each.created, PruneState.PRUNED, why) for each in unfinished.values()]
    return tuple(entries)


def _groups(releases: Sequence[Release]) -> Iterator[Sequence[Release]]:
    return (releases[start : start + _AT_ONCE] for start in range(0, len(releases), _AT_ONCE))


def _check_rights(task: TaskContext, existing: Sequence[Release]) -> None:
    """Check that we may delete, before the first manifest is deleted, by deleting what does not exist.

    :raises Refused: if we may not.
    """
    task.services.store.delete(f"{PRUNES}{_NOTHING}")
    places = sorted({(image.registry, image.repository) for release in existing for image in release.images})
    questions = [
        partial(task.services.registry_at(host).delete_manifest, repository, _NOTHING) for host, repository in places
    ]
    side_by_side(questions, jobs=QUESTIONS_AT_ONCE)


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
    return reasons | _reasons_in_store(task, dict(zip(keys, task.services.store.read_all(keys), strict=True)))


def _reasons_in_store(task: TaskContext, gates: Mapping[str, Content | None]) -> dict[str, str]:
    """The reasons in the store to keep versions: these records of ``gates``, by their keys, and all channels."""
    location = task.services.store.location
    records = [Gates.parse(content.data, location(key)) for key, content in gates.items() if content]
    # Nobody needs a version just because it passed `invoke stage`.
    tries = {GATE} - task.settings.target.keys()
    reasons = {Version.parse(each.version).image_tag: "it was promoted" for each in records if {*each.names} - tries}
    for channel in parse_channels(task):
        # A channel also needs the version that a rollback would go back to.
        for version in filter(None, (channel.previous, channel.version)):
            reasons[version.image_tag] = f"the channel {channel.name} needs it"
    return reasons


def _channel_tags(task: TaskContext, remaining: Iterable[Release]) -> dict[str, str]:
    """The versions that tags of a channel still point to, because a run that rolled it back did not end.

    Such a tag would be deleted with the version. A move forward leaves tags at versions that the channel needs anyway.
    """
    by_tag = {_tag(release): release for release in remaining}
    owners = {image.digest: tag for tag, release in by_tag.items() for image in release.images}
    reasons = {}
    for channel in parse_channels(task):
        current = by_tag.get(channel.version.image_tag) if channel.version else None
        if current and channel.directions[-1] is Direction.BACK:
            for move in outdated_tags(task, current.images, channel.name):
                if owner := owners.get(move.before):
                    reasons[owner] = f"tags of the channel {channel.name} are still there"
    return reasons


def _may_be_version(tag: str) -> bool:
    try:
        Version.parse(tag)
    except Refused:
        return False
    return True


class _Pruning:
    """Prunes releases, each group at once with the threads of ``pool``, and drops them from ``remaining``.

    ``records`` are those of runs that have not finished, by their keys.
    """

    def __init__(
        self, task: TaskContext, pool: ThreadPoolExecutor, remaining: list[Release], records: Mapping[str, Release]
    ) -> None:
        self._task = task
        self._store = task.services.store
        self._pool = pool
        self._remaining = remaining
        self._records: dict[str, list[str]] = {}
        for key, record in records.items():
            self._records.setdefault(_tag(record), []).append(key)
        self._deletion = MemberDeletion(task, pool)

    def prune(self, group: Sequence[Release]) -> dict[str, str]:
        """Delete releases; what keeps those, by version, that somebody has started to use."""
        records = {
            release.version: f"{prunes_of(Version.parse(release.version))}{uuid4().hex}.json" for release in group
        }

        def create(release: Release) -> None:
            self._store.create(records[release.version], release.manifest(), "application/json")

        self._each(create, group)
        keys = [gates_key(Version.parse(release.version)) for release in group]
        # Few have gates, and a plain read asks once for what does not exist.
        reasons = _reasons_in_store(self._task, dict(zip(keys, self._each(self._store.read, keys), strict=True)))
        whys = {release.version: why for release in group if (why := reasons.get(_tag(release), ""))}
        self._each(lambda version: self._store.delete(records[version]), whys)

        def delete_manifest(release: Release) -> bool:
            if not self._store.head(records[release.version]):
                return False
            self._store.delete(manifest_key(Version.parse(release.version)))
            return True

        doomed = [release for release in group if release.version not in whys]
        answers = self._each(delete_manifest, doomed)
        ours = [release for release, is_ours in zip(doomed, answers, strict=True) if is_ours]
        for release in ours:
            self._remaining.remove(release)
            self._records.setdefault(_tag(release), []).append(records[release.version])
        self.delete_members(ours)
        return whys

    def delete_members(self, group: Sequence[Release]) -> None:
        """Delete the members of versions that are not released any more, and last all records of them."""
        needs = NeededMembers.of(self._remaining)
        # Not the threads of the pool, for whose answers they wait.
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            ends = [
                threads.submit(self._deletion.delete, release, needs, self._records[_tag(release)]) for release in group
            ]
            all_ended(ends)
        for end in ends:
            end.result()

    def _each(self, work: Callable[[_Key], _Value], keys: Iterable[_Key]) -> list[_Value]:
        futures = [self._pool.submit(work, key) for key in keys]
        all_ended(futures)
        return [future.result() for future in futures]
