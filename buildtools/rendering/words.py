"""Counts, digests and plans as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from buildtools.image.reference import image_name

if TYPE_CHECKING:
    from buildtools.stages.planned import Planned


def states_sentence(word: str, states: Sequence[Enum], kind: type[Enum], noun: str = "image") -> str:
    """The total, and the number in each state: ``built 3 images: 2 built, 1 up to date``."""
    return f"{word} {count_text(len(states), noun)}: {states_text(states, kind)}"


def states_text(states: Sequence[Enum], kind: type[Enum]) -> str:
    """The number in each state, without states that do not occur."""
    return ", ".join(f"{states.count(state)} {state.value}" for state in kind if state in states)


def members_text(images: int, archives: int) -> str:
    """What a release consists of: ``2 images and 1 archive``."""
    return f"{count_text(images, 'image')} and {count_text(archives, 'archive')}"


def short_digest(digest: str) -> str:
    """A digest as short as docker shows it; the document has the full one. An id in a registry ends with a digest."""
    digest = digest.rpartition("@")[2]
    return digest[: len("sha256:") + 12]


def count_text(number: int, noun: str) -> str:
    """A number with its noun in the singular or the plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def images_text(names: Sequence[str]) -> str:
    """How many images these names are of: ``2 images``, or ``2 images in 4 variants`` for several platforms."""
    count = len({*map(image_name, names)})
    return count_text(count, "image") + (f" in {len(names)} variants" if len(names) > count else "")


def plan_table(plan: Sequence[Planned]) -> str:
    """The result of a dry run."""
    lines = [f"{each.name} would {each.action}" + (f" ({'; '.join(each.why)})" if each.why else "") for each in plan]
    return "\n".join(lines)
