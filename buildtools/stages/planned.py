"""What a dry run says about one member."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planned:
    """What would happen to one member. ``action`` completes "would": ``be built``, or ``not change``."""

    name: str
    action: str
    why: tuple[str, ...] = ()
