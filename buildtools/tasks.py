"""The Invoke tasks: arguments to one pipeline call to what is printed.

``from buildtools.tasks import namespace`` in a ``tasks.py`` is all that a repository needs. Data goes to standard
output, everything else to standard error. To import it changes nothing of the process.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from buildtools import Refused, Unreachable

# What handles signals was here first, and is imported from here by others.
from buildtools.cancellation import cancel_on_signals as _signals  # noqa: F401
from buildtools.invocation import (
    exit_codes,
    junit_report,
    process_environment,
    process_for_a_run,
    running,
    show,
    show_plan,
)

if TYPE_CHECKING:
    from buildtools.console import Console
    from buildtools.stages.channels import ChannelState

_SANDBOX = ".sandbox"

_HELP = {
    "only": "Image folders to work on, separated by commas; their parents come along.",
    "jobs": "How many images to work on at once (default: three for each processor, up to 16).",
    "dry_run": "Say what would happen, touch nothing.",
    "json": "Print the result as JSON on standard output.",
    "progress": "How to show progress: auto, live, plain or json.",
    "no_cache": "Build without any cache, even what is up to date.",
    "pull": "Ask the registries for newer base images.",
    "allow_dirty": "Go on with uncommitted changes; writes neither a manifest nor a moving tag.",
    "deep": "Read every archive back in full instead of believing the store's checksum.",
    "junit": "Write a JUnit XML file with a case for each image or archive, also where the run fails.",
    "why": "Explain the state of this one image: every input, and what changed.",
}


def _command(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A task without Invoke's guessed one-letter flags, which would change meaning as flags are added."""

    def decorate(function: Callable[..., None]) -> Any:
        names = list(inspect.signature(function).parameters)[1:]
        helps = {name: _HELP[name] for name in names if name in _HELP}
        helps |= arguments.pop("help", {})
        return task(auto_shortflags=False, help=helps, **arguments)(process_for_a_run()(function))

    return decorate


# What every task about images takes; Invoke reads a task's options off its signature.
_IMAGE_OPTIONS: dict[str, Any] = {
    "only": "",
    "jobs": "",
    "dry_run": False,
    "no_cache": False,
    "pull": False,
    "json": False,
    "progress": "auto",
    "junit": "",
}


def _image_command(function: Callable[[Context, dict[str, Any]], None]) -> Any:
    @wraps(function)
    def body(context: Context, **options: Any) -> None:
        function(context, {**_IMAGE_OPTIONS, **options})

    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, keyword, default=value) for name, value in _IMAGE_OPTIONS.items()]
    signature = inspect.Signature([inspect.Parameter("context", keyword), *parameters])
    body.__signature__ = signature  # type: ignore[attr-defined]  # what inspect.signature, and so Invoke, looks for
    return _command()(body)


@_command()
def version(context: Context, json: bool = False) -> None:
    """Print the version alone: the text of git describe, without the tag prefix."""
    with exit_codes(json=json):
        from buildtools.git.checkout import read_version
        from buildtools.invoke_config import read_settings

        environment = process_environment()
        settings = read_settings(context, environment)
        current = read_version(settings.root, settings.tag_prefix, environment)
        parts = ("text", "base", "distance", "abbreviation", "commit", "dirty", "is_release", "image_tag")
        show(None, json, {"schema": 1, **{part: getattr(current, part) for part in parts}}, current.text)


@_command()
def init(context: Context, dry_run: bool = False, json: bool = False) -> None:
    """Write what a repository lacks to begin, change nothing that is there, and print the next three commands."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline, rendering

        project = pipeline.init(run)
        show(console, json, rendering.new_project_document(project), "\n".join(project.commands))
        console.summary(rendering.new_project_summary(project, dry_run=run.dry_run))


@_command()
def check(context: Context, json: bool = False) -> None:
    """Look for errors in the configuration and in all image folders, and tell every one; no service is needed."""
    with running(context, json=json, lenient=True) as (run, console):
        from buildtools import pipeline, rendering

        checked = pipeline.check(run)
        show(console, json, rendering.document(checked), "")
        console.summary(rendering.checked_summary(checked))


@_command(name="list")
def list_images(context: Context, only: str = "", why: str = "", json: bool = False) -> None:
    """List the image folders in build order, with parents, references and state."""
    with running(context, only=why or only, json=json) as (run, console):
        from buildtools import pipeline, rendering

        listing = pipeline.list_images(run)
        explanations = [rendering.explanation(each) for each in listing.statuses if each.name == why]
        text = "".join(explanations) or rendering.listing_table(listing)
        show(console, json, rendering.listing_document(listing), text)
        console.summary(rendering.listing_summary(listing))


@_image_command
def build(context: Context, options: dict[str, Any]) -> None:
    """Build what is out of date, parents first, in parallel; the engine then has NAME:VERSION."""
    _bring_in(context, "built", options)


@_image_command
def tag(context: Context, options: dict[str, Any]) -> None:
    """Build, then give every image its registry name REGISTRY/NAMESPACE/NAME:VERSION."""
    _bring_in(context, "tagged", options)


def _bring_in(context: Context, word: str, options: dict[str, Any]) -> None:
    json, junit = options["json"], options.pop("junit")
    task = "build" if word == "built" else "tag"
    with running(context, **options) as (asked, console), junit_report(junit, task, asked) as (run, _):
        from buildtools import pipeline, rendering

        if run.dry_run:
            show_plan(pipeline.plan_build(run), console, json=json)
            return
        images = pipeline.build(run, registry_names=word == "tagged")
        show(console, json, rendering.document(images), rendering.local_table(images))
        console.summary(rendering.local_summary(images, word))


@_image_command
def push(context: Context, options: dict[str, Any]) -> None:
    """Push every image under its version, building only what the registry does not have, and read it back."""
    json, junit = options["json"], options.pop("junit")
    with running(context, **options) as (asked, console), junit_report(junit, "push", asked) as (run, _):
        from buildtools import pipeline, rendering

        if run.dry_run:
            show_plan(pipeline.plan_push(run), console, json=json)
            return
        pushed = pipeline.push(run)
        show(console, json, rendering.document(pushed), rendering.pushed_table(pushed))
        console.summary(rendering.pushed_summary(pushed))


@_command()
def dist(context: Context, dry_run: bool = False, json: bool = False, progress: str = "auto") -> None:
    """Make every distribution's .tgz in dist/, the same bytes for the same input."""
    with running(context, dry_run=dry_run, progress=progress, json=json) as (run, console):
        from buildtools import pipeline, rendering

        if run.dry_run:
            show_plan(pipeline.plan_dist(run), console, json=json)
            return
        archives = pipeline.dist(run)
        show(console, json, rendering.document(archives), rendering.archive_table(archives))
        console.summary(rendering.archive_summary(archives))


@_command()
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
    options: dict[str, Any] = {"jobs": jobs, "dry_run": dry_run, "no_cache": no_cache, "pull": pull}
    options |= {"allow_dirty": allow_dirty, "progress": progress, "json": json}
    with running(context, **options) as (asked, console), junit_report(junit, "publish", asked) as (run, _):
        from buildtools import pipeline, rendering

        if run.dry_run:
            show_plan(pipeline.plan_publish(run), console, json=json)
            return
        published = pipeline.publish(run)
        show(console, json, rendering.document(published), rendering.release_table(published.release))
        console.summary(rendering.published_summary(published))


@_command(
    help={
        "bump": "What to raise in the last version: major, minor, patch or prerelease.",
        "to": "The version itself, as 1.5.0 or 1.5.0-rc.1.",
        "first": "The first version of a repository that has none, as 0.1.0.",
        "message": "The tag's message (default: the subjects of the commits since the last tag).",
        "sign": "Sign with the key that git is configured for.",
        "push": "Push the tag to the remote; --no-push makes it here alone.",
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
    """Cut the annotated release tag of HEAD and push it; `invoke publish` then releases it."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline, rendering

        options: dict[str, Any] = {"bump": bump, "to": to, "first": first, "message": message, "branch": branch}
        cut = pipeline.release(run, remote, **options, sign=sign, push=push)
        show(console, json, rendering.document(cut), rendering.tag_text(cut))
        console.summary(rendering.tag_summary(cut))


@_command(
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
    """Verify that every image and archive of releases still matches their manifests; 5 is drift, 4 an outage."""
    with running(context, json=json) as (asked, console), junit_report(junit, "verify", asked) as (run, cases):
        from buildtools import pipeline, rendering

        names = [name.strip() for name in release.split(",") if name.strip()]
        if names and all:
            raise Refused("--release and --all contradict each other", "leave one of them out")
        verified = pipeline.verify(run, names, everything=all, deep=deep)
        for event in rendering.audit_events(verified):
            cases(event)
        show(console, json, rendering.verification_document(verified), rendering.verification_table(verified))
        if error := verified.error():
            raise error
        console.summary(rendering.verification_summary(verified))


@_command(
    help={"name": "The channel's name, as stage.", "to": "The released version to point it to, newer than now's."}
)
def channel(context: Context, name: str, to: str = "", dry_run: bool = False, json: bool = False) -> None:
    """Show where a channel points, and its past; with --to, move it forward, and the images' tags with it."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline

        _show_channel(pipeline.channel(run, name, to), console, json=json)


@_command(
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


@_command(
    help={
        "version": "The version to fetch, or the channel that points to it.",
        "to": "The folder that holds the versions; its link `current` then leads to this one.",
        "oci": "Write the images into files, an OCI image layout, instead of pulling them into the engine.",
    }
)
def fetch(
    context: Context,
    version: str,
    to: str = "",
    oci: bool = False,
    dry_run: bool = False,
    json: bool = False,
    progress: str = "auto",
) -> None:
    """Bring a release to this machine: archives checked, unpacked and made current, images pulled by digest."""
    with running(context, dry_run=dry_run, progress=progress, json=json) as (run, console):
        from buildtools import pipeline, rendering

        if not to:
            raise Refused("fetch needs a folder", "say which: `invoke fetch VERSION --to DIR`")
        if run.dry_run:
            show_plan(pipeline.plan_fetch(run, version, Path(to), layout=oci), console, json=json)
            return
        result = pipeline.fetch(run, version, Path(to), layout=oci)
        show(console, json, rendering.document(result), rendering.fetch_table(result))
        console.summary(rendering.fetch_summary(result))


@_command()
def history(context: Context, json: bool = False) -> None:
    """List every released or claimed version, newest first, with commit, date, members, moving tags and channels."""
    with running(context, json=json) as (run, console):
        from buildtools import pipeline, rendering

        entries = pipeline.history(run)
        show(console, json, rendering.document(entries), rendering.history_table(entries))
        console.summary(rendering.history_summary(entries))


@_command(
    name="up",
    help={
        "bare": "Leave out the Debian base image, which takes a while to make the first time.",
        "anonymous": "Let everybody into the registry.",
    },
)
def sandbox_up(context: Context, bare: bool = False, anonymous: bool = False, progress: str = "auto") -> None:
    """Start a registry, an S3 server and, where none answers, an engine; prints what to source to use them."""
    with running(context, progress=progress) as (run, console):
        from buildtools import sandbox

        box = sandbox.up(
            run.settings.root / _SANDBOX,
            environment=run.environment,
            base=not bare,
            htpasswd=not anonymous,
            report=console,
        )
        show(console, json=False, document={}, text=f". {shlex.quote(str(box.directory / 'env'))}")
        console.summary(f"the sandbox is up: registry {box.registry}, S3 {box.s3_endpoint}; source the file above")


@_command(name="down")
def sandbox_down(context: Context) -> None:
    """Stop all that sandbox.up started, and remove it; an engine that was there before stays."""
    with running(context) as (run, console):
        from buildtools import sandbox

        sandbox.down(run.settings.root / _SANDBOX)
        console.summary("the sandbox is down")


@_command(name="status")
def sandbox_status(context: Context, json: bool = False) -> None:
    """Show the parts of the sandbox and whether they answer."""
    with running(context, json=json) as (run, console):
        from buildtools import rendering, sandbox

        services = sandbox.status(run.settings.root / _SANDBOX)
        show(console, json, rendering.document(services), rendering.services_table(services))
        silent = [service.name for service in services if not service.answers]
        if not services:
            raise Refused("there is no sandbox here", "start one with `invoke sandbox.up`")
        if silent:
            raise Unreachable(f"not answering: {', '.join(silent)}", "`invoke sandbox.up` repairs it")
        console.summary("the sandbox is up")


namespace = Collection(
    version,
    init,
    check,
    list_images,
    build,
    tag,
    push,
    dist,
    publish,
    release,
    verify,
    channel,
    rollback,
    fetch,
    history,
    sandbox=Collection(sandbox_up, sandbox_down, sandbox_status),
)


def _check_project_file() -> None:
    """Ends with a message where Invoke would end with a traceback, as soon as it loads this module."""
    from buildtools.invoke_config import refuse_invalid_file

    # Invoke puts the folder of the tasks file there before it loads it.
    with exit_codes():
        refuse_invalid_file(Path(sys.path[0]))


_check_project_file()
