"""The log daemon and the uploader image, each built once, from the working tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from buildtools.events import unheard
from buildtools.image.builder import BuildRequest
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.build import build
from buildtools.image.engine.client import Engine
from buildtools.sandbox import base
from buildtools.sandbox import engine as engines
from tests.conftest import EngineService, Services

ROOT = Path(__file__).parents[2]
VERSION = "1.2.3-4-g0123456"


def require(program: str) -> str:
    """Where a program is; without it the test is skipped, or fails under CI."""
    found = shutil.which(program)
    if not found:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")
    return found


@pytest.fixture(scope="session")
def logdaemon(services: Services) -> Path:
    """The installed daemon's start script."""
    require("javac")

    def start() -> dict[str, Any]:
        target = services.folder / "logdaemon"
        environment = {**os.environ, "BUILDTOOLS_VERSION": VERSION}
        subprocess.run([ROOT / "script/javadist", target], env=environment, check=True)
        return {"script": str(target / "bin/logdaemon")}

    return Path(services.shared("logdaemon", start)["script"])


@pytest.fixture(scope="session")
def loguploader(
    services: Services, engine: EngineService, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The uploader's image. It and its base stay in the engine, where the next run finds their layers."""

    def built(name: str, parent: str, **arguments: str) -> str:
        folder, tag = ROOT / "src/docker" / name, f"lockstep-sandbox/test-{name}:1"
        dockerfile = (folder / "Dockerfile").read_text().replace("FROM base\n", f"FROM {parent}\n")
        request = BuildRequest(
            name=name,
            context=folder,
            dockerfile=folder / "Dockerfile",
            tags=(tag,),
            args=arguments,
            content=dockerfile.encode(),
        )
        with closing(Engine.connect(engine.environment)) as connected:
            build(
                connected,
                request,
                credentials=Credentials(tmp_path_factory.mktemp("docker"), environment),
                environment=environment,
                report=unheard,
                cancel=threading.Event(),
            )
        return tag

    def start() -> dict[str, Any]:
        python = base.python(engines.EngineAddress.named(engine.environment), environment=environment, report=unheard)
        subprocess.run([ROOT / "script/wheels", "src/docker/loguploader"], cwd=ROOT, env=environment, check=True)
        parent = built("base", "", BASE=python)
        return {"image": built("loguploader", parent, VERSION=VERSION)}

    image: str = services.shared("loguploader", start)["image"]
    return image
