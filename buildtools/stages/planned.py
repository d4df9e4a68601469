"""What a dry run reports about one member."""

from __future__ import annotations

from buildtools.frozen import frozen


@frozen
class Planned:
    """What would happen to one member. ``action`` completes "would": ``be built``, or ``not change``."""

    name: str
    action: str
    why: tuple[str, ...] = ()
