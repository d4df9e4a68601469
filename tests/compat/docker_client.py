"""The official docker client, with BuildKit, as the reference."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class DockerClient:
    """``program`` is a docker client that can build with BuildKit."""

    program: str
    environment: Mapping[str, str]

    def arriving(self, context: Path, dockerfile: Path) -> set[str]:
        """The paths in the image that this build makes."""
        done = self._build(context, dockerfile, "--quiet", "--output", "-")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            return {member.name.rstrip("/") for member in archive}

    def runs_anew(self, context: Path, dockerfile: Path) -> bool:
        """Build, and tell whether an instruction could not be taken from the engine's cache."""
        done = self._build(context, dockerfile, "--progress", "plain", "--output", "type=tar,dest=/dev/null")
        log = done.stderr.decode()
        steps = set(re.findall(r"^#(\d+) \[[^\]]*\] (?:COPY|ADD|RUN)", log, re.MULTILINE))
        assert steps
        return bool(steps - set(re.findall(r"^#(\d+) CACHED", log, re.MULTILINE)))

    def _build(self, context: Path, dockerfile: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
        command = [self.program, "build", *options, "--file", str(dockerfile), str(context)]
        done = subprocess.run(command, env={**self.environment, "DOCKER_BUILDKIT": "1"}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done


def find(environment: Mapping[str, str]) -> DockerClient:
    """The first client on PATH that can; newer ones cannot without their buildx plugin."""
    for folder in environment["PATH"].split(os.pathsep):
        program = Path(folder) / "docker"
        if not program.is_file():
            continue
        asked = subprocess.run(
            [program, "build", "--help"], env={**environment, "DOCKER_BUILDKIT": "1"}, capture_output=True
        )
        if b"--secret" in asked.stdout:
            return DockerClient(str(program), environment)
    reason = "no docker client that can build with BuildKit"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
