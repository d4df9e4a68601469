"""``verify`` finds what somebody did to a release, and does not take an outage for it. No engine is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conftest import S3Service
from tests.contract.registries import OwnRegistry, own_registry
from tests.e2e.conftest import MakeProject
from tests.e2e.project import MANIFEST_KINDS, Place, Project
from tests.releases import release_place

MANIFEST = MANIFEST_KINDS.partition(",")[0]
NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}


@dataclass(frozen=True)
class Released:
    """A release of an image and an archive, and the registry that has it."""

    project: Project
    registry: OwnRegistry
    digest: str

    def verify(self, *arguments: str, **variables: str) -> tuple[int, str]:
        outcome = self.project.invoke("verify", *arguments, **NO_ENGINE, **variables)
        return outcome.code, outcome.last

    @property
    def repository(self) -> str:
        return self.project.repository("app")

    @property
    def key(self) -> str:
        name = self.project.name("daemon")
        return f"{self.project.mark}/{name}/{name}-1.0.0.tgz"

    def manifest(self, target: str) -> bytes:
        return self.project.place.request("GET", f"{self.repository}/manifests/{target}", Accept=MANIFEST)[1]

    def put(self, content: bytes) -> None:
        path = f"{self.repository}/manifests/1.0.0"
        status, *_ = self.project.place.request("PUT", path, content, **{"Content-Type": MANIFEST})
        assert 201 == status


@pytest.fixture(scope="module")
def released(
    place: Place,
    make_project_here: MakeProject,
    tmp_path_factory: pytest.TempPathFactory,
    environment: Mapping[str, str],
) -> Iterator[Released]:
    with own_registry(tmp_path_factory.mktemp("own") / "registry", environment) as registry:
        project = make_project_here(replace(place, registry=registry.host, login=""))
        project.image("app", "FROM scratch\nCOPY mark /\n", mark=project.mark)
        project.configure(
            distribution={project.name("daemon"): {"command": "mkdir -p build/d && date >build/d/x", "root": "build/d"}}
        )
        project.commit("all")
        project.tag("1.0.0")
        digest = json.loads(project.done("publish", "--json").out)["release"]["images"][0]["digest"]
        yield Released(project, registry, digest)


@contextmanager
def tag_overwritten(released: Released) -> Iterator[None]:
    ours = released.manifest("1.0.0")
    tags = released.project.place.tags(released.repository)
    other = next(digest for tag, digest in tags.items() if ":fp-" in tag)
    released.put(released.manifest(other))
    yield
    released.put(ours)


@contextmanager
def image_deleted(released: Released) -> Iterator[None]:
    ours = released.manifest("1.0.0")
    released.project.place.request("DELETE", f"{released.repository}/manifests/{released.digest}")
    yield
    released.put(ours)


@contextmanager
def _gone(file: Path) -> Iterator[None]:
    content = file.read_bytes()
    file.unlink()
    yield
    file.write_bytes(content)


@contextmanager
def manifest_damaged(released: Released) -> Iterator[None]:
    file = released.registry.blob(released.digest)
    content = file.read_bytes()
    with _gone(file):
        file.write_bytes(content.replace(b"schemaVersion", b"schemaversion"))
        yield


def manifest_lost(released: Released) -> AbstractContextManager[None]:
    return _gone(released.registry.blob(released.digest))


def layer_lost(released: Released) -> AbstractContextManager[None]:
    return _gone(released.registry.blob(json.loads(released.manifest("1.0.0"))["layers"][0]["digest"]))


def configuration_lost(released: Released) -> AbstractContextManager[None]:
    return _gone(released.registry.blob(json.loads(released.manifest("1.0.0"))["config"]["digest"]))


@contextmanager
def layer_cut_short(released: Released) -> Iterator[None]:
    file = released.registry.blob(json.loads(released.manifest("1.0.0"))["layers"][0]["digest"])
    with _gone(file):
        file.write_bytes(b"short")
        yield


@contextmanager
def _object(released: Released, content: bytes | None) -> Iterator[None]:
    target = {"Bucket": released.project.place.bucket, "Key": released.key}
    with closing(released.project.place.client()) as client:
        held = client.get_object(**target)
        ours = held["Body"].read()
        client.delete_object(**target)
        if content is not None:
            client.put_object(**target, Body=content, Metadata=held["Metadata"])
        yield
        client.put_object(**target, Body=ours, Metadata=held["Metadata"], ChecksumAlgorithm="SHA256")


def archive_deleted(released: Released) -> AbstractContextManager[None]:
    return _object(released, None)


def archive_overwritten(released: Released) -> AbstractContextManager[None]:
    return _object(released, b"something else, with the metadata of the first")


def test_an_intact_release_is_intact(released: Released) -> None:
    assert (0, "release 1.0.0 is intact: 1 image and 1 archive") == released.verify()
    assert 0 == released.verify("--deep")[0]
    assert 0 == released.verify("--release", "1.0.0")[0]
    assert (0, "release 1.0.0 is intact: 1 image and 1 archive") == released.verify("--all")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (tag_overwritten, "image {app} changed"),
        (image_deleted, "image {app} missing"),
        (manifest_lost, "image {app} missing"),
        (manifest_damaged, "image {app} missing"),
        (layer_lost, "image {app} missing"),
        (layer_cut_short, "image {app} missing"),
        (configuration_lost, "image {app} missing"),
        (archive_deleted, "archive {daemon} missing"),
        (archive_overwritten, "archive {daemon} changed"),
    ],
)
def test_drift_is_found(
    released: Released, damage: Callable[[Released], AbstractContextManager[None]], found: str
) -> None:
    names = {short: released.project.name(short) for short in ("app", "daemon")}
    with damage(released):
        code, last = released.verify()
    assert (5, True) == (code, f"error: release 1.0.0 has drifted ({found.format(**names)}): " in last), last
    assert 0 == released.verify()[0]


def test_a_registry_that_is_down_is_not_drift(released: Released) -> None:
    released.registry.stop()
    try:
        code, last = released.verify()
        with archive_deleted(released):
            drifted, _ = released.verify()
    finally:
        released.registry.start()
    assert (4, 5) == (code, drifted)
    assert f"could not be verified (the registry {released.registry.host} cannot be reached" in last


def test_a_store_that_is_down_is_not_drift(released: Released, closed: str) -> None:
    code, last = released.verify(AWS_ENDPOINT_URL_S3=f"http://{closed}")
    assert (4, True) == (code, closed in last)


def test_a_manifest_under_another_versions_name_is_not_that_version(released: Released) -> None:
    mark = released.project.mark
    with closing(released.project.place.client()) as client:
        target = {"Bucket": released.project.place.bucket, "Key": f"{mark}/releases/1.0_a.json"}
        client.put_object(**target, Body=released.project.place.read(f"{mark}/releases/1.0.0.json"))
        code, last = released.verify("--release", "1.0+a")
        client.delete_object(**target)
    assert (5, True) == (code, "releases/1.0_a.json is the manifest of 1.0.0: restore it from a backup" in last)


def test_several_releases_are_verified_at_once_and_a_person_reads_the_worst_twenty_lines(
    tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    names = [f"app{number}" for number in range(12)]
    with release_place(tmp_path, registry, s3, environment) as place:
        first, second = place.release("1.0.0", names), place.release("1.1.0", names, ("daemon",))
        intact = place.invoke("verify", "--release", "1.0.0, 1.1.0")
        assert (0, "2 releases are intact: 24 images and 1 archive\n") == (intact.returncode, intact.stderr)
        place.store.delete(second.archives[0].key)
        drifted = place.invoke("verify", "--all")
        document = json.loads(place.invoke("verify", "--all", "--json").stdout)
        contradiction = place.invoke("verify", "--all", "--release", "1.0.0")
    header, worst, *others, rest = drifted.stdout.splitlines()
    assert ["KIND", "PLACE", "STATE", "EXPECTED"] == header.split()
    assert ["archive", second.archives[0].key, "missing"] == worst.split()[:3]
    assert ({"intact"}, 19, "and 5 more members: 5 intact") == ({line.split()[2] for line in others}, len(others), rest)
    assert (5, True) == (drifted.returncode, drifted.stderr.startswith("error: release 1.1.0 has drifted (archive "))
    assert ([12, 13], []) == ([len(item["findings"]) for item in document["items"]], document["unreadable"])
    assert first.commit == document["items"][0]["release"]["commit"]
    assert 2 == contradiction.returncode
