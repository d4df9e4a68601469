"""Docker Compose, whichever implementation is installed: the docker CLI's plug-in, or docker-compose.

Both take the files and the name of a stack from the environment, accept the same arguments, and set the same labels:
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
    """One stack. ``words`` is the Compose command, run in ``folder``; the environment names the stack and its files."""

    words: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]

    def services(self) -> tuple[str, ...]:
        """The names of the stack's services.

        :raises Refused: if the files are invalid.
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
            raise Refused("Compose cannot use the stack's files", "fix what it reports above", details)
        return tuple(done.stdout.split())

    def run(self, *arguments: str, report: Report, cancelled: threading.Event) -> None:
        """Run one Compose command and report its output line by line.

        :raises CommandFailed: if it fails or is cancelled.
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
    """The Compose command of this machine; the plug-in is preferred.

    :raises Refused: if neither is installed.
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
    """The variables that name a stack for Compose, so that commands run beside it find the stack too.

    :raises Refused: if a file does not exist.
    """
    for file in files:
        if not file.is_file():
            raise Refused(f"{file} is not there", "name the stack's files in `compose` under [tool.buildtools.stage]")
    return {
        "COMPOSE_PROJECT_NAME": name,
        "COMPOSE_FILE": ":".join(map(str, files)),
        "COMPOSE_PATH_SEPARATOR": ":",
        # No colours, and no redrawn lines.
        "COMPOSE_ANSI": "never",
    }


def images_file(images: Mapping[str, str]) -> str:
    """A Compose file that sets the image of each of these services."""
    # A JSON string is also a double-quoted YAML string.
    services = [f"  {json.dumps(name)}:\n    image: {json.dumps(image)}\n" for name, image in images.items()]
    # Without a version, docker-compose 1.29 takes a file that has no services for one of the first format.
    return f"services:\n{''.join(services)}" if services else 'version: "3.8"\nservices: {}\n'


def images_in(text: str) -> dict[str, str]:
    """The services and images in a file that :func:`images_file` wrote."""
    return {json.loads(name): json.loads(image) for name, image in _IMAGE_OF_SERVICE.findall(text)}
