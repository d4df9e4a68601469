"""What every builder does alike: that of an engine, which keeps images, and one that pushes them into a registry.

``BUILDKIT_HOST`` names a daemon to try it with; without one, it is the BuildKit of an engine with containerd's store.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from buildtools import BuildToolsError, Cancelled, Refused, Unreachable
from buildtools.events import Event, Log, unheard
from buildtools.image.builder import Builder, BuildRequest
from buildtools.image.builders.registry_builder import RegistryBuilder
from buildtools.image.builders.sites import BuildSite
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.buildkit.failure import BuildFailed
from buildtools.image.engine.client import Engine
from buildtools.image.engine.engine_builder import EngineBuilder
from buildtools.image.generation import PARENTS_LABEL
from buildtools.image.reference import Reference
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import FINGERPRINT_LABEL
from buildtools.platform import local_platform
from buildtools.settings import BuilderSettings
from tests.conftest import EngineService
from tests.contract.registries import own_registry
from tests.faults.proxy import wire_to
from tests.fronts import container

ENVIRONMENT = {"TOKEN": "word-of-a-secret"}


@dataclass
class Workshop:
    """A builder, and where it keeps what it builds."""

    builder: Builder
    root: Path
    base: str
    repository: Callable[[str], str]
    events: list[Event] = field(default_factory=list)

    def request(self, name: str, dockerfile: str, files: Mapping[str, str], **options: object) -> BuildRequest:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        for file, text in {"Dockerfile": dockerfile.replace("BASE", self.base), **files}.items():
            (folder / file).write_text(text)
        values = {
            "no_cache": True,
            "repository": self.repository(name),
            "native": str(local_platform()),
            "tags": (self.kept_name(name),),
            **options,
        }
        return BuildRequest(name, folder, folder / "Dockerfile", **values)  # type: ignore[arg-type]

    def build(self, name: str, dockerfile: str, files: Mapping[str, str] | None = None, **options: object) -> str:
        request = self.request(name, dockerfile, files or {}, **options)
        return self.builder.build(request, self.events.append, threading.Event())

    def kept_name(self, name: str) -> str:
        return f"{self.repository(name)}:fp-1"

    def output(self) -> list[str]:
        return [event.line for event in self.events if isinstance(event, Log)]

    def labels(self, reference: str) -> Mapping[str, str]:
        image = self.builder.image(reference)
        assert image
        labels: Mapping[str, str] = image["Config"]["Labels"]
        return labels


@pytest.fixture
def client(registry: str) -> Iterator[Registry]:
    with closing(Registry(registry, pause=0.01)) as client:
        yield client


@pytest.fixture
def engine_workshop(engine: EngineService, tmp_path: Path) -> Iterator[Workshop]:
    mark = secrets.token_hex(4)
    with closing(Engine.connect(engine.environment)) as connection:
        builder = EngineBuilder(connection, Credentials(Path("/nonexistent"), {}), ENVIRONMENT)
        yield Workshop(builder, tmp_path, engine.base_busybox, lambda name: f"{name}-{mark}")
        for image in connection.images(FINGERPRINT_LABEL):
            for tag in image.tags:
                if mark in tag:
                    connection.untag(tag)


def site_at(
    address: str, client: Registry, cache: Path, environment: Mapping[str, str] = ENVIRONMENT, **options: Any
) -> BuildSite:
    settings = BuilderSettings(address=address, **options)
    credentials = Credentials(Path("/nonexistent"), {})
    return BuildSite(settings, None, credentials, environment, registry=lambda: client, cache=Cache(cache))


@contextmanager
def workshop_at(address: str, client: Registry, root: Path, busybox: str) -> Iterator[Workshop]:
    mark = secrets.token_hex(4)
    with closing(site_at(address, client, root / "cache")) as site:
        builder = RegistryBuilder(client, Cache(root / "cache"), site.push_build)
        yield Workshop(builder, root, busybox, lambda name: f"{client.host}/contract/{mark}/{name}")


@pytest.fixture
def registry_workshop(
    buildkit_host: str, client: Registry, registry_busybox: str, tmp_path: Path
) -> Iterator[Workshop]:
    with workshop_at(buildkit_host, client, tmp_path, registry_busybox) as workshop:
        yield workshop


@pytest.fixture
def store_workshop(
    engine: EngineService, client: Registry, registry_busybox: str, tmp_path: Path
) -> Iterator[Workshop]:
    """An engine that is used like a daemon, though its BuildKit cannot push."""
    with workshop_at(engine.host, client, tmp_path, registry_busybox) as workshop:
        yield workshop
    with closing(Engine.connect(engine.environment)) as connection:
        for name in ("app", "base", "child", "other"):
            connection.untag(f"{name}:fp-1")


@pytest.fixture(params=["engine", "store", pytest.param("registry", marks=pytest.mark.other_engine)])
def workshop(request: pytest.FixtureRequest) -> Workshop:
    made: Workshop = request.getfixturevalue(f"{request.param}_workshop")
    return made


def test_an_image_is_known_by_the_name_that_it_is_kept_under(workshop: Workshop) -> None:
    name = workshop.kept_name("app")
    assert None is workshop.builder.image(name)
    image_id = workshop.build("app", "FROM scratch\nCOPY file /\n", {"file": "1"}, labels={FINGERPRINT_LABEL: "1"})
    assert image_id == workshop.builder.keep(image_id, name, anew=False)

    image = workshop.builder.image(name)

    assert image
    assert image_id == image["Id"]
    assert "1" == workshop.labels(name)[FINGERPRINT_LABEL]
    assert 1 == len(image["RootFS"]["Layers"])
    assert image == workshop.builder.image(image_id)


def test_a_child_is_built_on_the_image_that_was_kept(workshop: Workshop) -> None:
    parent = workshop.build("base", "FROM scratch\nCOPY file /\n", {"file": "1"}, labels={FINGERPRINT_LABEL: "1"})
    parent = workshop.builder.keep(parent, workshop.kept_name("base"), anew=False)
    mention = workshop.builder.mention(parent, workshop.kept_name("base"))

    child = workshop.build("child", f"FROM {mention}\nCOPY --from={mention} /file /copy\n")

    layers = [(workshop.builder.image(image) or {})["RootFS"]["Layers"] for image in (parent, child)]
    assert layers[0] == layers[1][:1]
    assert 2 == len(layers[1])


def test_a_failure_tells_the_line_and_leaves_no_image(workshop: Workshop) -> None:
    with pytest.raises(BuildFailed) as caught:
        workshop.build("app", "FROM BASE\nRUN echo oh no; exit 3\n")
    assert (2, 3, ("oh no",)) == (caught.value.line, caught.value.status, caught.value.log)
    assert None is workshop.builder.image(workshop.kept_name("app"))


def test_a_secret_is_had_by_the_build_that_names_it(workshop: Workshop) -> None:
    # Builds that do the same step at the same time share it, and who joins late hears nothing of it.
    mark = workshop.repository("app")
    step = f"FROM BASE\nRUN --mount=type=secret,id=token : {mark}; cat /run/secrets/token | wc -c\n"
    workshop.build("app", step, secrets={"token": "env:TOKEN"})
    assert [str(len(ENVIRONMENT["TOKEN"]))] == workshop.output()
    workshop.events.clear()
    with pytest.raises(BuildFailed, match="exit code 1"):
        workshop.build("other", step.replace("| wc -c", ""))
    with pytest.raises(Refused, match="MISSING, which is not set"):
        workshop.build("app", step, secrets={"token": "env:MISSING"})


def test_a_build_that_is_cancelled_ends(workshop: Workshop) -> None:
    cancelled = threading.Event()

    def report(event: Event) -> None:
        if isinstance(event, Log):
            cancelled.set()

    step = f"RUN echo {workshop.repository('app')} begun; sleep 300"
    request = workshop.request("app", f"FROM BASE\n{step}\n", {})
    with pytest.raises(Cancelled):
        workshop.builder.build(request, report, cancelled)
    assert None is workshop.builder.image(workshop.kept_name("app"))


def test_what_is_not_there_cannot_be_pulled(workshop: Workshop, registry: str) -> None:
    with pytest.raises(BuildToolsError):
        workshop.builder.pull(f"{registry}/contract/nothing:1", lambda *_: None)


@pytest.mark.other_engine
@pytest.mark.exhaustive
def test_an_image_that_another_agent_has_kept_is_taken_where_it_is_as_good(registry_workshop: Workshop) -> None:
    workshop, name = registry_workshop, registry_workshop.kept_name("app")
    labels = {FINGERPRINT_LABEL: "1", PARENTS_LABEL: "base=1"}
    dockerfile = "FROM BASE\nRUN cat /proc/sys/kernel/random/uuid >/id\n"
    theirs = workshop.builder.keep(workshop.build("app", dockerfile, labels=labels), name, anew=False)
    ours = workshop.build("app", dockerfile, labels=labels)
    assert theirs != ours

    assert theirs == workshop.builder.keep(ours, name, anew=False)
    assert ours == workshop.builder.keep(ours, name, anew=True)
    on_others = workshop.build("app", dockerfile, labels={**labels, PARENTS_LABEL: "base=2"})
    assert on_others == workshop.builder.keep(on_others, name, anew=False)
    assert on_others == (workshop.builder.image(name) or {})["Id"]


@pytest.mark.other_engine
def test_a_layer_that_another_push_hides_for_a_moment_is_pushed_again(
    buildkit_host: str, environment: Mapping[str, str], tmp_path: Path
) -> None:
    with (
        own_registry(tmp_path / "registry", environment) as registry,
        wire_to(registry.host) as wire,
        closing(Registry(wire.address, pause=0.01)) as client,
        workshop_at(buildkit_host, client, tmp_path, "scratch") as workshop,
    ):
        hidden: list[Path] = []

        def hide(data: bytes) -> bytes:
            if data.startswith(b"PUT ") and b"/manifests/sha256:" in data and not hidden:
                hidden.extend(registry.store.glob("repositories/contract/*/app/_layers/sha256/*/link"))
                for link in hidden:
                    link.unlink()
            return data

        wire.sent = hide
        assert workshop.build("app", "FROM BASE\nCOPY file /\n", {"file": "1"})
        # The layer and the configuration.
        assert 2 == len(hidden)


@pytest.mark.other_engine
def test_a_builder_says_what_it_can_build_for(buildkit_host: str, client: Registry, tmp_path: Path) -> None:
    with closing(site_at(buildkit_host, client, tmp_path)) as site:
        assert "linux" == site.platforms[0].system
        assert site.keeps_content
    with closing(site_at(buildkit_host, client, tmp_path, platforms=("arm64",))) as site:
        assert ["linux/arm64"] == list(map(str, site.platforms))


def test_what_does_not_answer_is_an_outage(client: Registry, tmp_path: Path) -> None:
    with (
        closing(site_at(f"unix://{tmp_path}/nothing", client, tmp_path)) as site,
        pytest.raises(Unreachable, match="no BuildKit daemon answers"),
    ):
        site.push_build(BuildRequest("app", tmp_path, tmp_path, ()), unheard, threading.Event())


def test_what_is_no_daemon_in_a_container_is_told(engine: EngineService, client: Registry, tmp_path: Path) -> None:
    with (
        container(engine, tmp_path, "echo HTTP/1.1 200 OK; exec cat") as (_, address),
        closing(site_at(address, client, tmp_path, engine.environment)) as site,
        pytest.raises(Refused, match=f"what answers at {address} is not BuildKit"),
    ):
        site.platforms  # noqa: B018  it is asked


def test_a_builder_may_be_the_engine_of_a_context(engine: EngineService, client: Registry, tmp_path: Path) -> None:
    key = hashlib.sha256(b"here").hexdigest()
    (tmp_path / f"contexts/meta/{key}").mkdir(parents=True)
    document = {"Name": "here", "Endpoints": {"docker": {"Host": engine.host}}}
    (tmp_path / f"contexts/meta/{key}/meta.json").write_text(json.dumps(document))
    # What is for another engine does not count.
    other = {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/nonexistent"}
    environment = {"DOCKER_CONFIG": str(tmp_path), **other}
    with closing(site_at("docker-context://here", client, tmp_path, environment)) as site:
        assert str(local_platform()) == str(site.platforms[0])
    with (
        closing(site_at("docker-context://gone", client, tmp_path, environment)) as site,
        pytest.raises(Refused, match="correct the builder docker-context://gone"),
    ):
        site.platforms  # noqa: B018  it is asked


def test_what_a_store_has_is_pushed_on_top_of_what_the_registry_has_of_its_parent(
    store_workshop: Workshop, client: Registry
) -> None:
    workshop = store_workshop
    parent = workshop.build("base", "FROM scratch\nCOPY file /\n", {"file": "1"})
    child = workshop.build("child", f"FROM {parent}\nCOPY file /own\n", {"file": "2"}, parents=(parent,))

    names = [Reference.parse(image) for image in (parent, child)]
    below, above = (client.get_manifest(name.repository, name.digest) for name in names)
    assert below
    assert above
    assert below.layers == above.layers[:1]


def test_an_engine_that_speaks_like_a_daemon_may_have_a_store_that_cannot_push(
    modern_engine: str, client: Registry, registry_busybox: str, tmp_path: Path
) -> None:
    with workshop_at(modern_engine, client, tmp_path, registry_busybox) as workshop:
        assert workshop.build("app", "FROM scratch\nCOPY file /\n", {"file": "1"})
