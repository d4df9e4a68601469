"""The results of ``fetch`` and ``runit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from buildtools.console import table
from buildtools.rendering.words import states_text
from buildtools.stages.fetch import Fetched, FetchState

if TYPE_CHECKING:
    from buildtools.stages.service_folder import ServiceFolder


def fetch_table(result: Fetched) -> str:
    """The members of a release, and where they are on this machine."""
    rows = [(each.kind, each.place, each.digest, each.state.value) for each in result.members]
    return table(("KIND", "PLACE", "DIGEST", "STATE"), rows)


def fetch_summary(result: Fetched) -> str:
    """The result of ``fetch``."""
    folder = Path(result.folder)
    place = "" if result.previous in ("", folder.name) else f" in place of {result.previous}"
    states = [each.state for each in result.members]
    return f"{result.version} is current in {folder.parent}{place}: {states_text(states, FetchState)}"


def service_folder_summary(service: ServiceFolder, *, dry_run: bool) -> str:
    """The result of ``runit``, and the next step."""
    if not service.changes:
        return f"{service.path} runs {service.version} already: nothing was written"
    if dry_run:
        return f"dry run: {', '.join(service.changes)} would be written in {service.path}; nothing was touched"
    return f"{service.path} is to run {service.version}; next: `sv restart {service.path}`, or link it for runsvdir"
