"""Tasks about releases: make, publish, verify and list them."""

from __future__ import annotations

from invoke.context import Context

from buildtools import Refused
from buildtools.invocation import junit_report, running, show, show_plan
from buildtools.tasks.declaration import command


@command()
def dist(context: Context, dry_run: bool = False, json: bool = False, progress: str = "auto") -> None:
    """Make every distribution's .tgz in dist/, the same bytes for the same input."""
    with running(context, dry_run=dry_run, progress=progress, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import json_rendering, release_rendering

        if run.dry_run:
            show_plan(pipeline.plan_dist(run), console, json=json)
            return
        archives = pipeline.dist(run)
        show(console, json, json_rendering.document(archives), release_rendering.archive_table(archives))
        console.summary(release_rendering.archive_summary(archives))


@command()
def publish(
    context: Context,
    jobs: str = "",
    dry_run: bool = False,
    no_cache: bool = False,
    pull: bool = False,
    allow_dirty: bool = False,
    json: bool = False,
    progress: str = "auto",
    junit: str = "",
) -> None:
    """Release the version: images, archives, and last the manifest that makes it exist."""
    with (
        running(
            context,
            jobs=jobs,
            dry_run=dry_run,
            no_cache=no_cache,
            pull=pull,
            allow_dirty=allow_dirty,
            json=json,
            progress=progress,
        ) as (asked, console),
        junit_report(junit, "publish", asked) as (run, _),
    ):
        from buildtools import pipeline
        from buildtools.rendering import json_rendering, release_rendering

        if run.dry_run:
            show_plan(pipeline.plan_publish(run), console, json=json)
            return
        published = pipeline.publish(run)
        show(console, json, json_rendering.document(published), release_rendering.release_table(published.release))
        console.summary(release_rendering.published_summary(published))


@command(
    help={
        "bump": "What to raise in the last version: major, minor, patch or prerelease.",
        "to": "The version itself, such as 1.5.0 or 1.5.0-rc.1.",
        "first": "The first version of a repository that has none, such as 0.1.0.",
        "message": "The tag's message (default: the subjects of the commits since the last tag).",
        "sign": "Sign with the key that is configured in git.",
        "push": "Push the tag to the remote; --no-push makes it only here.",
        "remote": "The remote to push to (default: the configured one).",
        "branch": "The branch that a detached HEAD is on; in Jenkins $BRANCH_NAME.",
    }
)
def release(
    context: Context,
    bump: str = "",
    to: str = "",
    first: str = "",
    message: str = "",
    sign: bool = False,
    push: bool = True,
    remote: str = "",
    branch: str = "",
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Cut the annotated release tag of HEAD and push it; `publish` then releases it."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.git.tagging.tag_plan import TagRequest
        from buildtools.rendering import json_rendering, release_rendering

        request = TagRequest(
            remote=remote, bump=bump, to=to, first=first, message=message, branch=branch, sign=sign, push=push
        )
        cut = pipeline.release(run, request)
        show(console, json, json_rendering.document(cut), release_rendering.tag_text(cut), verbatim=True)
        console.summary(release_rendering.tag_summary(cut))


@command(
    help={
        "release": "Versions and channels to verify, separated by commas (default: the version of the checkout).",
        "all": "Verify every release.",
    }
)
def verify(
    context: Context,
    release: str = "",
    all: bool = False,  # noqa: A002  the flag's name
    deep: bool = False,
    json: bool = False,
    junit: str = "",
) -> None:
    """Verify that images and archives of releases still match their manifests; exit 5 is drift, 4 an outage."""
    with running(context, json=json) as (asked, console), junit_report(junit, "verify", asked) as (run, cases):
        from buildtools import pipeline
        from buildtools.rendering import release_rendering

        names = [name.strip() for name in release.split(",") if name.strip()]
        if names and all:
            raise Refused("--release and --all contradict each other", "leave one of them out")
        verification = pipeline.verify(run, names, everything=all, deep=deep)
        for event in release_rendering.audit_events(verification):
            cases(event)
        show(
            console,
            json,
            release_rendering.verification_document(verification),
            release_rendering.verification_table(verification),
        )
        if error := verification.error():
            raise error
        console.summary(release_rendering.verification_summary(verification))


@command()
def history(context: Context, json: bool = False) -> None:
    """List every released or claimed version, newest first, with commit, date, members, moving tags and channels."""
    with running(context, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import json_rendering, release_rendering

        entries = pipeline.history(run)
        show(console, json, json_rendering.document(entries), release_rendering.history_table(entries))
        console.summary(release_rendering.history_summary(entries))
