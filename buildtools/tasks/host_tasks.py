"""Tasks on the machines that run a release."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context

from buildtools import Refused
from buildtools.invocation import running, show, show_plan
from buildtools.tasks.declaration import command


@command(
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
    """Fetch a release to this machine: unpack and verify its archives, make it current, pull its images by digest."""
    with running(context, dry_run=dry_run, progress=progress, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import host_rendering, json_rendering

        if not to:
            raise Refused("fetch needs a folder", "say which: `invoke fetch VERSION --to DIR`")
        folder = Path(to).resolve()
        if run.dry_run:
            show_plan(pipeline.plan_fetch(run, version, folder, layout=oci), console, json=json)
            return
        result = pipeline.fetch(run, version, folder, layout=oci)
        show(console, json, json_rendering.document(result), host_rendering.fetch_table(result))
        console.summary(host_rendering.fetch_summary(result))


@command(
    help={
        "image": "The image's name.",
        "to": "The service folder to write, such as /etc/sv/app.",
        "release": "The version or the channel whose image to run (default: the version of the checkout).",
    }
)
def runit(
    context: Context, image: str, to: str = "", release: str = "", dry_run: bool = False, json: bool = False
) -> None:
    """Write the folder of a runit service that runs an image of a release, by digest."""
    with running(context, dry_run=dry_run, json=json) as (run, console):
        from buildtools import pipeline
        from buildtools.rendering import host_rendering, json_rendering

        if not to:
            raise Refused("runit needs a folder", "say which: `invoke runit IMAGE --to DIR`")
        service = pipeline.runit(run, image, Path(to), release)
        show(console, json, json_rendering.document(service), service.image)
        console.summary(host_rendering.service_folder_summary(service, dry_run=run.dry_run))
