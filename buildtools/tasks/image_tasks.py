"""Tasks about images."""

from __future__ import annotations

from typing import Any

from invoke.context import Context

from buildtools import Refused
from buildtools.invocation import junit_report, running, show, show_plan
from buildtools.tasks.declaration import command, image_command


@command(name="list")
def list_images(context: Context, only: str = "", why: str = "", json: bool = False) -> None:
    """List the image folders in build order, with parents, references and state."""
    with running(context, only=why or only, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import image_rendering

        listing = pipeline.list_images(run)
        explanations = [
            image_rendering.explanation(each) for each in listing.statuses if why in (each.name, each.folder.image)
        ]
        text = "".join(explanations) or image_rendering.listing_table(listing)
        show(console, json, image_rendering.listing_document(listing), text)
        console.summary(image_rendering.listing_summary(listing))


@command(help={"shards": "Divide the builds among this many agents, each of which runs `push --shard I/N`."})
def plan(context: Context, only: str = "", shards: str = "", no_cache: bool = False, json: bool = False) -> None:
    """Say what a push would build and why, and which of several agents would build what."""
    with running(context, only=only, no_cache=no_cache, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import build_plan_rendering

        if shards and not (shards.isdecimal() and len(shards) <= 4 and int(shards)):
            raise Refused(f"--shards {shards} is not a whole number from 1 to 9999", "give the number of agents")
        build_plan = pipeline.plan(run, int(shards or 0))
        show(
            console,
            json,
            build_plan_rendering.build_plan_document(build_plan),
            build_plan_rendering.build_plan_table(build_plan),
        )
        console.summary(build_plan_rendering.build_plan_summary(build_plan))


@image_command()
def build(context: Context, options: dict[str, Any]) -> None:
    """Build what is out of date, parents first, in parallel; the engine then has NAME:VERSION."""
    _bring_in(context, "built", options)


@image_command()
def tag(context: Context, options: dict[str, Any]) -> None:
    """Build, then give every image its registry name REGISTRY/NAMESPACE/NAME:VERSION."""
    _bring_in(context, "tagged", options)


def _bring_in(context: Context, word: str, options: dict[str, Any]) -> None:
    json, junit = options["json"], options.pop("junit")
    task = "build" if word == "built" else "tag"
    with running(context, **options) as (asked, console), junit_report(junit, task, asked) as (run, _):
        from buildtools import pipeline
        from buildtools.rendering import image_rendering, json_rendering

        if run.dry_run:
            show_plan(pipeline.plan_build(run), console, json=json)
            return
        images = pipeline.build(run, registry_names=word == "tagged")
        show(console, json, json_rendering.document(images), image_rendering.local_table(images))
        console.summary(image_rendering.local_summary(images, word))


@image_command(
    help={
        "shard": "Only the share of this agent: 2/4 is the second of four; `plan --shards 4` shows them.",
        "parents": "With --shard: a share of the parents that several shares need, to be pushed before all others.",
        "plan": "With --shard: take the shares from this file, which `plan --shards N --json` wrote.",
    },
    shard="",
    parents=False,
    plan="",
)
def push(context: Context, options: dict[str, Any]) -> None:
    """Push every image under its version, building only what the registry does not have, and read it back."""
    json, junit = options["json"], options.pop("junit")
    shard, parents, plan = (options.pop(name) for name in ("shard", "parents", "plan"))
    with running(context, **options) as (asked, console), junit_report(junit, "push", asked) as (run, _):
        from buildtools import pipeline
        from buildtools.rendering import image_rendering, json_rendering
        from buildtools.stages.build_plan import Shard

        share = Shard.parse(shard, parents=parents, plan=plan) if shard else None
        if share and (run.only or run.dry_run):
            raise Refused("--shard goes with neither --only nor --dry-run", "`plan --shards N` shows all shares")
        if (parents or plan) and not share:
            raise Refused("--parents and --plan need --shard", "name the share: --shard 1/4")
        if run.dry_run:
            show_plan(pipeline.plan_push(run), console, json=json)
            return
        pushed = pipeline.push(run, share)
        show(console, json, json_rendering.document(pushed), image_rendering.pushed_table(pushed))
        console.summary(image_rendering.pushed_summary(pushed))
