"""Signatures of images, stored like cosign does: in the same repository, under a tag derived from the image's digest.

``sha256-HEX.sig`` is an OCI image. Each of its layers is a small JSON document with the signed digest; an annotation of
the layer has the signature of that document.

https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from buildtools import BuildToolsError, Refused
from buildtools.frozen import frozen
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import tag_digest
from buildtools.image.registry.manifest import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Damaged,
    Descriptor,
    Manifest,
    digest_of,
    encode,
)
from buildtools.schedule import awaited

_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_KIND = "cosign container image signature"
# A payload has some hundred bytes, but anybody who may push can put anything there.
_LARGEST_PAYLOAD = 64 * 1024


@frozen
class ImageSignature:
    """The signed ``payload``, and its signature."""

    payload: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        """The digest of the signed image; empty if the payload is not about an image."""
        try:
            critical = json.loads(self.payload)["critical"]
            return str(critical["image"]["docker-manifest-digest"]) if critical["type"] == _KIND else ""
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""


def signature_tag(digest: str) -> str:
    """The tag of an image's signatures."""
    return f"{digest.replace(':', '-')}.sig"


def payload_of(registry: str, repository: str, digest: str) -> bytes:
    """The payload to sign for an image; the same bytes for the same place and digest."""
    critical = {
        "identity": {"docker-reference": f"{registry}/{repository}"},
        "image": {"docker-manifest-digest": digest},
        "type": _KIND,
    }
    return encode({"critical": critical, "optional": None})


def read_signatures(registry: Registry, repository: str, digest: str) -> tuple[ImageSignature, ...]:
    """The signatures of an image; unreadable ones are skipped."""
    signatures = []
    for layer in _layers(_signature_manifest(registry, repository, digest)):
        try:
            descriptor = Descriptor.read(layer)
            if descriptor.media_type == _LAYER and descriptor.size <= _LARGEST_PAYLOAD:
                signature = base64.b64decode(layer["annotations"][_SIGNATURE])
                payload = registry.get_blob(repository, descriptor.digest)
                signatures += [ImageSignature(payload, signature)] if payload else []
        except (KeyError, TypeError, ValueError, OverflowError, Damaged):
            continue
    return tuple(signatures)


def add_signature(registry: Registry, repository: str, digest: str, signature: ImageSignature) -> bool:
    """Add a signature to those of an image; False if it was already there.

    A registry has no conditional write: a job that adds another signature at the same moment may overwrite this one.
    Call this again a moment later to restore it.

    :raises BuildToolsError: if it is not there afterwards.
    """
    layer = {
        "mediaType": _LAYER,
        "size": len(signature.payload),
        "digest": digest_of(signature.payload),
        "annotations": {_SIGNATURE: base64.b64encode(signature.signature).decode()},
    }
    return _add_layers(registry, repository, digest, {signature.payload: layer})


def copy_signatures(source: Registry, repository: str, target: Registry, target_repository: str, digest: str) -> None:
    """Copy the signatures of an image to the same image in another repository.

    If that has none yet, their manifest is the same, byte for byte.

    :raises BuildToolsError: if they are not there afterwards, or one is damaged here.
    """
    manifest = _signature_manifest(source, repository, digest)
    if manifest is None or tag_digest(target, target_repository, signature_tag(digest)) == manifest.digest:
        return
    blobs = {}
    for part in (manifest.config, *manifest.layers):
        blob = source.get_blob(repository, part.digest)
        if blob is None:
            raise Damaged(f"{source.host}/{repository} lacks a part of {signature_tag(digest)}", "sign the image again")
        blobs[part.digest] = blob
    if tag_digest(target, target_repository, signature_tag(digest)):
        layers = {blobs[layer["digest"]]: layer for layer in _layers(manifest)}
        _add_layers(target, target_repository, digest, layers)
        return
    for blob in blobs.values():
        target.put_blob(target_repository, blob)
    target.put_manifest(target_repository, signature_tag(digest), manifest)


def _add_layers(registry: Registry, repository: str, digest: str, layers: Mapping[bytes, dict[str, Any]]) -> bool:
    """Add layers, by their contents, to the signatures of an image; False if all of them were already there."""
    if not _missing_layers(layers, _present_layers(registry, repository, digest)):
        return False
    for payload in layers:
        registry.put_blob(repository, payload)

    def add() -> bool | None:
        # They are read right before they are written, so that another job has little time to write in between.
        present = _present_layers(registry, repository, digest)
        _put(registry, repository, digest, [*present, *_missing_layers(layers, present)])
        return not _missing_layers(layers, _layers(_signature_manifest(registry, repository, digest))) or None

    if not awaited(add):
        raise BuildToolsError(
            f"{registry.host}/{repository}:{signature_tag(digest)} does not keep what is written to it",
            "let no two jobs sign the same image with different keys at once",
        )
    return True


def _missing_layers(layers: Mapping[bytes, dict[str, Any]], present: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [layer for layer in layers.values() if layer not in present]


def _present_layers(registry: Registry, repository: str, digest: str) -> list[dict[str, Any]]:
    try:
        return _layers(_signature_manifest(registry, repository, digest))
    except Refused:
        # Some registries deny access to what does not exist, even to those who may push.
        registry.check_push_access(repository)
        return []


def _put(registry: Registry, repository: str, digest: str, layers: list[dict[str, Any]]) -> None:
    # As cosign writes it: an image without platform or time.
    nothing = {"created": "0001-01-01T00:00:00Z"}
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = encode({"architecture": "", "os": "", "config": {}, "history": [nothing], "rootfs": rootfs, **nothing})
    descriptor = {"mediaType": OCI_CONFIG, "size": len(config), "digest": registry.put_blob(repository, config)}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor, "layers": layers}
    registry.put_manifest(repository, signature_tag(digest), Manifest(OCI_MANIFEST, encode(document)))


def _signature_manifest(registry: Registry, repository: str, digest: str) -> Manifest | None:
    return registry.get_manifest(repository, signature_tag(digest))


def _layers(manifest: Manifest | None) -> list[dict[str, Any]]:
    layers = manifest.document.get("layers") if manifest else None
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
