from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from buildtools.image.engine.client import Engine
from buildtools.image.generation import PARENTS_LABEL, generation_of, parents_label
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.image_to_push import ImageToPush
from tests.conftest import EngineService
from tests.image import images
from tests.image.building import Builder
from tests.image.building import builder as make_builder

MakeImage = Callable[..., ImageToPush]


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


@pytest.fixture
def client(registry: str) -> Iterator[Registry]:
    """A client of the registry that lets everybody in."""
    client = Registry(registry, pause=0.01)
    yield client
    client.close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def namespace() -> str:
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def make_image(connected: Engine, namespace: str) -> Iterator[MakeImage]:
    """Makes an image of layers (``{path: content}``) that is ready to be pushed into this test's namespace.

    Where its ``parents`` were made before, it says that it was built on these.
    """
    made = []
    generations: dict[str, str] = {}

    def make(name: str, *layers: images.Layer, fingerprint: str = "", parents: tuple[str, ...] = ()) -> ImageToPush:
        fingerprint = fingerprint or secrets.token_hex(32)
        label = parents_label({parent.rpartition("/")[2]: generations.get(parent, "") for parent in parents})
        image_id = images.load(connected, layers, fingerprint, **({PARENTS_LABEL: label} if label else {}))
        made.append(image_id)
        image = connected.inspect(image_id)
        assert image is not None
        generations[f"{namespace}/{name}"] = generation_of(image["RootFS"].get("Layers") or ())
        return ImageToPush(name, f"{namespace}/{name}", fingerprint, image_id, parents)

    yield make
    for image_id in dict.fromkeys(made):
        connected.api.remove_image(image_id, force=True)
