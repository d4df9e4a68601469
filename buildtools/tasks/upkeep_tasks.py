"""Tasks that maintain the machines that build and release."""

from __future__ import annotations

from invoke.context import Context

from buildtools import Refused
from buildtools.invocation import running, show
from buildtools.tasks.declaration import command


@command()
def doctor(context: Context, dry_run: bool = False, json: bool = False) -> None:
    """Check what a release needs (engine, disks, clock, registry, store), and say what to do about each problem."""
    with running(context, dry_run=dry_run, json=json, lenient=True) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import json_rendering, upkeep_rendering

        examination = pipeline.doctor(run)
        show(console, json, json_rendering.document(examination), upkeep_rendering.examination_table(examination))
        if error := examination.error():
            raise error
        console.summary(upkeep_rendering.examination_summary(examination))


@command(
    help={
        "older_than": "Remove only what was last used this many days ago or earlier (default: 14).",
        "yes": "Remove what is found; without it, only show it.",
    }
)
def clean(
    context: Context, older_than: str = "14", yes: bool = False, dry_run: bool = False, json: bool = False
) -> None:
    """Show what this tool left here and nobody uses: images, archives, caches, killed trials; with --yes remove it."""
    with running(context, dry_run=dry_run or not yes, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import json_rendering, upkeep_rendering

        if not older_than.isdecimal():
            raise Refused(f"--older-than {older_than} is not a whole number of days", "give one, such as 14")
        leftovers = pipeline.clean(run, int(older_than))
        show(console, json, json_rendering.document(leftovers), upkeep_rendering.leftovers_table(leftovers))
        console.summary(upkeep_rendering.leftovers_summary(leftovers, dry_run=run.dry_run))
