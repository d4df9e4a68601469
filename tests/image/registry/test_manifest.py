"""Whoever may push may put anything into a registry: what cannot be used is damage, and never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildtools.image.registry.lookup import StoredImage
from buildtools.image.registry.manifest import (
    CREATED_LABEL,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Damaged,
    Descriptor,
    Manifest,
    check_config,
    diff_ids_of,
    digest_of,
    labels_of,
    stamp,
)
from buildtools.settings import MediaTypes

DIGEST = digest_of(b"")
KEYS = st.sampled_from(
    ["config", "Labels", "rootfs", "diff_ids", "layers", "manifests", "platform", "os", "mediaType", "digest", "size"]
)
ANYTHING = st.recursive(
    st.sampled_from([None, True, 0, 1.5, float("inf"), "", "\ud800", "../x", DIGEST, "0001-01-01T00:00:00"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
DESCRIPTOR = st.fixed_dictionaries({"mediaType": ANYTHING, "digest": ANYTHING, "size": ANYTHING})
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "config": st.dictionaries(KEYS, ANYTHING, max_size=2) | ANYTHING,
        "rootfs": st.dictionaries(KEYS, ANYTHING, max_size=2) | ANYTHING,
        "created": ANYTHING,
        "history": st.lists(st.dictionaries(st.just("created"), ANYTHING), max_size=2) | ANYTHING,
    },
)
MANIFEST = st.fixed_dictionaries(
    {"config": DESCRIPTOR | ANYTHING, "layers": st.lists(DESCRIPTOR, max_size=2) | ANYTHING, "manifests": ANYTHING}
)


@given(CONFIG | ANYTHING)
def test_any_configuration_is_damaged_or_can_be_read_and_stamped(document: object) -> None:
    config = json.dumps(document).encode()
    with suppress(Damaged):
        check_config(config)
        assert all(isinstance(text, str) for text in (*labels_of(config).values(), *diff_ids_of(config)))
        labels = {"a": "b", CREATED_LABEL: "2026-01-01T00:00:00Z"}
        stamped = stamp(config, labels)
        check_config(stamped)
        assert {**labels_of(config), **labels} == labels_of(stamped)
        assert diff_ids_of(config) == diff_ids_of(stamped)
        assert StoredImage(Manifest(DOCKER_MANIFEST, b""), config).created <= 0


@pytest.mark.parametrize(
    "config", [b"", b"<html>", b"[]", b"\xff", b"[" * 200_000, b'{"config": {"Labels": {"a": 1}}}']
)
def test_what_is_not_a_configuration_is_told_with_its_digest(config: bytes) -> None:
    with pytest.raises(Damaged, match=f"{digest_of(config)} is not the configuration of an image: push"):
        check_config(config)


def test_a_configuration_without_labels_is_stamped() -> None:
    assert {"a": "b"} == labels_of(stamp(b'{"config": null}', {"a": "b"}))


def test_the_same_parts_are_the_same_manifest_whatever_they_were_called() -> None:
    digests = [digest_of(content) for content in (b"config", b"1", b"2", b"3")]
    docker = [
        DOCKER_CONFIG,
        DOCKER_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ]
    oci = [
        OCI_CONFIG,
        OCI_LAYER,
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ]
    made = {
        media_types: {
            Manifest.make(config, layers, media_types)
            for names in (docker, oci)
            for config, *layers in [[Descriptor(*each, 5) for each in zip(names, digests, strict=True)]]
        }
        for media_types in MediaTypes
    }
    for media_types, manifest_type, names in (
        (MediaTypes.DOCKER, DOCKER_MANIFEST, docker),
        (MediaTypes.OCI, OCI_MANIFEST, oci),
    ):
        (manifest,) = made[media_types]
        assert (manifest_type, manifest_type) == (manifest.media_type, manifest.document["mediaType"])
        assert names == [part.media_type for part in (manifest.config, *manifest.layers)]
        assert digests == [part.digest for part in (manifest.config, *manifest.layers)]


@pytest.mark.parametrize("name", ["docker.image.rootfs.diff.tar.zstd", "oci.image.layer.v1.tar+zstd"])
def test_a_layer_that_only_oci_has_a_name_for_makes_the_manifest_ocis(name: str) -> None:
    layer = Descriptor(f"application/vnd.{name}", DIGEST, 5)
    manifest = Manifest.make(Descriptor(DOCKER_CONFIG, DIGEST, 5), [layer], MediaTypes.DOCKER)
    assert [OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"] == [
        manifest.media_type,
        manifest.config.media_type,
        manifest.layers[0].media_type,
    ]


def test_a_layer_that_is_elsewhere_keeps_its_place() -> None:
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    part = {"mediaType": foreign, "digest": DIGEST, "size": 5, "urls": ["https://example.com/layer"]}
    config = {"mediaType": DOCKER_CONFIG, "digest": DIGEST, "size": 2}
    stored = Manifest(DOCKER_MANIFEST, json.dumps({"config": config, "layers": [part]}).encode())
    written = stored.with_config(b"{}", MediaTypes.OCI).document["layers"]
    assert [["https://example.com/layer"]] == [layer["urls"] for layer in written]


def test_a_stamped_configuration_does_not_tell_engine_and_hour() -> None:
    base, late = {"created": "2025-01-01T00:00:00.5Z"}, "2026-01-02T03:04:06.000000001Z"
    plain = {"created": late, "config": {"User": "1"}, "history": [base, {"created": late}, {"empty_layer": True}]}
    other = {**plain, "created": "2026-03-01T00:00:00+02:00", "config": {"User": "1", "OnBuild": None}, "variant": None}
    labels = {CREATED_LABEL: "2026-01-02T03:04:05Z"}
    stamped = stamp(json.dumps(plain).encode(), labels)
    assert stamped == stamp(json.dumps(other).encode(), labels)
    commit = labels[CREATED_LABEL]
    assert {
        "created": commit,
        "config": {"User": "1", "Labels": labels},
        "history": [base, {"created": commit}, {"empty_layer": True}],
    } == json.loads(stamped)


@given(MANIFEST | ANYTHING)
def test_any_manifest_is_damaged_or_names_its_parts(document: object) -> None:
    manifest = Manifest(DOCKER_MANIFEST, json.dumps(document).encode())
    reads: tuple[Callable[[], object], ...] = (
        lambda: (*manifest.layers, manifest.with_config(b"{}", MediaTypes.DOCKER).digest),
        lambda: manifest.only_image,
    )
    for read in reads:
        with suppress(Damaged):
            read()


@pytest.mark.parametrize("digest", ["../../secret", "sha256:../x", "a b:c", ""])
def test_a_digest_is_not_a_path(digest: str) -> None:
    part = {"mediaType": "x", "digest": digest, "size": 1}
    with pytest.raises(Damaged, match="is not that of one image"):
        Manifest(DOCKER_MANIFEST, json.dumps({"config": part, "layers": []}).encode()).config  # noqa: B018
