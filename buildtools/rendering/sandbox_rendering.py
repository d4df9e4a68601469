"""The services of the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildtools.console import table

if TYPE_CHECKING:
    from buildtools.sandbox import Service


def services_table(services: Sequence[Service]) -> str:
    """The services of a sandbox."""
    rows = [(each.name, each.address, "answers" if each.answers else "silent", str(each.log)) for each in services]
    return table(("SERVICE", "ADDRESS", "STATE", "LOG"), rows)
