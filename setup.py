"""The version of what is built from here: this repository's own `git describe`, in the spelling of PEP 440."""

from __future__ import annotations

import os
import sys
from email import message_from_string
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from buildtools import BuildToolsError, __version__  # noqa: E402
from buildtools.git.checkout import read_version  # noqa: E402


def version() -> str:
    """``1.4.2`` on that tag, ``1.4.2.post3+g0123abc`` three commits later; without a tag, what the source says."""
    if not (ROOT / ".git").exists():
        # What a source distribution was made from, whatever repository it was unpacked in.
        metadata = ROOT / "PKG-INFO"
        return message_from_string(metadata.read_text("utf-8"))["Version"] if metadata.exists() else __version__
    try:
        described = read_version(ROOT, "", os.environ)
    except BuildToolsError:
        return __version__
    after = f".post{described.distance}" if described.distance else ""
    local = [f"g{described.abbreviation}"] if described.abbreviation else []
    local += ["dirty"] if described.dirty else []
    return f"{described.base}{after}{'+' if local else ''}{'.'.join(local)}"


setup(version=version())
