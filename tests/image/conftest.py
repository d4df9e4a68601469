from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from buildtools.image.engine import Engine
from tests.conftest import EngineService
from tests.image.building import Builder
from tests.image.building import builder as make_builder


@pytest.fixture
def connected(engine: EngineService) -> Iterator[Engine]:
    made = Engine.connect(engine.environment)
    yield made
    made.close()


@pytest.fixture
def builder(
    connected: Engine, engine: EngineService, environment: Mapping[str, str], tmp_path: Path
) -> Iterator[Builder]:
    yield from make_builder(connected, tmp_path, engine.base_busybox, environment)
