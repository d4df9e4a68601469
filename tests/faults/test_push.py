"""Images that lie damaged in the registry, registries that die or are wiped, agents that push at the same time."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools import Unreachable
from buildtools.events import Event, Transferred
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.push.engine_push import push_by_engine
from buildtools.image.push.routes import PushRequest, push
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.image_to_push import ImageToPush, PushedImage, PushRoute
from buildtools.image.registry.lookup import ImageLookup, StoredImage, find_fingerprints, fingerprint_tag
from buildtools.image.registry.manifest import diff_ids_of, labels_of
from buildtools.version import Version
from tests.conftest import HtpasswdRegistry
from tests.contract.registries import OwnRegistry, own_registry
from tests.faults.proxy import wire_to
from tests.image.conftest import MakeImage
from tests.image.images import layer_tar

VERSION_LABEL = "org.opencontainers.image.version"


@pytest.fixture
def own(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[OwnRegistry]:
    with own_registry(tmp_path / "registry", environment) as own:
        yield own


class Agent:
    """An agent that publishes; agents share nothing but the registry."""

    def __init__(self, engine: Engine, host: str, cache: Cache) -> None:
        self.engine = engine
        self.registry = Registry(host, pause=0.001)
        self.cache = cache
        self.events: list[Event] = []

    def push(self, version: str, *images: ImageToPush) -> list[PushedImage]:
        request = PushRequest(images, Version.parse(version), {VERSION_LABEL: version})
        return push(request, self.engine, self.registry, self.cache, report=self.events.append)

    def find(self, image: ImageToPush) -> StoredImage | None:
        wanted = {image.name: (image.repository, image.fingerprint)}
        return find_fingerprints(self.registry, wanted, self.cache)[image.name]

    def stored(self, image: ImageToPush, tag: str) -> StoredImage:
        found = ImageLookup(self.registry, self.cache).read(image.repository, tag)
        assert found is not None
        return found


@pytest.fixture
def agent(connected: Engine, own: OwnRegistry, cache: Cache) -> Iterator[Agent]:
    agent = Agent(connected, own.host, cache)
    yield agent
    agent.registry.close()


def arrived(agent: Agent, own: OwnRegistry, image: ImageToPush, version: str) -> bool:
    layers = agent.stored(image, version).manifest.layers
    return all(own.blob(layer.digest).stat().st_size == layer.size for layer in layers)


@pytest.mark.parametrize(
    "damage", ["layer gone", "layer cut short", "config gone", "config cut short", "manifest gone"]
)
def test_a_damaged_image_is_noticed_and_stored_anew(
    agent: Agent, own: OwnRegistry, make_image: MakeImage, tmp_path: Path, damage: str
) -> None:
    image = make_image("app", {"a": os.urandom(50_000)}, {"b": b"2"})
    agent.push("1.0", image)
    stored = agent.find(image)
    assert stored is not None
    match damage:
        case "layer gone":
            own.blob(stored.manifest.layers[0].digest).unlink()
        case "layer cut short":
            os.truncate(own.blob(stored.manifest.layers[0].digest), 1000)
        case "config gone":
            own.blob(stored.manifest.config.digest).unlink()
        case "config cut short":
            os.truncate(own.blob(stored.manifest.config.digest), 10)
        case _:
            own.blob(stored.digest).unlink()
    agent.cache = Cache(tmp_path / "fresh")
    assert agent.find(image) is None
    (pushed,) = agent.push("1.1", image)
    assert PushRoute.DIRECT == pushed.route
    assert arrived(agent, own, image, "1.1")
    # Distribution keeps the damaged bytes of a digest that it gets again; an image built anew has another.
    again = make_image("app", {"a": os.urandom(100)}, {"b": b"3"}, fingerprint=image.fingerprint)
    agent.push("1.2", again)
    assert agent.find(again) is not None


def test_a_version_is_made_without_the_configuration_that_another_was_made_with(
    agent: Agent, own: OwnRegistry, make_image: MakeImage
) -> None:
    image = make_image("app", {"a": b"1"})
    agent.push("1.0", image)
    own.blob(agent.stored(image, fingerprint_tag(image.fingerprint)).manifest.config.digest).unlink()
    (pushed,) = agent.push("1.1", image)
    assert PushRoute.STAMPED == pushed.route
    config = agent.registry.get_blob(image.repository, agent.stored(image, "1.1").manifest.config.digest)
    assert "1.1" == labels_of(config or b"{}")[VERSION_LABEL]
    assert arrived(agent, own, image, "1.1")


def test_a_wiped_registry_gets_everything_again(
    agent: Agent, own: OwnRegistry, make_image: MakeImage, namespace: str
) -> None:
    base = make_image("base", {"a": os.urandom(50_000)})
    leaf = make_image("leaf", {"b": b"2"}, parents=(base.repository,))
    (before, _) = agent.push("1.0", base, leaf)
    own.stop()
    shutil.rmtree(own.store)
    own.start()
    assert agent.find(base) is None
    (after, _) = agent.push("1.0", base, leaf)
    assert replace(before, route=PushRoute.DIRECT) == after
    assert arrived(agent, own, base, "1.0")
    assert arrived(agent, own, leaf, "1.0")


def test_a_registry_that_dies_during_a_push_is_an_outage_and_leaves_no_version(
    agent: Agent, own: OwnRegistry, make_image: MakeImage
) -> None:
    small, large = make_image("small", {"a": b"1"}), make_image("large", {"a": os.urandom(6_000_000)})
    with wire_to(own.host) as wire, closing(Registry(wire.address, pause=0.001)) as far:
        agent.registry, near = far, agent.registry

        def sent(data: bytes) -> bytes | None:
            if any(isinstance(event, Transferred) and event.done > 1_000_000 for event in agent.events):
                wire.cut()
            return data

        wire.sent = sent
        with pytest.raises(Unreachable) as caught:
            agent.push("1.0", small, large)
    agent.registry = near
    assert 4 == caught.value.exit_code
    assert "1.0" not in near.tags(small.repository)
    assert "1.0" not in near.tags(large.repository)
    agent.push("1.0", small, large)
    assert arrived(agent, own, large, "1.0")


def test_two_agents_with_one_fingerprint_do_no_harm(
    agent: Agent, own: OwnRegistry, connected: Engine, make_image: MakeImage, tmp_path: Path
) -> None:
    # The same inputs, built twice: other bytes under the same fingerprint.
    ours = make_image("app", {"a": b"ours"})
    theirs = make_image("app", {"a": b"theirs"}, fingerprint=ours.fingerprint)
    assert ours.image_id != theirs.image_id
    start = threading.Barrier(2)
    with closing(Registry(own.host)) as other_registry:
        other = Agent(connected, own.host, Cache(tmp_path / "other"))
        other.registry.close()
        other.registry = other_registry

        def go(one: Agent, image: ImageToPush) -> PushedImage:
            start.wait()
            (pushed,) = one.push("1.0", image)
            return pushed

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(go, (agent, other), (ours, theirs)))
        assert agent.stored(ours, "1.0").digest in {pushed.digest for pushed in results}
        assert arrived(agent, own, ours, "1.0")
        assert agent.find(ours) is not None
        (again,) = other.push("1.0", theirs)
        assert PushRoute.ALREADY_THERE == again.route


def test_who_comes_second_takes_what_the_first_stored(
    agent: Agent, own: OwnRegistry, connected: Engine, make_image: MakeImage, tmp_path: Path
) -> None:
    ours = make_image("app", {"a": b"ours"})
    theirs = make_image("app", {"a": b"theirs"}, fingerprint=ours.fingerprint)
    other = Agent(connected, own.host, Cache(tmp_path / "other"))

    def first_comes_the_other(lacking: Sequence[ImageToPush], *_: object) -> Sequence[ImageToPush]:
        other.push("1.0", theirs)
        return lacking

    request = PushRequest((ours,), Version.parse("1.0"), {VERSION_LABEL: "1.0"}, provide=first_comes_the_other)
    (pushed,) = push(request, connected, agent.registry, agent.cache)
    other.registry.close()
    assert agent.stored(ours, "1.0").digest == pushed.digest
    their_layers = (connected.inspect(theirs.image_id) or {})["RootFS"]["Layers"]
    assert their_layers == diff_ids_of(agent.stored(ours, fingerprint_tag(ours.fingerprint)).config)
    assert layer_tar({"a": b"theirs"}) != layer_tar({"a": b"ours"})


def test_an_error_inside_the_engines_push_is_an_error_and_a_login_helps(
    connected: Engine, registry_htpasswd: HtpasswdRegistry, make_image: MakeImage
) -> None:
    image = make_image("app", {"a": b"1"})
    name = f"{registry_htpasswd.host}/{image.repository}"
    connected.tag(image.image_id, f"{name}:1")
    with pytest.raises(EngineError, match=rf"cannot push {name}:1 \(.*no basic auth credentials"):
        push_by_engine(connected, name, "1", None, lambda _layer, _size: True, lambda *_: None)
    login = Credentials(registry_htpasswd.docker_config, {}).for_host(registry_htpasswd.host)
    sent: dict[str, tuple[int, int]] = {}
    assert push_by_engine(
        connected, name, "1", login, lambda _layer, _size: True, lambda layer, *bytes_: sent.update({layer: bytes_})
    )
    # An engine with containerd's store says it every 100 ms, and may be done before.
    assert sent or connected.containerd_store
