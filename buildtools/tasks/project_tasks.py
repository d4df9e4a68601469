"""Tasks about a project, which need no service."""

from __future__ import annotations

from invoke.context import Context

from buildtools.invocation import exit_codes, process_environment, running, show
from buildtools.tasks.declaration import command


@command()
def version(context: Context, json: bool = False) -> None:
    """Print the version alone: the text of git describe, without the tag prefix."""
    with exit_codes(json=json):
        from buildtools.git.checkout import read_version
        from buildtools.invoke_config import read_settings

        environment = process_environment()
        settings = read_settings(context, environment)
        current = read_version(settings.root, settings.tag_prefix, environment)
        parts = ("text", "base", "distance", "abbreviation", "commit", "dirty", "is_release", "image_tag")
        document = {"schema": 1, **{part: getattr(current, part) for part in parts}}
        show(None, json, document, current.text, verbatim=True)


@command()
def init(context: Context, dry_run: bool = False, json: bool = False) -> None:
    """Write the files and lines of .gitignore that a repository lacks to start, and print the next three commands."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import project_rendering

        project = pipeline.init(run)
        show(console, json, project_rendering.new_project_document(project), "\n".join(project.commands))
        console.summary(project_rendering.new_project_summary(project, dry_run=run.dry_run))


@command()
def check(context: Context, json: bool = False) -> None:
    """Report all errors in the configuration and in the image folders; no service is needed."""
    with running(context, json=json, lenient=True) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import json_rendering, project_rendering

        checked = pipeline.check(run)
        show(console, json, json_rendering.document(checked), "")
        console.summary(project_rendering.checked_summary(checked))
