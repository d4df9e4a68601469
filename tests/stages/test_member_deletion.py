"""Members of versions that are no longer released are deleted from a real registry and a real store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildtools.image.registry.lookup import fingerprint_tag
from buildtools.image.registry.manifest import (
    DOCKER_LAYER,
    FINGERPRINT_LABEL,
    OCI_CONFIG,
    Descriptor,
    Manifest,
    digest_of,
    encode,
)
from buildtools.image.registry.simple_signing import ImageSignature, add_signature, payload_of, signature_tag
from buildtools.platform import Platform
from buildtools.release import Release, ReleasedImage
from buildtools.stages.member_deletion import MemberDeletion, NeededMembers
from tests.conftest import S3Service
from tests.contract.registries import own_registry
from tests.faults.proxy import Wire, wire_to
from tests.releases import SHARED_LAYER, ReleasePlace, release_place

RECORD = "prunes/1.0.0/run.json"
PLATFORMS = [Platform("linux", "amd64"), Platform("linux", "arm64")]


@pytest.fixture
def wired(tmp_path: Path, s3: S3Service, environment: Mapping[str, str]) -> Iterator[tuple[ReleasePlace, Wire]]:
    """A place whose registry deletes, and is reached over a wire."""
    with (
        own_registry(tmp_path / "registry", environment) as registry,
        wire_to(registry.host) as wire,
        release_place(tmp_path, wire.address, s3, environment) as place,
    ):
        place.store.create(RECORD, b"{}", "application/json")
        yield place, wire


def put_variant(place: ReleasePlace, platform: Platform, fingerprint: str, version: str, *tags: str) -> Manifest:
    """One image of one layer, as it was built or as that version, under these tags."""
    repository = f"{place.settings.namespace}/app"
    labels = {FINGERPRINT_LABEL: fingerprint, "version": version}
    config = {
        "architecture": platform.architecture,
        "os": platform.system,
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(SHARED_LAYER)]},
    }
    blobs = ((OCI_CONFIG, encode(config)), (DOCKER_LAYER, SHARED_LAYER))
    parts = [Descriptor(kind, place.client.put_blob(repository, blob), len(blob)) for kind, blob in blobs]
    manifest = Manifest.make(parts[0], parts[1:])
    for target in (manifest.digest, *tags):
        place.client.put_manifest(repository, target, manifest)
    return manifest


def put_index(place: ReleasePlace, tag: str) -> tuple[ReleasedImage, list[Manifest], list[Manifest]]:
    """A version for several platforms; its variants, and those that they were made from."""
    repository = f"{place.settings.namespace}/app"
    prints = {platform: digest_of(str(platform).encode()).removeprefix("sha256:") for platform in PLATFORMS}
    built = [put_variant(place, each, print_, "", fingerprint_tag(print_)) for each, print_ in prints.items()]
    variants = {each: put_variant(place, each, print_, tag) for each, print_ in prints.items()}
    digest = place.client.put_manifest(repository, tag, Manifest.index(variants))
    return ReleasedImage("app", place.settings.registry, repository, tag, digest, "f" * 64), [*variants.values()], built


def delete(place: ReleasePlace, release: Release, *remaining: Release) -> None:
    with place.task() as task, ThreadPoolExecutor(8) as pool:
        MemberDeletion(task, pool).delete(release, NeededMembers.of(remaining), [RECORD])


def released(version: str, *images: ReleasedImage) -> Release:
    return Release(version, "c" * 40, "2020-01-01T00:00:00Z", images, ())


def digests(manifests: Sequence[Manifest]) -> set[str]:
    return {each.digest for each in manifests}


def deletions(wire: Wire) -> list[str]:
    """The digests of the manifests that are deleted from here on; it grows."""
    deleted: list[str] = []

    def note(data: bytes) -> bytes:
        if data.startswith(b"DELETE "):
            deleted.append(data.split(b" ")[1].rpartition(b"/")[2].decode())
        return data

    wire.sent = note
    return deleted


def test_what_is_found_by_an_image_is_deleted_before_it_and_what_it_lists_after_it(
    wired: tuple[ReleasePlace, Wire],
) -> None:
    place, wire = wired
    image, variants, built = put_index(place, "1.0.0")
    payload = payload_of(image.registry, image.repository, image.digest)
    add_signature(place.client, image.repository, image.digest, ImageSignature(payload, b"signature"))
    signature = place.client.get_manifest(image.repository, signature_tag(image.digest))
    assert signature
    deleted = deletions(wire)
    delete(place, released("1.0.0", image))
    assert [digests([*built, signature]), {image.digest}, digests(variants)] == [
        set(deleted[:3]),
        set(deleted[3:4]),
        set(deleted[4:]),
    ]
    assert [] == place.client.tags(image.repository)
    assert () == place.store.list()


def test_an_index_that_another_release_has_keeps_what_it_lists(wired: tuple[ReleasePlace, Wire]) -> None:
    place, wire = wired
    image, *_ = put_index(place, "1.0.0")
    deleted = deletions(wire)
    delete(place, released("1.0.0", image), released("1.1.0", image))
    assert ([], ()) == (deleted, place.store.list())


def test_without_a_record_nothing_is_deleted(wired: tuple[ReleasePlace, Wire]) -> None:
    place, wire = wired
    image = place.put_image("app", "1.0.0")
    place.store.delete(RECORD)
    deleted = deletions(wire)
    delete(place, released("1.0.0", image))
    assert [] == deleted


def test_an_image_without_a_fingerprint_costs_two_questions(wired: tuple[ReleasePlace, Wire]) -> None:
    place, wire = wired
    image = place.put_image("app", "1.0.0")
    asked: list[bytes] = []

    def note(data: bytes) -> bytes:
        asked.append(data.partition(b" ")[0])
        return data

    wire.sent = note
    delete(place, released("1.0.0", image))
    assert [b"GET", b"HEAD", b"DELETE"] == [method for method in asked if method in (b"GET", b"HEAD", b"DELETE")]
