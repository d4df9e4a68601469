"""A git repository to measure in."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Repository:
    """A git repository in the folder ``root``."""

    root: Path

    def release(self, version: str) -> None:
        """Commit all there is and tag it."""
        (self.root / "NEWS").write_text(f"{version}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", version)
        self.git("tag", "--annotate", "--message", version, version)

    def git(self, *arguments: str) -> None:
        """Run git in the repository."""
        identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True)
