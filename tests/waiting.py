"""Waiting for what another process is about to do."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds; a test that waits for what never comes fails after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited a minute"
        time.sleep(0.01)
