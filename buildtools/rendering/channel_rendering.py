"""The results of ``channel``, ``rollback``, ``promote`` and ``stage``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from buildtools.console import table
from buildtools.rendering.json_rendering import DOCUMENT_SCHEMA, json_value
from buildtools.rendering.release_rendering import moved_tags_text
from buildtools.rendering.words import count_text, members_text, short_digest

if TYPE_CHECKING:
    from buildtools.pipeline import Published
    from buildtools.stages.channels import ChannelState
    from buildtools.stages.trial import Trial


def promoted_summary(published: Published, target: str) -> str:
    """The result of ``promote``."""
    release = published.release
    word = "promoted to" if published.written else "was promoted before to"
    members = members_text(len(release.images), len(release.archives))
    return f"{release.version} {word} {target}: {members}, {published.manifest}{moved_tags_text(published)}"


def channel_document(state: ChannelState) -> Any:
    """A channel as ``channel --json`` and ``rollback --json`` print it; its moves are oldest first."""
    channel = state.channel
    return {
        "schema": DOCUMENT_SCHEMA,
        "channel": channel.name,
        **json_value(channel.moves[-1]),
        "location": state.location,
        "before": state.before,
        "dry_run": state.dry_run,
        "tags": json_value(state.tags),
        "moves": json_value(channel.moves),
    }


def channel_table(state: ChannelState) -> str:
    """The tags that were moved; without any, the channel's history, newest first."""
    channel = state.channel
    tags = [(tag.reference, short_digest(tag.before), short_digest(tag.after)) for tag in state.tags]
    past = [
        (move.version, move.commit[:12], direction.value)
        for move, direction in zip(channel.moves, channel.directions, strict=True)
    ]
    return table(("TAG", "BEFORE", "AFTER"), tags) if tags else table(("VERSION", "COMMIT", "MOVED"), past[::-1])


def channel_summary(state: ChannelState) -> str:
    """The result of ``channel`` or ``rollback``."""
    name, version, before, tags = state.channel.name, state.version, state.before, count_text(len(state.tags), "tag")
    verb = "would move" if state.dry_run else "moved"
    if before == version:
        outcome = f"{name} points to {version}" + (f"; {verb} {tags} to where it points" if state.tags else "")
    elif before:
        outcome = f"{name} {verb} {state.channel.directions[-1].value} from {before} to {version}, {tags} with it"
    else:
        outcome = f"{name} is a new channel and {verb} to {version}, {tags} with it"
    return f"dry run: nothing was touched; {outcome}" if state.dry_run else outcome


def trial_table(trial: Trial) -> str:
    """The services of the stack in which a version was tried out."""
    rows = [(each.name, each.state, each.image) for each in trial.services]
    return table(("SERVICE", "STATE", "IMAGE"), rows)


def trial_summary(trial: Trial) -> str:
    """The result of a successful ``stage``."""
    services = count_text(len(trial.services), "service")
    smoke = "" if trial.smoke is None else " and the smoke command"
    end = "`promote` may rely on it" if trial.released else "not recorded: only what --release names is"
    return f"{trial.version} passed: {services}{smoke}; {end}; logs in {trial.logs}"
