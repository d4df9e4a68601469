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
def engine_sends_layers(connected: Engine) -> None:
    """Skips where no image is sent by the engine because of its base."""
    if connected.containerd_store:
        pytest.skip("what an engine with containerd's image store has is compressed here, whatever its base")
