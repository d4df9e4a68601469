"""git itself, run so that nothing of the machine's or the user's configuration reaches it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def environment(home: Path) -> dict[str, str]:
    """What both git and we are given. ``home`` need not be there."""
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "a"), ("EMAIL", "a@example.com"), ("DATE", "1700000000 +0000"))
    }
    alone = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1", "LC_ALL": "C"}
    return {"PATH": os.environ["PATH"], "HOME": str(home), **alone, **who}


def tried(folder: Path, home: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder, whatever comes of it."""
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment(home), input=given, capture_output=True, check=False
    )


def git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    """What git prints, run in a folder whose ``home`` is the user's; a failure fails the test."""
    done = tried(folder, folder / "home", *arguments, given=given)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
    return done.stdout
