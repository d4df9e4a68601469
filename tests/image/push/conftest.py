from __future__ import annotations

import pytest

from buildtools.image.engine.client import Engine
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from tests.image.push.pusher import Pusher


@pytest.fixture
def pusher(connected: Engine, client: Registry, cache: Cache) -> Pusher:
    return Pusher(connected, client, cache)


@pytest.fixture
def engine_gives_layers_out(connected: Engine) -> None:
    """Skips where the engine sends layers itself."""
    if connected.containerd_store:
        pytest.skip("an engine with containerd's image store sends layers itself")
