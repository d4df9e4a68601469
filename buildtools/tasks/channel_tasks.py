"""Tasks that point channels at releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.context import Context

from buildtools.invocation import running, show
from buildtools.tasks.declaration import command

if TYPE_CHECKING:
    from buildtools.console import Console
    from buildtools.stages.channels import ChannelState


@command(help={"name": "The channel's name, as stage.", "to": "The released version to point it to, newer than now's."})
def channel(context: Context, name: str, to: str = "", dry_run: bool = False, json: bool = False) -> None:
    """Show where a channel points, and its past; with --to, move it forward, and the images' tags with it."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline

        _show_channel(pipeline.channel(run, name, to), console, json=json)


@command(
    help={
        "channel": "The channel's name, as stage.",
        "to": "The version to go back to (default: the one that it pointed to before).",
    }
)
def rollback(context: Context, channel: str, to: str = "", dry_run: bool = False, json: bool = False) -> None:
    """Move a channel back to an older version, and the images' tags with it; nothing is deleted."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline

        _show_channel(pipeline.rollback(run, channel, to), console, json=json)


def _show_channel(state: ChannelState, console: Console, *, json: bool) -> None:
    from buildtools import rendering

    show(console, json, rendering.channel_document(state), rendering.channel_table(state))
    console.summary(rendering.channel_summary(state))
