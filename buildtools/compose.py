"""Compose, in whichever implementation is installed: the docker program's plug-in, or docker-compose.

Both read the files and the name of a stack from the environment, take the same words, and label what they make:
https://docs.docker.com/compose/how-tos/environment-variables/envvars/.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from buildtools import Refused
from buildtools.command import run_command
from buildtools.events import Report
from buildtools.frozen import frozen

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
NUMBER_LABEL = "com.docker.compose.container-number"
_IMAGE_OF_SERVICE = re.compile(r'^  (".*"):\n    image: (".*")$', re.MULTILINE)


@frozen
class Compose:
    """One stack. ``words`` is how Compose is called, and ``folder`` where; the environment names stack and files."""

    words: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]

    def services(self) -> tuple[str, ...]:
        """The names of the stack's services.

        :raises Refused: the files are invalid.
        """
        done = subprocess.run(
            [*self.words, "config", "--services"],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            details = [f"  | {line}" for line in done.stderr.splitlines()]
            raise Refused("Compose cannot use the stack's files", "correct what it says above", details)
        return tuple(done.stdout.split())

    def run(self, *arguments: str, report: Report, cancelled: threading.Event) -> None:
        """Run one command, its output line by line into the report.

        :raises CommandFailed: it failed, or was cancelled.
        """
        run_command(
            shlex.join([*self.words, *arguments]),
            subject="stack",
            folder=self.folder,
            environment=self.environment,
            report=report,
            cancelled=cancelled,
        )


def installed_compose(environment: Mapping[str, str]) -> tuple[str, ...]:
    """How Compose is called here: as the plug-in, where there is one.

    :raises Refused: neither is installed.
    """
    path = environment.get("PATH")
    if shutil.which("docker", path=path):
        question = ["docker", "compose", "version"]
        if subprocess.run(question, env=dict(environment), capture_output=True, check=False).returncode == 0:
            return ("docker", "compose")
    if shutil.which("docker-compose", path=path):
        return ("docker-compose",)
    raise Refused(
        "neither `docker compose` nor docker-compose is installed",
        "install one, such as Debian's package docker-compose",
    )


def stack_variables(name: str, files: Sequence[Path]) -> dict[str, str]:
    """What tells Compose of a stack by the environment, so that a command which is run beside it finds the stack too.

    :raises Refused: a file is not there.
    """
    for file in files:
        if not file.is_file():
            raise Refused(f"{file} is not there", "name the stack's files in `compose` under [tool.buildtools.stage]")
    return {
        "COMPOSE_PROJECT_NAME": name,
        "COMPOSE_FILE": ":".join(map(str, files)),
        "COMPOSE_PATH_SEPARATOR": ":",
        # No colours, and nothing that is redrawn.
        "COMPOSE_ANSI": "never",
    }


def images_file(images: Mapping[str, str]) -> str:
    """A compose file that gives each of these services its image."""
    # JSON strings are YAML's double-quoted ones.
    services = [f"  {json.dumps(name)}:\n    image: {json.dumps(image)}\n" for name, image in images.items()]
    return f"services:\n{''.join(services)}" if services else "services: {}\n"


def images_in(text: str) -> dict[str, str]:
    """The services and images of a file that :func:`images_file` has written."""
    return {json.loads(name): json.loads(image) for name, image in _IMAGE_OF_SERVICE.findall(text)}
