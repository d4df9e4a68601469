"""What was damaged since it was released is not fetched: one message, exit code 5, and the version that was current."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.contract.registries import OwnRegistry, own_registry
from tests.e2e.conftest import MakeProject
from tests.e2e.machine import NO_ENGINE, Machine, make_machine, make_releases
from tests.e2e.project import MANIFEST_KINDS, Outcome, Place, Project

pytestmark = pytest.mark.exhaustive

# A machine, and how it fetches the second release.
Fetching = tuple[Machine, Callable[..., Outcome]]


@dataclass(frozen=True)
class Released:
    """A second release of an image and an archive, and the registry that has them."""

    project: Project
    registry: OwnRegistry
    digest: str

    @property
    def key(self) -> str:
        name = self.project.name("daemon")
        return f"{self.project.mark}/{name}/{name}-1.1.0.tgz"

    @property
    def manifest(self) -> dict[str, dict[str, str]]:
        content: dict[str, dict[str, str]] = json.loads(self.registry.blob(self.digest).read_bytes())
        return content


@pytest.fixture(scope="module")
def released(
    place: Place,
    make_project_here: MakeProject,
    tmp_path_factory: pytest.TempPathFactory,
    environment: Mapping[str, str],
) -> Iterator[Released]:
    with own_registry(tmp_path_factory.mktemp("own") / "registry", environment) as own:
        project = make_project_here(replace(place, registry=own.host, login=""))
        yield Released(project, own, make_releases(project, "1.0.0", "1.1.0").digest)


@contextmanager
def archive_replaced(released: Released, change: Callable[[bytes], bytes | None]) -> Iterator[None]:
    place = released.project.place
    content = place.read(released.key)
    target = {"Bucket": place.bucket, "Key": released.key}
    with closing(place.client()) as client:
        if (changed := change(content)) is None:
            client.delete_object(**target)
        else:
            client.put_object(**target, Body=changed)
        yield
        client.put_object(**target, Body=content)


def archive_deleted(released: Released) -> AbstractContextManager[None]:
    return archive_replaced(released, lambda _: None)


def archive_cut_short(released: Released) -> AbstractContextManager[None]:
    return archive_replaced(released, lambda content: content[:-1])


def a_byte_of_the_archive_changed(released: Released) -> AbstractContextManager[None]:
    return archive_replaced(released, lambda content: content[:2_000_000] + b"x" + content[2_000_001:])


def the_last_byte_of_the_archive_changed(released: Released) -> AbstractContextManager[None]:
    return archive_replaced(released, lambda content: content[:-1] + bytes([content[-1] ^ 1]))


@contextmanager
def image_deleted(released: Released) -> Iterator[None]:
    path = f"{released.project.repository('app')}/manifests"
    kind = MANIFEST_KINDS.partition(",")[0]
    _, content, _ = released.project.place.request("GET", f"{path}/{released.digest}", Accept=kind)
    released.project.place.request("DELETE", f"{path}/{released.digest}")
    yield
    released.project.place.request("PUT", f"{path}/1.1.0", content, **{"Content-Type": kind})


@contextmanager
def blob_replaced(path: Path, content: bytes | None) -> Iterator[None]:
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    yield
    path.write_bytes(before)


def manifest_changed(released: Released) -> AbstractContextManager[None]:
    path = released.registry.blob(released.digest)
    return blob_replaced(path, path.read_bytes().replace(b'"layers"', b'"Layers"'))


def layer_changed(released: Released) -> AbstractContextManager[None]:
    path = released.registry.blob(released.manifest["layers"][0]["digest"])  # type: ignore[index]  # a list
    content = path.read_bytes()
    return blob_replaced(path, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


def layer_lost(released: Released) -> AbstractContextManager[None]:
    return blob_replaced(released.registry.blob(released.manifest["layers"][0]["digest"]), None)  # type: ignore[index]  # a list


def configuration_changed(released: Released) -> AbstractContextManager[None]:
    path = released.registry.blob(released.manifest["config"]["digest"])
    return blob_replaced(path, path.read_bytes().replace(b"linux", b"Linux"))


@pytest.fixture(scope="module", params=["into the engine", "into a layout"])
def fetch(request: pytest.FixtureRequest, released: Released, tmp_path_factory: pytest.TempPathFactory) -> Fetching:
    """A machine that has the first release, and how it fetches another."""
    machine = make_machine(released.project, tmp_path_factory.mktemp("machine"))
    flags, variables = (("--oci",), NO_ENGINE) if request.param == "into a layout" else ((), {})
    machine.states("1.0.0", *flags, **variables)
    return machine, lambda **others: machine.fetch("1.1.0", *flags, **variables, **others)


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (archive_deleted, "archive {daemon} missing"),
        (archive_cut_short, "archive {daemon} changed"),
        (a_byte_of_the_archive_changed, "{daemon}-1.1.0.tgz has other content than was released (sha256 "),
        (the_last_byte_of_the_archive_changed, "{daemon}-1.1.0.tgz has other content than was released (sha256 "),
        (image_deleted, "image {app} missing"),
        (manifest_changed, "bytes whose digest is "),
        (layer_changed, "bytes whose digest is "),
        (layer_lost, " does not have sha256:"),
        (configuration_changed, "bytes whose digest is "),
    ],
)
def test_damage_is_told_and_the_old_version_stays(
    released: Released,
    fetch: Fetching,
    damage: Callable[[Released], AbstractContextManager[None]],
    fact: str,
) -> None:
    machine, fetch_next = fetch
    before = machine.tree()
    # An earlier test may have pulled it.
    released.project.forget_images()
    with damage(released):
        outcome = fetch_next()
    names = {short: released.project.name(short) for short in ("app", "daemon")}
    assert (5, True) == (outcome.code, fact.format(**names) in outcome.last), outcome.err
    assert outcome.last.startswith("error: ")
    assert before == machine.tree()


def test_a_store_that_is_down_is_an_outage(fetch: Fetching, closed: str) -> None:
    machine, fetch_next = fetch
    before = machine.tree()
    assert 4 == fetch_next(AWS_ENDPOINT_URL_S3=f"http://{closed}").code
    assert before == machine.tree()


def test_a_registry_that_is_down_is_an_outage(released: Released, fetch: Fetching) -> None:
    machine, fetch_next = fetch
    before = machine.tree()
    released.project.forget_images()
    released.registry.stop()
    try:
        outcome = fetch_next()
    finally:
        released.registry.start()
    assert (4, True) == (outcome.code, f"registry {released.registry.host} cannot be reached" in outcome.last)
    assert before == machine.tree()


def test_what_was_restored_is_fetched(fetch: Fetching) -> None:
    machine, fetch_next = fetch
    assert (0, "1.1.0", []) == (fetch_next().code, machine.current, machine.leftovers())
