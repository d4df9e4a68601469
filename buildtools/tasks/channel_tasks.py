"""Tasks that follow a release: channels, promotion, trials and pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.context import Context

from buildtools import Refused
from buildtools.invocation import junit_report, running, show, show_plan
from buildtools.tasks.declaration import command

if TYPE_CHECKING:
    from buildtools.console import Console
    from buildtools.stages.channels import ChannelState


@command(
    help={
        "name": "The channel's name, such as stage.",
        "to": "The released version to point it to, newer than the current one.",
    }
)
def channel(context: Context, name: str, to: str = "", dry_run: bool = False, json: bool = False) -> None:
    """Show where a channel points, and its past; with --to, move it forward, and the images' tags with it."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline

        _show_channel(pipeline.channel(run, name, to), console, json=json)


@command(
    help={
        "channel": "The channel's name, such as stage.",
        "to": "The version to go back to (default: the previous one).",
    }
)
def rollback(context: Context, channel: str, to: str = "", dry_run: bool = False, json: bool = False) -> None:
    """Move a channel back to an older version, and the images' tags with it; nothing is deleted."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline

        _show_channel(pipeline.rollback(run, channel, to), console, json=json)


def _show_channel(state: ChannelState, console: Console, *, json: bool) -> None:
    from buildtools.rendering import channel_rendering

    show(console, json, channel_rendering.channel_document(state), channel_rendering.channel_table(state))
    console.summary(channel_rendering.channel_summary(state))


@command(
    help={
        "version": "The version to promote, or the channel that points to it.",
        "to": "The name of a target, [tool.buildtools.target.NAME].",
    }
)
def promote(
    context: Context, version: str, to: str = "", dry_run: bool = False, json: bool = False, progress: str = "auto"
) -> None:
    """Copy a release to another registry and store, byte for byte, the manifest last."""
    with running(context, dry_run=dry_run, json=json, progress=progress) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import channel_rendering, json_rendering, release_rendering

        if not to:
            raise Refused("promote needs a target", "say which: `invoke promote VERSION --to NAME`")
        if run.dry_run:
            show_plan(pipeline.plan_promote(run, version, to), console, json=json)
            return
        published = pipeline.promote(run, version, to)
        show(console, json, json_rendering.document(published), release_rendering.release_table(published.release))
        console.summary(channel_rendering.promoted_summary(published, to))


@command(
    help={
        "release": "A released version, or a channel that points to it (default: what was built or pushed here).",
        "junit": "Write a JUnit XML file with a case for each service and the smoke command, even if one fails.",
    }
)
def stage(
    context: Context,
    release: str = "",
    dry_run: bool = False,
    json: bool = False,
    progress: str = "auto",
    junit: str = "",
) -> None:
    """Try a version out: start its stack with Compose, wait until it is healthy, run the smoke command, remove it."""
    with (
        running(context, dry_run=dry_run, progress=progress, json=json) as (asked, console),
        junit_report(junit, "stage", asked) as (run, _),
    ):
        from buildtools import pipeline
        from buildtools.rendering import channel_rendering, json_rendering

        if run.dry_run:
            show_plan(pipeline.plan_stage(run, release), console, json=json)
            return
        trial = pipeline.stage(run, release)
        show(console, json, json_rendering.document(trial), channel_rendering.trial_table(trial))
        console.summary(channel_rendering.trial_summary(trial))


@command(
    help={
        "keep": "How many of the newest versions to keep, whatever their age.",
        "older_than": "Of the others, prune those whose commit is older than this many days.",
        "prefix": "Prune only versions that start with this prefix, such as 1.4.; --keep counts among them.",
        "engine": "Prune version names in the engine instead; their age counts from the day they were given.",
        "yes": "Prune; without it, only say what would be pruned.",
    }
)
def prune(
    context: Context,
    keep: str = "",
    older_than: str = "",
    prefix: str = "",
    engine: bool = False,
    yes: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Delete whole releases, but none that a channel, a gate or a git tag points to."""
    with running(context, dry_run=dry_run or not yes, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import json_rendering, upkeep_rendering

        if engine and not older_than:
            older_than = "0"
        if not (keep.isdecimal() and older_than.isdecimal() and int(keep)):
            raise Refused(
                "prune needs two whole numbers, and keeps at least one version",
                "run it as `invoke prune --keep 20 --older-than 90`",
            )
        if engine:
            leftovers = pipeline.prune_engine(run, int(keep), int(older_than), prefix)
            show(console, json, json_rendering.document(leftovers), upkeep_rendering.leftovers_table(leftovers))
            console.summary(upkeep_rendering.leftovers_summary(leftovers, dry_run=run.dry_run))
            return
        entries = pipeline.prune(run, int(keep), int(older_than), prefix)
        show(console, json, json_rendering.document(entries), upkeep_rendering.prune_table(entries))
        console.summary(upkeep_rendering.prune_summary(entries, dry_run=run.dry_run))
