"""The result of ``plan``, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from buildtools.console import table
from buildtools.image.reference import image_name
from buildtools.rendering.json_rendering import document
from buildtools.rendering.words import count_text, images_text
from buildtools.workboard import duration

if TYPE_CHECKING:
    from buildtools.stages.build_plan import BuildPlan, PlannedBuild


def build_plan_document(plan: BuildPlan) -> Any:
    """The output of ``plan --json``: the images to build, and the shares if any were requested."""
    division = plan.partition
    shards = {
        "first_wave": [asdict(share) for share in division.first_wave],
        "shares": [asdict(share) for share in division.shares],
        "duplicates": sorted(division.duplicates),
    }
    about = {"version": plan.version, "commit": plan.commit}
    return {**document(plan.builds), **about, "others": plan.others, **({"shards": shards} if division.shares else {})}


def build_plan_table(plan: BuildPlan) -> str:
    """The images to build, the shares that contain each, and why."""
    count = len(plan.partition.shares)
    rows = [
        (
            each.name,
            "built" if each.is_built else "to build",
            duration(each.seconds) if each.seconds else "-",
            *([_shares(each, count)] if count else []),
            "; ".join(each.why),
        )
        for each in plan.builds
    ]
    return table(("IMAGE", "STATE", "LAST TIME", *(["SHARES"] if count else []), "WHY"), rows) if rows else ""


def _shares(build: PlannedBuild, count: int) -> str:
    parents = [f"{number}/{count} --parents" for number in build.first_wave]
    return ", ".join([*parents, *(f"{number}/{count}" for number in build.shares)])


def build_plan_summary(plan: BuildPlan) -> str:
    """The result of ``plan``."""
    names = [each.name for each in plan.builds if not each.is_built]
    images, images_of_all = ({*map(image_name, each)} for each in (names, [each.name for each in plan.builds]))
    there = plan.others + len(images_of_all - images)
    words = [f"{images_text(names)} to build, {there} in the registry"]
    waves = [wave for wave in (plan.partition.first_wave, plan.partition.shares) if wave]
    if not (names and waves):
        return words[0]
    shares = count_text(len(plan.partition.shares), "share")
    if any(each.seconds for each in plan.builds):
        shares += f" of at most {' and '.join(duration(max(share.seconds for share in wave)) for wave in waves)}"
    words.append(
        f"{shares}, one after the other {duration(sum(each.seconds for each in plan.builds))}"
        if all(each.seconds for each in plan.builds)
        else shares
    )
    if plan.partition.first_wave:
        words.append("first --parents, then the others")
    if plan.partition.duplicates:
        words.append(f"built more than once, which costs less: {', '.join(sorted(plan.partition.duplicates))}")
    return "; ".join(words)
