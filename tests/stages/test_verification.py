from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from buildtools import Refused
from buildtools.audit import Audit, MemberState, Verification
from buildtools.cancellation import Cancellation
from buildtools.events import unheard
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import DOCKER_CONFIG, DOCKER_LAYER, Descriptor, Manifest, digest_of, encode
from buildtools.release import Release, ReleasedImage
from buildtools.run import Run
from buildtools.schedule import QUESTIONS_AT_ONCE
from buildtools.settings import Settings
from buildtools.stages.channels import move_forward
from buildtools.stages.verification import audit_releases, verify_all, verify_named
from buildtools.task_context import TaskContext
from buildtools.version import Version
from tests.conftest import S3Service
from tests.contract.registries import own_registry
from tests.faults.answers import answering
from tests.faults.proxy import wire_to
from tests.releases import SHARED_LAYER, ReleasePlace, release_place


@pytest.fixture
def client(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Registry]:
    with (
        own_registry(tmp_path / "registry", environment) as registry,
        closing(Registry(registry.host, pause=0.01)) as client,
    ):
        yield client


def put_image(client: Registry, name: str) -> ReleasedImage:
    diff_ids = [digest_of(layer) for layer in (SHARED_LAYER, name.encode())]
    config = {"config": {"Labels": {"name": name}}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    parts = [
        Descriptor(kind, client.put_blob(name, blob), len(blob))
        for kind, blob in (
            (DOCKER_CONFIG, encode(config)),
            (DOCKER_LAYER, SHARED_LAYER),
            (DOCKER_LAYER, name.encode()),
        )
    ]
    digest = client.put_manifest(name, "1.0.0", Manifest.make(parts[0], parts[1:]))
    return ReleasedImage(name, client.host, name, "1.0.0", digest)


def audited(tmp_path: Path, *images: ReleasedImage) -> Audit:
    run = Run(Settings(tmp_path), {"HOME": str(tmp_path)}, unheard, Cancellation(), tmp_path / "cache")
    with TaskContext(run) as task:
        (audit,) = audit_releases(task, (Release("1.0.0", "c" * 40, "", images, ()),))
        return audit


def states(audit: Audit) -> dict[str, MemberState]:
    return {finding.name: finding.state for finding in audit.findings if finding.state is not MemberState.INTACT}


def test_findings_come_in_the_order_of_the_release(client: Registry, tmp_path: Path) -> None:
    images = [put_image(client, f"app{number}") for number in range(20)]
    client.delete_manifest("app7", images[7].digest)
    found = audited(tmp_path, *images)
    assert [image.name for image in images] == [finding.name for finding in found.findings]
    assert {"app7": MemberState.MISSING} == states(found)


def test_a_shared_layer_that_one_repository_alone_has_lost_is_missed_there(client: Registry, tmp_path: Path) -> None:
    images = [put_image(client, f"app{number}") for number in range(3)]
    layer = client.put_blob("app1", SHARED_LAYER)
    client._transport.request("DELETE", f"/v2/app1/blobs/{layer}", expected=(202,))
    assert {"app1": MemberState.MISSING} == states(audited(tmp_path, *images))


def test_a_registry_that_once_did_not_answer_is_not_asked_again(tmp_path: Path) -> None:
    with answering(*[(503, {})] * 999) as script:
        images = [
            ReleasedImage(f"app{number}", script.host, "app", "1.0.0", "sha256:" + "0" * 64) for number in range(80)
        ]
        found = audited(tmp_path, *images)
    assert [MemberState.UNREACHABLE] * 80 == [finding.state for finding in found.findings]
    # Of those who ask at the same time, each tries five times.
    assert len(script.asked) <= QUESTIONS_AT_ONCE * 5


@pytest.fixture
def place(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[ReleasePlace]:
    with release_place(tmp_path, registry, s3, environment) as place:
        yield place


def verified(place: ReleasePlace, *names: str) -> Verification:
    with place.task() as task:
        return verify_named(task, names, deep=False) if names else verify_all(task, deep=False)


def versions(verification: Verification) -> list[str]:
    return [audit.release.version for audit in verification.audits]


def test_versions_and_channels_are_verified_together(place: ReleasePlace) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        place.release(version)
    with place.task() as task:
        move_forward(task, "stage", Version.parse("1.1.0"))
    found = verified(place, "1.0.0", "stage", "1.0.0")
    assert (["1.0.0", "1.1.0"], None) == (versions(found), found.error())
    with pytest.raises(Refused, match="version nowhere is not released"):
        verified(place, "1.0.0", "nowhere")


def test_all_releases_are_verified_and_one_that_cannot_be_read_is_a_failure(place: ReleasePlace) -> None:
    assert Verification(()) == verified(place)
    for version in ("1.0.0", "1.1.0+b"):
        place.release(version, archives=("daemon",))
    assert ({"1.0.0", "1.1.0+b"}, None) == (set(versions(found := verified(place))), found.error())
    place.store.create("releases/1.2.0.json", b"<html>", "application/json")
    place.store.create("releases/notes.txt", b"hello", "text/plain")
    # Though it can be read, it is another version's.
    place.store.create("releases/1.3.0.json", place.release("1.2.1").manifest(), "application/json")
    found = verified(place)
    assert ["1.0.0", "1.1.0+b", "1.2.1"] == sorted(versions(found))
    assert [
        f"{place.store.location('releases/1.2.0.json')} is not a release manifest",
        f"{place.store.location('releases/1.3.0.json')} is the manifest of 1.2.1",
    ] == [error.fact for error in found.unreadable]


def test_a_layer_of_several_releases_is_asked_for_once_in_each_repository(
    tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    asked: list[bytes] = []

    def note(data: bytes) -> bytes:
        asked.extend([data.partition(b" HTTP/")[0]] if b" /v2/" in data else [])
        return data

    with wire_to(registry) as wire, release_place(tmp_path, wire.address, s3, environment) as place:
        for number in range(5):
            place.release(f"1.{number}.0")
        wire.sent = note
        assert None is verified(place).error()
    layer = digest_of(SHARED_LAYER).encode()
    assert 2 == len([line for line in asked if layer in line])
    # Of each image, its manifest, its configuration, and the layer that no other has.
    assert 2 + 10 * 3 == len(asked)
