"""Attestations: what BuildKit says about how an image was built, carried over to each version of it.

Provenance and SBOM are statements of in-toto. A statement is a blob that names its subject, the image, by the digest of
its manifest. The statements of an image are the layers of a manifest of their own, which stands beside the image's in
an index, for the platform ``unknown/unknown``, where no engine looks for an image to run.

A version is a stored image with other labels, so its manifest has a digest of its own, and statements about the stored
image would speak of nothing that anybody can pull. So each version gets statements of its own: the same predicate, with
the version's image as the subject.

What depends on the moment of a build alone is made equal there, as times in a configuration are: times later than the
version's become that one, the random number of the build and the digests of its steps, which follow from the session,
are left out, and the random part of the name that a scanner gives its document follows from the document. So a version
that is made twice, out of builds that did the same, has the same digest. What the statements say of layers, materials
and steps stays as BuildKit wrote it.

https://github.com/moby/buildkit/blob/master/docs/attestations/attestation-storage.md, https://slsa.dev/spec/ and
https://spdx.github.io/spdx-spec/v2.3/document-creation-information/
"""

from __future__ import annotations

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
_RANDOM = ("buildInvocationID", "invocationId", "digestMapping")


def restated(
    attestation: Manifest,
    subject: Manifest,
    name: str,
    time: str,
    read_blob: Callable[[str], bytes | None],
    put_blob: Callable[[bytes], object],
) -> Manifest:
    """The attestations of a version's image, ``subject``, made of those of the stored one; their blobs are put first.

    ``name`` is what the statements call the subject; no time in them is later than ``time``. ``read_blob`` gives the
    stored ones, None where one is gone.
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
        # It says nothing, but has as many contents as there are layers.
        rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        config = encode({"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": rootfs})
        put_blob(config)
        document["config"] = Descriptor(OCI_CONFIG, digest_of(config), len(config)).document()
    if "subject" in document:
        document["subject"] = Descriptor(subject.media_type, subject.digest, len(subject.body)).document()
    return Manifest(attestation.media_type, encode(document))


def package_url(reference: Reference, config: bytes) -> str:
    """What statements call an image in a registry: https://github.com/package-url/purl-spec, type ``docker``."""
    name = quote(reference.name, safe="/")
    return f"pkg:docker/{name}@{quote(reference.tag, safe='')}?platform={quote(str(platform_of(config)), safe='')}"


def _restatement(statement: Mapping[str, Any], subject: Manifest, name: str, time: str) -> dict[str, Any]:
    algorithm, _, value = subject.digest.partition(":")
    predicate = _settled(statement.get("predicate"), time)
    namespace = predicate.get("documentNamespace") if isinstance(predicate, dict) else None
    if isinstance(namespace, str):
        anonymous = encode({**predicate, "documentNamespace": ""}).decode()
        # Scanners end it with a random UUID; a document with the same content may have the same.
        predicate["documentNamespace"] = f"{namespace[:-36]}{uuid.uuid5(uuid.NAMESPACE_URL, anonymous)}"
    return {**statement, "subject": [{"name": name, "digest": {algorithm: value}}], "predicate": predicate}


def _settled(value: Any, time: str) -> Any:
    """A part of a predicate without what depends on the moment of the build alone."""
    if isinstance(value, list):
        return [_settled(each, time) for each in value]
    if not isinstance(value, dict):
        return value
    settled = {key: _settled(each, time) for key, each in value.items() if key not in _RANDOM}
    return settled | {key: time for key in _TIMES if is_later(value.get(key), time)}
