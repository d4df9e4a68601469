"""Channels: read them, move them forward, and roll them back.

A move has two steps: first the channel's file in the store, by compare-and-swap, then the tags of the images, which
follow the file. If a run is killed in between, the next run about the channel moves the tags, whatever its task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from buildtools import BuildToolsError, Conflict, Refused, Unreachable
from buildtools.audit import Verification
from buildtools.channel import CHANNELS, Channel, Direction, channel_key, channel_name, refuse_name
from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.release import Release, ReleasedImage, claim_key, manifest_key
from buildtools.schedule import awaited
from buildtools.stages import releases
from buildtools.stages.planned import Planned
from buildtools.stages.signatures import refuse_unsigned
from buildtools.stages.tag_moves import TagMove, check_rights, move_tags, outdated_tags
from buildtools.stages.verification import audit_releases
from buildtools.task_context import TaskContext
from buildtools.version import Version

_JSON = "application/json"


@frozen
class ChannelState:
    """Where a channel points now, and what was done for it, or would be done in a ``dry_run``.

    ``before`` is the version that it pointed to when the run began, empty if the channel did not exist. ``tags`` are
    the tags that were moved. If the channel itself did not move, a killed run had left them behind.
    """

    channel: Channel
    location: str
    before: str
    tags: tuple[TagMove, ...]
    dry_run: bool

    @property
    def version(self) -> str:
        """The version that it points to."""
        return str(self.channel.version)


def read_channels(task: TaskContext) -> tuple[Channel, ...]:
    """Every channel, by name. A channel that cannot be read is a warning.

    :raises Unreachable: if the store does not answer.
    """
    return tuple(parse_channels(task, lambda error: task.run.report(Warned("", error.fact))))


def parse_channels(task: TaskContext, failed: Callable[[BuildToolsError], object] | None = None) -> Iterator[Channel]:
    """Every channel, by name; ``failed`` is called with the error of each that cannot be read.

    :raises BuildToolsError: if one cannot be read and there is no ``failed``.
    """
    store = task.services.store
    keys = [entry.key for entry in store.list(CHANNELS) if channel_name(entry.key)]
    for key, content in zip(keys, store.read_all(keys), strict=True):
        try:
            # It may have been deleted after it was listed.
            if content:
                yield Channel.parse(content.data, store.location(key))
        except BuildToolsError as error:
            if failed is None:
                raise
            failed(error)


def show_channel(task: TaskContext, name: str) -> ChannelState:
    """Where a channel points. Tags that do not follow it are moved.

    :raises Refused: if there is no such channel.
    """
    channel, _ = _read_existing(task, name)
    return _follow(task, channel, channel)


def move_forward(task: TaskContext, name: str, version: Version) -> ChannelState:
    """Point a channel to a newer version; create the channel if it does not exist.

    :raises Refused: if the version is older or not released, or the channel may not have this name.
    :raises Drifted: if the release is not intact.
    :raises Conflict: if another run moved the channel meanwhile.
    """
    channel, etag = _read(task, name)
    if channel.version is None:
        _refuse_version(task, name)
    elif version < channel.version:
        raise Refused(
            f"{name} points to {channel.version}, which is newer than {version}",
            f"to go back, run `invoke rollback {name} --to {version}`",
        )
    return _move(task, channel, etag, version)


def advance_channels(task: TaskContext, target: Release) -> tuple[str, ...]:
    """Move the configured channels forward to a new release; returns the tags that were moved.

    A channel that has ever pointed to a newer version stays, because somebody may have rolled it back. Only an exact
    release moves channels.

    :raises Conflict: if the version was pruned meanwhile.
    """
    names = task.settings.channels if Version.parse(target.version).is_release else ()
    return tuple(tag.reference for name in names for tag in _advance(task, name, target))


def _advance(task: TaskContext, name: str, target: Release) -> tuple[TagMove, ...]:
    version = Version.parse(target.version)
    while True:
        channel, etag = _read(task, name)
        if channel.version is None:
            _refuse_version(task, name)
        elif channel.version == version:
            # A killed run may have left the tags behind.
            return _follow(task, channel, channel, target).tags
        elif any(version <= Version.parse(move.version) for move in channel.moves):
            return ()
        try:
            return _point(task, channel, etag, target).tags
        except Conflict:
            if _read(task, name)[1] == etag:
                raise


def move_plan(task: TaskContext, version: Version, images: Sequence[ReleasedImage]) -> Iterator[Planned]:
    """What would happen to moving tags and channels; ``images`` are those of the release, if it is there."""
    yield from releases.point_plan(task, version, images)
    for name in task.settings.channels if version.is_release else ():
        channel, _ = _read(task, name)
        newer = max(Version.parse(move.version) for move in channel.moves) if channel.moves else version
        if newer > version:
            yield Planned(f"channel {name}", "not change", (f"it has pointed to {newer}",))
        elif images and channel.version == version and not outdated_tags(task, images, name):
            yield Planned(f"channel {name}", "not change", ("already there",))
        else:
            why = (f"now {channel.version}",) if channel.version else ("it is new",)
            yield Planned(f"channel {name}", f"be moved to {version}", why)


def roll_back(task: TaskContext, name: str, version: Version | None) -> ChannelState:
    """Point a channel to an older version; by default to the previous one. Nothing is deleted.

    If such a rollback was killed half way, this finishes it and does not go back further.

    :raises Refused: if there is no such channel, nothing older, or the version is newer.
    :raises Drifted: if the release is not intact.
    :raises Conflict: if another run moved the channel meanwhile.
    """
    channel, etag = _read_existing(task, name)
    if version is None and channel.directions[-1] is Direction.BACK:
        state = _follow(task, channel, channel)
        if state.tags:
            task.run.report(
                Warned("", f"the last rollback of {name} was interrupted: it is finished now, and nothing else is done")
            )
            return state
    target = version or channel.previous
    if target is None:
        raise Refused(
            f"{name} has never pointed to a version older than {channel.version}",
            f"name a released version, `invoke rollback {name} --to VERSION`",
        )
    assert channel.version
    if target > channel.version:
        raise Refused(
            f"{name} points to {channel.version}, which is older than {target}",
            f"to go forward, run `invoke channel {name} --to {target}`",
        )
    return _move(task, channel, etag, target)


def _read(task: TaskContext, name: str) -> tuple[Channel, str]:
    """A channel and its ETag, which is empty if the channel does not exist."""
    refuse_name(name, task.settings.moving_tags)
    key = channel_key(name)
    content = task.services.store.read(key)
    if content is None:
        return Channel(name), ""
    location = task.services.store.location(key)
    channel = Channel.parse(content.data, location)
    if channel.name != name:
        raise BuildToolsError(f"{location} is the channel {channel.name}", "restore it from a backup of the bucket")
    return channel, content.etag


def _read_existing(task: TaskContext, name: str) -> tuple[Channel, str]:
    channel, etag = _read(task, name)
    if not channel.moves:
        raise Refused(f"there is no channel {name}", f"make it with `invoke channel {name} --to VERSION`")
    return channel, etag


def _refuse_version(task: TaskContext, name: str) -> None:
    """Raise :class:`Refused` if a version has the name: a git tag may be any word. ``publish`` checks the converse."""
    version = Version.parse(name)
    for key in (manifest_key(version), claim_key(version)):
        if task.services.store.head(key):
            raise Refused(
                f"a channel cannot be called {name}: {task.services.store.location(key)} says that it is a version",
                "choose another name",
            )


def _move(task: TaskContext, channel: Channel, etag: str, version: Version) -> ChannelState:
    """Point the channel to a version. The version is checked first, and nothing is written if that fails."""
    releases.refuse_pruned(task, version)
    target = releases.released_version(task, version)
    if error := Verification(audit_releases(task, (target,))).error():
        raise error
    return _point(task, channel, etag, target)


def _point(task: TaskContext, channel: Channel, etag: str, target: Release) -> ChannelState:
    """Point the channel to a release that is known to be intact."""
    version, successor = Version.parse(target.version), channel
    if version != channel.version:
        successor = channel.moved_to(target)
        check_rights(task, outdated_tags(task, target.images, channel.name))
        if not task.run.dry_run:
            successor = _write(task, successor, etag)
            try:
                _refuse_pruned_meanwhile(task, channel.name, version)
            except Conflict:
                _take_back(task, channel, successor)
                raise
        _warn_of_abandoned_tags(task, channel, target)
    return _follow(task, channel, successor, target)


def _write(task: TaskContext, channel: Channel, etag: str) -> Channel:
    """Write the channel in place of the one with this ETag; returns the channel that is then in the store.

    A write whose response was lost finds its own move, and so does a second run that made the same move.
    """
    store, key = task.services.store, channel_key(channel.name)
    if etag:
        store.replace(key, channel.document(), etag, _JSON)
    else:
        store.create(key, channel.document(), _JSON)

    def look_up() -> Channel | None:
        current, current_etag = _read(task, channel.name)
        return current if current_etag != etag else None

    # A replicated store may show an object with a delay.
    current = awaited(look_up)
    if current is None:
        raise Unreachable(
            f"{store.location(key)} does not have what was written", "check the store, then run the same command again"
        )
    if current.moves[: len(channel.moves)] != channel.moves:
        raise Conflict(
            f"another run has just moved {channel.name} to {current.version}",
            f"look at `invoke channel {channel.name}`, then run the same command again if you still want it",
        )
    return current


def _refuse_pruned_meanwhile(task: TaskContext, name: str, version: Version) -> None:
    """Raise :class:`Conflict` if a run that does not see the channel's move is pruning the version, or has pruned it.

    A prune writes its record, then looks at channels, then deletes the manifest, and the record last. This moves the
    channel, then looks for that record, then for the manifest. So one of the two sees the other.
    """
    releases.refuse_pruned(task, version)
    if not releases.read_manifest(task, version):
        raise Conflict(f"version {version} was pruned while {name} was moved to it", "choose another version")


def _take_back(task: TaskContext, before: Channel, channel: Channel) -> None:
    """Restore the channel as it was before, unless it was new, or another run has moved it since."""
    current, etag = _read(task, channel.name)
    if before.moves and current == channel:
        task.services.store.replace(channel_key(channel.name), before.document(), etag, _JSON)


def _follow(task: TaskContext, before: Channel, channel: Channel, proven: Release | None = None) -> ChannelState:
    """Move the tags that do not follow the channel; ``proven`` is a release that was just audited.

    Afterwards, check whether the channel was moved meanwhile, and if so start again.

    :raises Drifted: if the release that they are to follow is not signed as required.
    """
    tags: tuple[TagMove, ...] = ()
    while True:
        release = releases.channel_release(task, channel)
        moves = outdated_tags(task, release.images, channel.name)
        if moves and release != proven:
            refuse_unsigned(task, release)
        tags += moves
        current = channel
        if moves and not task.run.dry_run:
            move_tags(task, moves)
            current, _ = _read_existing(task, channel.name)
        if current == channel:
            location = task.services.store.location(channel_key(channel.name))
            return ChannelState(channel, location, str(before.version or ""), tags, task.run.dry_run)
        channel = current
        task.run.report(Warned("", f"another run has just moved {channel.name} to {channel.version}"))


def _warn_of_abandoned_tags(task: TaskContext, channel: Channel, target: Release) -> None:
    """Warn of images that the target lacks. Nothing is deleted, so their tags stay where they are."""
    repositories = {(image.registry, image.repository) for image in target.images}
    # A channel can be moved away from a release whose manifest is missing or damaged.
    with suppress(BuildToolsError):
        for image in releases.channel_release(task, channel).images if channel.moves else ():
            if (image.registry, image.repository) not in repositories:
                place = f"{image.registry}/{image.repository}:{channel.name}"
                task.run.report(Warned("", f"{place} stays at {channel.version}: {target.version} has no such image"))
