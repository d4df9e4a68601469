"""Tasks that look after the machines that build and release."""

from __future__ import annotations

from invoke.context import Context

from buildtools.invocation import running, show
from buildtools.tasks.declaration import command


@command()
def doctor(context: Context, dry_run: bool = False, json: bool = False) -> None:
    """Look at all that a release needs: engine, disks, clock, registry, store; each finding with what to do."""
    with running(context, dry_run=dry_run, json=json, lenient=True) as (run, console):
        from buildtools import pipeline, rendering

        examination = pipeline.doctor(run)
        show(console, json, rendering.document(examination), rendering.examination_table(examination))
        if error := examination.error():
            raise error
        console.summary(rendering.examination_summary(examination))
