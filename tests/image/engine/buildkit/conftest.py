"""Whatever is built here is built twice: by the engine's old routes, and by gRPC on its API socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from buildtools.image.engine.client import Engine
from tests.conftest import EngineService


@pytest.fixture(params=["routes", "socket"])
def connected(request: pytest.FixtureRequest, engine: EngineService) -> Iterator[Engine]:
    host = engine.host if request.param == "routes" else request.getfixturevalue("modern_engine")
    with closing(Engine.connect({**engine.environment, "DOCKER_HOST": host})) as connection:
        yield connection
