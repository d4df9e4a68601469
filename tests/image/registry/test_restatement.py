"""What a version says of itself in the statements that BuildKit made about the stored image."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from buildtools.image.registry.attestations import restated
from buildtools.image.registry.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest, digest_of, encode

SUBJECT = Manifest.make(Descriptor(OCI_CONFIG, digest_of(b"{}"), 2), [])


def predicate_of_version(**predicate: Any) -> dict[str, Any]:
    """What becomes of a predicate."""
    blob = encode({"predicate": predicate})
    layer = Descriptor("application/vnd.in-toto+json", digest_of(blob), len(blob))
    stored = Manifest.make(Descriptor(OCI_CONFIG, digest_of(b"{}"), 2), [layer])
    blobs = [blob]
    version = restated(
        Manifest(OCI_MANIFEST, stored.body),
        SUBJECT,
        "pkg:docker/app",
        "2024-01-01T00:00:00Z",
        lambda _: blob,
        blobs.append,
    )
    (statement,) = [json.loads(each) for each in blobs if digest_of(each) == version.layers[0].digest]
    result: dict[str, Any] = statement["predicate"]
    return result


def test_the_random_end_of_a_documents_name_follows_from_its_content() -> None:
    names = [
        predicate_of_version(name=name, documentNamespace=f"https://example.com/scan-{uuid.uuid4()}")[
            "documentNamespace"
        ]
        for name in ("one", "one", "two")
    ]
    assert {36 + len("https://example.com/scan-")} == set(map(len, names))
    assert (names[0], True) == (names[1], names[0] != names[2])


@pytest.mark.parametrize("name", ["https://example.com/app-1.0.spdx", "https://example.com/sha256/" + "0" * 64])
def test_a_documents_name_without_one_stays(name: str) -> None:
    assert name == predicate_of_version(documentNamespace=name)["documentNamespace"]
