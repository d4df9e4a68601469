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
    DOCKER_MANIFEST,
    Damaged,
    Manifest,
    check_config,
    diff_ids_of,
    digest_of,
    labels_of,
    stamp,
)

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
        stamped = stamp(config, {"a": "b"})
        check_config(stamped)
        assert {**labels_of(config), "a": "b"} == labels_of(stamped)
        assert diff_ids_of(config) == diff_ids_of(stamped)
        assert StoredImage(Manifest(DOCKER_MANIFEST, b""), config).created <= 0


@pytest.mark.parametrize(
    "config", [b"", b"<html>", b"[]", b"\xff", b"[" * 200_000, b'{"config": {"Labels": {"a": 1}}}']
)
def test_what_is_no_configuration_is_told_with_its_digest(config: bytes) -> None:
    with pytest.raises(Damaged, match=f"{digest_of(config)} is not the configuration of an image: push"):
        check_config(config)


def test_a_configuration_without_labels_is_stamped() -> None:
    assert {"a": "b"} == labels_of(stamp(b'{"config": null}', {"a": "b"}))


@given(MANIFEST | ANYTHING)
def test_any_manifest_is_damaged_or_names_its_parts(document: object) -> None:
    manifest = Manifest(DOCKER_MANIFEST, json.dumps(document).encode())
    reads: tuple[Callable[[], object], ...] = (
        lambda: (*manifest.layers, manifest.with_config(manifest.config).digest),
        lambda: manifest.only_image,
    )
    for read in reads:
        with suppress(Damaged):
            read()


@pytest.mark.parametrize("digest", ["../../secret", "sha256:../x", "a b:c", ""])
def test_a_digest_is_no_path(digest: str) -> None:
    part = {"mediaType": "x", "digest": digest, "size": 1}
    with pytest.raises(Damaged, match="is not that of one image"):
        Manifest(DOCKER_MANIFEST, json.dumps({"config": part, "layers": []}).encode()).config  # noqa: B018
