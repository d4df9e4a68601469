"""The results of ``doctor``, ``prune`` and ``clean``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildtools.console import table
from buildtools.rendering.words import count_text
from buildtools.stages.pruning import PruneState

if TYPE_CHECKING:
    from buildtools.stages.doctor import Examination
    from buildtools.stages.leftovers import Leftover
    from buildtools.stages.pruning import PruneEntry


def examination_table(examination: Examination) -> str:
    """The findings of ``doctor``, each with what to do."""
    rows = [(each.health.value, each.subject, each.fact, each.remedy) for each in examination.diagnoses]
    return table(("STATE", "SUBJECT", "FOUND", "WHAT TO DO"), rows)


def examination_summary(examination: Examination) -> str:
    """The result of ``doctor`` if nothing failed."""
    warnings = sum(each.health.value == "warning" for each in examination.diagnoses)
    return f"all is well, with {count_text(warnings, 'warning')}" if warnings else "all is well"


def prune_table(entries: Sequence[PruneEntry]) -> str:
    """The versions and what happened to them, newest first."""
    rows = [(each.version, each.created[: len("2026-01-31")], each.state.value, each.why) for each in entries]
    return table(("VERSION", "DATE", "STATE", "WHY"), rows)


def prune_summary(entries: Sequence[PruneEntry], *, dry_run: bool) -> str:
    """The result of ``prune``."""
    states = [each.state for each in entries]
    count = count_text(states.count(PruneState.PRUNED), "version")
    kept = f"{states.count(PruneState.KEPT)} kept"
    if dry_run:
        return f"dry run: nothing was touched; {count} would be pruned, {kept}; do it with --yes"
    return f"pruned {count}, {kept}"


def leftovers_table(leftovers: Sequence[Leftover]) -> str:
    """What nobody uses, and for how long."""
    return table(("KIND", "NAME", "DAYS"), [(each.kind.value, each.name, str(each.days)) for each in leftovers])


def leftovers_summary(leftovers: Sequence[Leftover], *, dry_run: bool) -> str:
    """The result of ``clean``."""
    things = count_text(len(leftovers), "thing")
    if dry_run:
        return f"dry run: nothing was touched; {things} would be removed; do it with --yes"
    return f"removed {things}"
