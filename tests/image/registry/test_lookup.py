from __future__ import annotations

import json

import pytest

from buildtools import BuildToolsError
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import (
    ImageLookup,
    StoredImage,
    find_fingerprints,
    fingerprint_tag,
    move_tag,
    prune_fingerprints,
    tag_digest,
)
from buildtools.image.registry.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    FINGERPRINT_LABEL,
    OCI_INDEX,
    OCI_MANIFEST,
    VERSION_LABEL,
    Damaged,
    Descriptor,
    Manifest,
    encode,
)


@pytest.fixture
def repository(namespace: str) -> str:
    return f"{namespace}/app"


def put_image(client: Registry, repository: str, tag: str, created: str = "", **labels: str) -> Manifest:
    config = encode({"created": created, "config": {"Labels": labels}, "rootfs": {"diff_ids": ["sha256:1"]}})
    layer = b"a layer, shared by all"
    manifest = Manifest.make(
        Descriptor(DOCKER_CONFIG, client.put_blob(repository, config), len(config)),
        [Descriptor(DOCKER_LAYER, client.put_blob(repository, layer), len(layer))],
    )
    client.put_manifest(repository, tag, manifest)
    return manifest


def test_an_image_is_read_with_its_labels(client: Registry, repository: str, cache: Cache) -> None:
    manifest = put_image(client, repository, "1.0", "2026-01-02T03:04:05.123456789Z", a="b")
    found = ImageLookup(client, cache).read(repository, "1.0")
    assert found is not None
    assert (manifest, {"a": "b"}, 1767323045) == (found.manifest, found.labels, int(found.created))
    assert ImageLookup(client, cache).read(repository, "2.0") is None


def test_an_index_of_one_platform_and_its_attestation_is_that_platforms_image(
    client: Registry, repository: str, cache: Cache
) -> None:
    manifest = put_image(client, repository, "amd64")
    entry = Descriptor(manifest.media_type, manifest.digest, len(manifest.body)).document()
    platforms = [{"os": "linux", "architecture": "amd64"}, {"os": "unknown", "architecture": "unknown"}]

    def put_index(tag: str, *platforms: dict[str, str]) -> None:
        listed = [{**entry, "platform": platform} for platform in platforms]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
        client.put_manifest(repository, tag, Manifest(OCI_INDEX, encode(index)))

    put_index("1.0", *platforms)
    found = ImageLookup(client, cache).read(repository, "1.0")
    assert found is not None
    assert manifest == found.manifest
    put_index("2.0", *platforms, {"os": "linux", "architecture": "arm64"})
    with pytest.raises(BuildToolsError, match="lists 2 images"):
        ImageLookup(client, cache).read(repository, "2.0")


def test_an_image_tells_what_is_attested_about_it() -> None:
    types = ("https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document")
    layers = [{"annotations": {"in-toto.io/predicate-type": each}} for each in types]
    first, second = (Manifest(OCI_MANIFEST, encode({"layers": some})) for some in (layers[:1], layers))
    assert [set(), {"provenance"}, {"provenance", "sbom"}] == [
        StoredImage(first, b"{}", some).attested for some in ((), (first,), (second,))
    ]


def test_fingerprints_are_found_where_they_are(client: Registry, repository: str, cache: Cache) -> None:
    there, gone, moved = "a" * 64, "b" * 64, "c" * 64
    manifest = put_image(client, repository, fingerprint_tag(there), **{FINGERPRINT_LABEL: there})
    move_tag(client, repository, fingerprint_tag(moved), manifest.digest)
    wanted = {"there": there, "gone": gone, "moved": moved}
    found = find_fingerprints(client, {name: (repository, each) for name, each in wanted.items()}, cache)
    manifests = {name: image and image.manifest for name, image in found.items()}
    assert {"there": manifest, "gone": None, "moved": None} == manifests


@pytest.mark.parametrize("config", [b"<html>", b"[]", b'{"config": {"Labels": ["a"]}}', b'{"config": 5}'])
def test_a_fingerprint_whose_configuration_is_damaged_counts_as_lost(
    client: Registry, repository: str, cache: Cache, config: bytes
) -> None:
    fingerprint = "a" * 64
    descriptor = Descriptor(DOCKER_CONFIG, client.put_blob(repository, config), len(config))
    client.put_manifest(repository, fingerprint_tag(fingerprint), Manifest.make(descriptor, []))
    assert {"app": None} == find_fingerprints(client, {"app": (repository, fingerprint)}, cache)
    with pytest.raises(Damaged, match="is not the configuration of an image"):
        ImageLookup(client, cache).read(repository, fingerprint_tag(fingerprint))


def test_a_fingerprint_that_points_to_several_platforms_counts_as_lost(
    client: Registry, repository: str, cache: Cache
) -> None:
    index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    client.put_manifest(repository, fingerprint_tag("a" * 64), Manifest(OCI_INDEX, index))
    assert {"app": None} == find_fingerprints(client, {"app": (repository, "a" * 64)}, cache)


def test_a_moved_tag_has_the_same_digest(client: Registry, repository: str) -> None:
    manifest = put_image(client, repository, "1.0")
    assert tag_digest(client, repository, "latest") is None
    move_tag(client, repository, "latest", manifest.digest)
    assert manifest.digest == tag_digest(client, repository, "latest")
    with pytest.raises(BuildToolsError, match="has no image sha256:000"):
        move_tag(client, repository, "latest", "sha256:" + "0" * 64)


def test_the_oldest_fingerprints_go_and_those_that_are_wanted_stay(
    client: Registry, repository: str, cache: Cache
) -> None:
    fingerprints = [f"{number}" * 64 for number in range(6)]
    for day, fingerprint in enumerate(fingerprints, 1):
        labels = {FINGERPRINT_LABEL: fingerprint}
        put_image(client, repository, fingerprint_tag(fingerprint), f"2026-01-0{day}T00:00:00Z", **labels)
    version = put_image(client, repository, "1.0", "2025-01-01T00:00:00Z", **{VERSION_LABEL: "1.0"})
    put_image(client, repository, "fp-something-of-a-user")
    deleted = prune_fingerprints(client, repository, [fingerprints[0]], 4, cache)
    assert [fingerprint_tag(fingerprint) for fingerprint in fingerprints[1:3]] == deleted
    kept = [fingerprint_tag(fingerprints[number]) for number in (0, 3, 4, 5)]
    assert sorted(["1.0", "fp-something-of-a-user", *kept]) == sorted(client.tags(repository))
    found = ImageLookup(client, cache).read(repository, "1.0")
    assert found is not None
    assert version == found.manifest
    assert all(client.blob_size(repository, layer.digest) for layer in found.manifest.layers)
    assert [] == prune_fingerprints(client, repository, [], 4, cache)


def test_a_fingerprint_that_is_a_version_too_is_never_deleted(client: Registry, repository: str, cache: Cache) -> None:
    labels = {VERSION_LABEL: "1.0"}
    manifest = put_image(client, repository, "1.0", **labels)
    client.put_manifest(repository, fingerprint_tag("a" * 64), manifest)
    assert [] == prune_fingerprints(client, repository, [], 0, cache)
    assert manifest.digest == tag_digest(client, repository, "1.0")


def test_an_image_without_a_date_counts_as_the_oldest(client: Registry, repository: str, cache: Cache) -> None:
    put_image(client, repository, fingerprint_tag("a" * 64), "2026-01-01T00:00:00Z")
    put_image(client, repository, fingerprint_tag("b" * 64), json.dumps(None))
    assert [fingerprint_tag("b" * 64)] == prune_fingerprints(client, repository, [], 1, cache)
