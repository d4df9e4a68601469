"""Tasks about the sandbox."""

from __future__ import annotations

import shlex

from invoke.context import Context

from buildtools import Refused, Unreachable
from buildtools.invocation import running, show
from buildtools.tasks.declaration import command

_SANDBOX = ".sandbox"


@command(
    name="up",
    help={
        "bare": "Leave out the Debian base image, which takes a while to make the first time.",
        "anonymous": "Let everybody use the registry without a login.",
    },
)
def sandbox_up(context: Context, bare: bool = False, anonymous: bool = False, progress: str = "auto") -> None:
    """Start a registry, an S3 server and, if none answers, an engine; print the file to source to use them."""
    with running(context, lenient=True, progress=progress) as (run, console):
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


@command(name="down")
def sandbox_down(context: Context) -> None:
    """Stop and remove everything that sandbox.up started; an engine that was already running stays."""
    with running(context, lenient=True) as (run, console):
        from buildtools import sandbox

        directory = run.settings.root / _SANDBOX
        sandbox.down(directory)
        is_in_use = run.environment.get("INVOKE_RUNTIME_CONFIG") == str(directory / "invoke.yaml")
        hint = "; this shell still has its variables: go on in a new one" if is_in_use else ""
        console.summary(f"the sandbox is down{hint}")


@command(name="status")
def sandbox_status(context: Context, json: bool = False) -> None:
    """Show the parts of the sandbox and whether they answer."""
    with running(context, lenient=True, json=json) as (run, console):
        from buildtools import sandbox
        from buildtools.rendering import json_rendering, sandbox_rendering

        services = sandbox.status(run.settings.root / _SANDBOX)
        show(console, json, json_rendering.document(services), sandbox_rendering.services_table(services))
        silent = [service.name for service in services if not service.answers]
        if not services:
            raise Refused("there is no sandbox here", "start one with `invoke sandbox.up`")
        if silent:
            raise Unreachable(f"not answering: {', '.join(silent)}", "`invoke sandbox.up` repairs it")
        console.summary("the sandbox is up")
