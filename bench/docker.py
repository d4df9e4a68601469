"""The docker program to compare with."""

from __future__ import annotations

import os
import shutil
import subprocess


def docker_with_buildkit() -> str:
    """The first docker program on the path that builds with BuildKit by itself; newer ones want a plugin for it."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    for place in os.get_exec_path():
        program = shutil.which("docker", path=place)
        if program:
            asked = subprocess.run([program, "build", "--help"], env=environment, capture_output=True, check=False)
            if not asked.returncode:
                return program
    return "docker"
