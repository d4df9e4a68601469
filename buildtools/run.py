"""What one task was asked for, as a value."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from buildtools.events import Report
from buildtools.settings import Settings


@dataclass(frozen=True)
class Run:
    """One task's settings, options and surroundings.

    ``only`` names image folders, none meaning all. ``jobs`` is how many images are worked on at once. ``cache`` is the
    user's cache folder; losing it costs time only. ``cancelled`` is set when the user has had enough.
    """

    settings: Settings
    environment: Mapping[str, str]
    report: Report
    cancelled: threading.Event
    cache: Path
    only: tuple[str, ...] = ()
    jobs: int = 1
    dry_run: bool = False
    no_cache: bool = False
    pull: bool = False
    allow_dirty: bool = False

    @property
    def project_cache(self) -> Path:
        """The part of the cache that is about this project alone."""
        return self.cache / "projects" / sha256(str(self.settings.root).encode()).hexdigest()[:16]


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The user's cache. https://specifications.freedesktop.org/basedir-spec/latest/"""
    base = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME') or Path.home()}/.cache"
    return Path(base) / "lockstep-buildtools"
