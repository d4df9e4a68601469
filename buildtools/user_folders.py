"""The user's own folders, as the environment names them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def home_folder(environment: Mapping[str, str]) -> Path:
    """The user's home folder; ``/`` for a user who has none, which is what Docker gives such a user in a container."""
    home = environment.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  pathlib's raises where there is none
    return Path("/" if home == "~" else home)


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The folder of this tool's caches. https://specifications.freedesktop.org/basedir-spec/latest/

    As specified there, a relative ``XDG_CACHE_HOME`` is ignored.
    """
    configured = environment.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else home_folder(environment) / ".cache"
    return base / "lockstep-buildtools"
