"""Attestations: BuildKit's statements about how an image was built, restated for each version of it.

Provenance and SBOM are in-toto statements. A statement is a blob that names its subject, the image, by the digest of
its manifest. The statements of an image are the layers of a separate manifest, which is beside the image's in an index,
for the platform ``unknown/unknown``, so that no engine tries to run it.

A version is a stored image with other labels, so its manifest has its own digest, and statements about the stored image
would be about something that nobody can pull. So each version gets its own statements: the same predicate, with the
version's image as the subject.

Whatever depends only on the time of a build is normalized, like the times in a configuration: times later than the
version's become the version's; the random id of the build and the digests of its steps, which depend on the session,
are left out; and the random part of a scanner's document name is derived from the document. So a version that is made
twice, from builds that did the same, has the same digest. Everything else in the statements stays as BuildKit wrote it.

https://github.com/moby/buildkit/blob/master/docs/attestations/attestation-storage.md, https://slsa.dev/spec/ and
https://spdx.github.io/spdx-spec/v2.3/document-creation-information/
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from buildtools.image.reference import Reference
from buildtools.image.registry.manifest import (
    OCI_CONFIG,
    Descriptor,
    Manifest,
    digest_of,
    encode,
    is_later,
    platform_of,
    read_object,
)

_STATEMENT = "application/vnd.in-toto+json"
_TIMES = ("buildStartedOn", "buildFinishedOn", "startedOn", "finishedOn", "created")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
_RANDOM = ("buildInvocationID", "invocationId", "digestMapping")


def restated(
    attestation: Manifest,
    subject: Manifest,
    name: str,
    time: str,
    read_blob: Callable[[str], bytes | None],
    put_blob: Callable[[bytes], object],
) -> Manifest:
    """The attestations of a version's image, ``subject``, made from those of the stored one; their blobs are put first.

    ``name`` is the subject's name in the statements; no time in them is later than ``time``. ``read_blob`` returns a
    stored blob, or None if it is missing.
    """
    layers = []
    for layer, descriptor in zip(attestation.document["layers"], attestation.layers, strict=True):
        blob = read_blob(descriptor.digest) if descriptor.media_type == _STATEMENT else None
        statement = read_object(blob or b"")
        if statement is not None:
            blob = encode(_restatement(statement, subject, name, time))
            put_blob(blob)
            layer = {**layer, "digest": digest_of(blob), "size": len(blob)}
        layers.append(layer)
    document = {**attestation.document, "layers": layers}
    if attestation.config.media_type == OCI_CONFIG:
        # It is meaningless, but has as many diff_ids as there are layers.
        rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        config = encode({"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": rootfs})
        put_blob(config)
        document["config"] = Descriptor(OCI_CONFIG, digest_of(config), len(config)).document()
    if "subject" in document:
        document["subject"] = Descriptor(subject.media_type, subject.digest, len(subject.body)).document()
    return Manifest(attestation.media_type, encode(document))


def package_url(reference: Reference, config: bytes) -> str:
    """The package URL of an image in a registry: https://github.com/package-url/purl-spec, type ``docker``."""
    name = quote(reference.name, safe="/")
    return f"pkg:docker/{name}@{quote(reference.tag, safe='')}?platform={quote(str(platform_of(config)), safe='')}"


def _restatement(statement: Mapping[str, Any], subject: Manifest, name: str, time: str) -> dict[str, Any]:
    algorithm, _, value = subject.digest.partition(":")
    predicate = _settled(statement.get("predicate"), time)
    namespace = predicate.get("documentNamespace") if isinstance(predicate, dict) else None
    if isinstance(namespace, str):
        anonymous = encode({**predicate, "documentNamespace": ""}).decode()
        # Most scanners append a random UUID; documents with the same content get the same UUID here.
        predicate["documentNamespace"] = _UUID.sub(str(uuid.uuid5(uuid.NAMESPACE_URL, anonymous)), namespace)
    return {**statement, "subject": [{"name": name, "digest": {algorithm: value}}], "predicate": predicate}


def _settled(value: Any, time: str) -> Any:
    """Part of a predicate, without what depends only on the time of the build."""
    if isinstance(value, list):
        return [_settled(each, time) for each in value]
    if not isinstance(value, dict):
        return value
    settled = {key: _settled(each, time) for key, each in value.items() if key not in _RANDOM}
    return settled | {key: time for key in _TIMES if is_later(value.get(key), time)}
