"""The request of one task, as a value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from buildtools import Refused
from buildtools.cancellation import Cancellation
from buildtools.events import Report
from buildtools.frozen import frozen
from buildtools.settings import SIGNING_PASSWORD, Settings

_MOST_JOBS = 16


@frozen
class Run:
    """One task's settings, options and surroundings.

    ``only`` names image folders; empty means all. ``jobs`` is how many images are worked on at once. ``cache`` is the
    user's cache folder; losing it only costs time. ``cancelled`` is set when the user cancels the run.
    """

    settings: Settings
    environment: Mapping[str, str]
    report: Report
    cancelled: Cancellation
    cache: Path
    only: tuple[str, ...] = ()
    jobs: int = 1
    dry_run: bool = False
    no_cache: bool = False
    pull: bool = False
    allow_dirty: bool = False

    @property
    def command_environment(self) -> dict[str, str]:
        """The environment for commands from the configuration: everything except the key that signs releases."""
        secrets = (SIGNING_PASSWORD, self.settings.sign.get("key", "").partition("env:")[2])
        return {name: value for name, value in self.environment.items() if name not in secrets}

    @property
    def project_cache(self) -> Path:
        """The part of the cache that belongs to this project."""
        return self.cache / "projects" / sha256(os.fsencode(self.settings.root)).hexdigest()[:16]


def job_count(text: str, configured: int) -> int:
    """How many images to work on at once: ``--jobs``, else the configuration, else three per processor, at most 16.

    A build mostly waits, for containers to start and packages to arrive. More than 16 at once must be requested.

    :raises Refused: if ``text`` is not a number. Invoke would answer that with a traceback, so it passes the text on.
    """
    if text and not (text.isdecimal() and int(text)):
        raise Refused(f"--jobs {text} is not a whole number, 1 or more", "leave it out for three per processor")
    return int(text or 0) or configured or min(_MOST_JOBS, 3 * (os.cpu_count() or 1))
