"""Promotion from one real registry and store to others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buildtools import Conflict, Drifted, Refused
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.archive.store import ArtifactStore
from buildtools.audit import Verification
from buildtools.cancellation import Cancellation
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import tag_digest
from buildtools.image.registry.manifest import OCI_INDEX, Descriptor, Manifest, digest_of, encode
from buildtools.pipeline import Published
from buildtools.release import Release, manifest_key
from buildtools.services import Services
from buildtools.settings import TargetSettings
from buildtools.stages import promotion, releases
from buildtools.stages.verification import audit_releases
from buildtools.version import Version
from tests.conftest import S3Service
from tests.faults.proxy import Wire, wire_to
from tests.releases import SHARED_LAYER, ReleasePlace, digests, release_place


@dataclass(frozen=True)
class Promotion:
    """A place with two targets: ``stage`` in another registry, ``production`` in a namespace of the same one."""

    place: ReleasePlace
    wire: Wire

    def promote(self, version: str, to: str = "stage") -> Published:
        with self.place.task() as task, promotion.target_task(task, to) as target:
            released = releases.named_release(task, version)
            missing = promotion.check_promotion(task, target, to, released)
            staged = promotion.stage_replica(task, target, released, missing)
            release, written = releases.commit(target, staged)
            promotion.record_gate(task, to, released)
            location = releases.manifest_location(target, Version.parse(version))
            return Published(release, location, written, dirty=False)

    def released(self, version: str, to: str = "stage") -> Release | None:
        with self.place.task() as task, promotion.target_task(task, to) as target:
            return releases.released(target, Version.parse(version))

    def is_intact(self, release: Release, to: str = "stage") -> bool:
        with self.place.task() as task, promotion.target_task(task, to) as target:
            return Verification(audit_releases(target, (release,), deep=True)).error() is None

    def store(self, to: str) -> ArtifactStore:
        with self.place.task() as task, promotion.target_task(task, to) as target:
            return target.services.store

    def objects(self) -> dict[str, int]:
        """What the store of stage has, but for what a preflight leaves there."""
        objects = self.store("stage").list()
        return {each.key: each.size for each in objects if each.key != ".buildtools-access"}

    def gates(self, version: str) -> list[str]:
        content = self.place.store.read(f"releases/{version}.gates.json")
        names: list[str] = json.loads(content.data)["gates"] if content else []
        return names


@pytest.fixture
def promoting(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[Promotion]:
    with wire_to(registry) as other:
        bucket = s3.bucket()
        targets: dict[str, Any] = {
            "stage": {"registry": other.address, "namespace": f"{bucket}/stage", "artifacts": f"s3://{bucket}/stage"},
            "production": {
                "namespace": f"{bucket}/production",
                "artifacts": f"s3://{bucket}/production",
                "requires": ["stage"],
            },
        }
        with release_place(tmp_path, registry, s3, environment, target=targets) as place:
            yield Promotion(place, other)


def test_a_release_is_the_same_in_the_target_but_for_its_places(promoting: Promotion) -> None:
    release = promoting.place.release("1.0.0+b", archives=("daemon",))
    promoted = promoting.promote("1.0.0+b")
    assert promoted.written
    assert promoted.release == promoting.released("1.0.0+b")
    assert promoting.is_intact(promoted.release)
    assert (digests(release), release.archives) == (digests(promoted.release), promoted.release.archives)
    target = promoting.place.settings.of_target("stage")
    assert {f"{target.repository_prefix}/{name}:1.0.0_b" for name in ("app", "web")} == {
        image.reference for image in promoted.release.images
    }
    assert (release.version, release.commit, release.created) == (
        promoted.release.version,
        promoted.release.commit,
        promoted.release.created,
    )


def test_a_promotion_again_writes_nothing(promoting: Promotion) -> None:
    promoting.place.release("1.0.0", archives=("daemon",))
    first = promoting.promote("1.0.0")
    again = promoting.promote("1.0.0")
    assert (first.release, False) == (again.release, again.written)
    assert ["stage"] == promoting.gates("1.0.0")


def test_a_gate_that_is_not_passed_keeps_a_version_out(promoting: Promotion) -> None:
    promoting.place.release("1.0.0")
    with pytest.raises(Refused, match="may not be promoted to production: it has not been promoted to stage"):
        promoting.promote("1.0.0", "production")
    assert None is promoting.released("1.0.0", "production")
    promoting.promote("1.0.0")
    promoting.promote("1.0.0", "production")
    assert ["production", "stage"] == promoting.gates("1.0.0")


def note_requests(wire: Wire) -> list[bytes]:
    """The methods and paths of the requests to a registry from here on; it grows."""
    asked: list[bytes] = []

    def note(data: bytes) -> bytes:
        asked.extend([data.partition(b" HTTP/")[0]] if b" /v2/" in data else [])
        return data

    wire.sent = note
    return asked


@pytest.fixture
def observed(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[Promotion]:
    """Promotion within one registry, all of whose requests pass the wire."""
    with wire_to(registry) as wire:
        bucket = s3.bucket()
        target = {"production": {"namespace": f"{bucket}/production", "artifacts": f"s3://{bucket}/production"}}
        with release_place(tmp_path, wire.address, s3, environment, target=target) as place:
            yield Promotion(place, wire)


def test_within_one_registry_no_blob_is_sent(observed: Promotion) -> None:
    observed.place.release("1.0.0")
    asked = note_requests(observed.wire)
    promoted = observed.promote("1.0.0", "production")
    before_the_audit = list(asked)
    assert observed.is_intact(promoted.release, "production")
    # Each of the blobs is mounted where it is missing, and those that both images have are asked for once. The
    # configurations have been read.
    assert (6, 3) == (
        len([line for line in asked if b"?mount=sha256" in line]),
        len([line for line in before_the_audit if line.startswith(b"HEAD") and b"/blobs/" in line]),
    )
    assert [] == [line for line in asked if line.startswith((b"PATCH", b"PUT")) and b"/blobs/uploads/" in line]


def test_what_a_registry_cannot_mount_since_it_was_lost_is_not_promoted(
    tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    target = {"production": {"namespace": f"{s3.bucket()}/production", "artifacts": f"s3://{s3.bucket()}/production"}}
    with release_place(tmp_path, registry, s3, environment, target=target) as place, wire_to(registry) as wire:
        image, *_ = place.release("1.0.0").images
        layer = digest_of(SHARED_LAYER)
        place.client._transport.request("DELETE", f"/v2/{image.repository}/blobs/{layer}", expected=(202,))
        promoting = Promotion(place, wire)
        with pytest.raises(Drifted, match=f"{image.repository} does not have {layer}"):
            promoting.promote("1.0.0", "production")
        assert [".buildtools-access"] == [each.key for each in promoting.store("production").list()]


def test_between_registries_a_shared_layer_is_sent_once(promoting: Promotion) -> None:
    promoting.place.release("1.0.0")
    asked = note_requests(promoting.wire)
    promoting.promote("1.0.0")
    layer = digest_of(SHARED_LAYER).removeprefix("sha256:").encode()
    sent = [line for line in asked if line.startswith(b"PUT") and b"/blobs/uploads/" in line]
    assert (5, 1) == (len(sent), len([line for line in sent if layer in line]))
    asked.clear()
    promoting.promote("1.0.0")
    assert [] == [line for line in asked if b"/blobs/uploads/" in line]


def test_what_a_sibling_has_in_the_target_is_not_sent_there_again(promoting: Promotion) -> None:
    promoting.place.release("1.0.0", ("web",))
    promoting.promote("1.0.0")
    # Now app comes first, and shares a layer with what is there of web.
    promoting.place.release("1.1.0", ("app", "web"))
    asked = note_requests(promoting.wire)
    promoting.promote("1.1.0")
    layer = digest_of(SHARED_LAYER).removeprefix("sha256:").encode()
    uploads = [line.partition(b" ")[0] for line in asked if b"/blobs/uploads/" in line and layer in line]
    assert [b"POST"] == uploads


def release_index(place: ReleasePlace) -> tuple[Manifest, list[Manifest]]:
    """An index that is released, and what it lists."""
    image = place.put_image("app", "1.0.0")
    inner = place.client.get_manifest(image.repository, image.digest)
    attestation = place.client.get_manifest(image.repository, place.put_image("app", "attested").digest)
    assert inner
    assert attestation
    entries = [
        {
            **Descriptor(each.media_type, each.digest, len(each.body)).document(),
            "platform": {"os": os, "architecture": os},
        }
        for each, os in ((inner, "linux"), (attestation, "unknown"))
    ]
    index = Manifest(OCI_INDEX, encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
    place.client.put_manifest(image.repository, "1.0.0", index)
    release = Release("1.0.0", "c" * 40, "2026-11-23T08:00:00Z", (image,), ())
    assert place.store.create(manifest_key(Version.parse("1.0.0")), release.manifest(), "application/json")
    return index, [inner, attestation]


def test_an_index_is_promoted_with_all_that_it_lists(promoting: Promotion) -> None:
    index, members = release_index(promoting.place)
    (promoted,) = promoting.promote("1.0.0").release.images
    with closing(Registry(promoted.registry)) as registry:
        assert index == registry.get_manifest(promoted.repository, "1.0.0")
        assert members == [registry.get_manifest(promoted.repository, each.digest) for each in members]


def test_an_image_of_an_index_is_read_once_where_it_is_and_once_in_the_target(observed: Promotion) -> None:
    _, (image, _) = release_index(observed.place)
    asked = note_requests(observed.wire)
    observed.promote("1.0.0", "production")
    assert 2 == len([line for line in asked if line.startswith(b"GET") and image.digest.encode() in line])


def test_two_places_of_one_service_share_its_connections(promoting: Promotion, s3: S3Service) -> None:
    place = promoting.place
    services = Services(place.settings, place.environment, Cancellation())
    beside = services.elsewhere(place.settings.of_target("stage"))
    settings = replace(place.settings.of_target("production"), s3_endpoint=f"{s3.endpoint}/")
    apart = services.elsewhere(settings)
    stores = [each.store for each in (services, beside, apart)]
    home, near, far = [store.bucket._client for store in stores if isinstance(store, S3Store)]
    assert (True, False) == (near is home, far is home)
    assert [place.store.location("x"), promoting.store("stage").location("x")] == [
        each.location("x") for each in stores[:2]
    ]


def test_a_damaged_release_is_not_promoted(promoting: Promotion) -> None:
    release = promoting.place.release("1.0.0", archives=("daemon",))
    promoting.place.store.delete(release.archives[0].key)
    with pytest.raises(Drifted, match="archive daemon missing"):
        promoting.promote("1.0.0")
    assert ({}, None) == (promoting.objects(), promoting.released("1.0.0"))


def test_what_the_target_has_with_other_content_is_a_conflict(promoting: Promotion) -> None:
    place = promoting.place
    release = place.release("1.0.0")
    target = place.settings.of_target("stage")
    with closing(Registry(target.registry)) as registry:
        repository = f"{target.namespace}/app"
        config = registry.put_blob(repository, encode({"rootfs": {"type": "layers", "diff_ids": []}}))
        other = Manifest.make(Descriptor("application/vnd.docker.container.image.v1+json", config, 45), [])
        registry.put_manifest(repository, "1.0.0", other)
        with pytest.raises(Conflict, match="already exists in the target with other content"):
            promoting.promote("1.0.0")
        assert other.digest == tag_digest(registry, repository, "1.0.0")
    assert None is promoting.released("1.0.0")
    assert digests(release) == place.tags("1.0.0")


def test_another_commit_that_has_the_version_in_the_target_is_a_conflict(promoting: Promotion) -> None:
    promoting.place.release("1.0.0")
    promoting.store("stage").create("claims/1.0.0.json", b'{"schema": 1}', "application/json")
    with pytest.raises(Conflict, match="is claimed by another commit"):
        promoting.promote("1.0.0")
    assert None is promoting.released("1.0.0")


def test_gates_of_another_commit_open_nothing(promoting: Promotion) -> None:
    promoting.place.release("1.0.0")
    gates = {"schema": 1, "version": "1.0.0", "commit": "c" * 40, "gates": ["stage"]}
    promoting.place.store.create("releases/1.0.0.gates.json", json.dumps(gates).encode(), "application/json")
    with pytest.raises(Conflict, match="not of commit"):
        promoting.promote("1.0.0", "production")


def test_a_dry_run_says_what_would_be_copied_and_writes_nothing(promoting: Promotion) -> None:
    promoting.place.release("1.0.0", ("app",), ("daemon",))

    def plan() -> list[str]:
        with promoting.place.task(dry_run=True) as task, promotion.target_task(task, "stage") as target:
            released = releases.named_release(task, "1.0.0")
            missing = promotion.check_promotion(task, target, "stage", released)
            return [each.action for each in promotion.promotion_plan(target, released, missing)]

    assert ["be copied", "be copied", "be written"] == plan()
    assert ({}, None) == (promoting.objects(), promoting.released("1.0.0"))
    promoting.promote("1.0.0")
    assert ["not change"] * 3 == plan()


def test_a_target_is_another_place(promoting: Promotion) -> None:
    with promoting.place.task() as task, pytest.raises(Refused, match="there is no target nowhere"):
        promotion.target_task(task, "nowhere")
    own = replace(promoting.place.settings, target={"own": TargetSettings(namespace="other")})
    with replace(promoting.place, settings=own).task() as task, pytest.raises(Refused, match="the same artifacts as"):
        promotion.target_task(task, "own")
