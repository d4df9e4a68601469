"""What one task was asked for, as a value."""

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

    ``only`` names image folders, none meaning all. ``jobs`` is how many images are worked on at once. ``cache`` is the
    user's cache folder; losing it costs time only. ``cancelled`` is set when the user has had enough.
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
        """What commands of the configuration get to see: all but the key that releases are signed with."""
        secrets = (SIGNING_PASSWORD, self.settings.sign.get("key", "").partition("env:")[2])
        return {name: value for name, value in self.environment.items() if name not in secrets}

    @property
    def project_cache(self) -> Path:
        """The part of the cache that is about this project alone."""
        return self.cache / "projects" / sha256(os.fsencode(self.settings.root)).hexdigest()[:16]


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The user's cache. https://specifications.freedesktop.org/basedir-spec/latest/"""
    base = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME') or Path.home()}/.cache"
    return Path(base) / "lockstep-buildtools"


def job_count(text: str, configured: int) -> int:
    """How many images to work on at once: what ``--jobs`` says, else the configuration, else three for each processor.

    A build waits more than it works, for containers to be made and packages to come. More than 16 at once must be said.

    :raises Refused: ``text`` is not a number. Invoke would answer that with a traceback, so it hands on the text.
    """
    if text and not (text.isdecimal() and int(text)):
        raise Refused(f"--jobs {text} is not a whole number, 1 or more", "leave it out for three per processor")
    return int(text or 0) or configured or min(_MOST_JOBS, 3 * (os.cpu_count() or 1))
