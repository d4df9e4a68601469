"""Whatever is built here is built twice: by the engine's old routes, and by gRPC on its API socket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from buildtools.image.engine.client import Engine
from tests.conftest import EngineService


@pytest.fixture(scope="session")
def modern_engine(
    engine: EngineService, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """``DOCKER_HOST`` of the same engine as if it had no ``POST /grpc`` and no ``POST /session``."""
    path = tmp_path_factory.mktemp("modern") / "socket"
    command = [sys.executable, "-m", "tests.image.engine.modern_engine", str(path)]
    with subprocess.Popen(
        command, env={**environment, **engine.environment}, cwd=Path(__file__).parents[4], stdout=subprocess.PIPE
    ) as program:
        assert program.stdout
        assert b"listens\n" == program.stdout.readline()
        yield f"unix://{path}"
        program.terminate()


@pytest.fixture(params=["routes", "socket"])
def connected(request: pytest.FixtureRequest, engine: EngineService) -> Iterator[Engine]:
    host = engine.host if request.param == "routes" else request.getfixturevalue("modern_engine")
    with closing(Engine.connect({**engine.environment, "DOCKER_HOST": host})) as connection:
        yield connection
