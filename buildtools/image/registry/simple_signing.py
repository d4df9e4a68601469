"""Signatures of images, kept as cosign keeps them: beside the image, under a tag that is made of its digest.

``sha256-HEX.sig`` is an OCI image. Each of its layers is a small JSON document that names the digest which is signed;
an annotation of the layer holds the signature of that document.
https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from buildtools import BuildToolsError
from buildtools.frozen import frozen
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import tag_digest
from buildtools.image.registry.manifest import OCI_CONFIG, OCI_MANIFEST, Damaged, Manifest, encode
from buildtools.schedule import awaited

_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_KIND = "cosign container image signature"
# What is read to verify a signature is some hundred bytes; whoever may push may have put anything there.
_LARGEST_PAYLOAD = 64 * 1024


@frozen
class ImageSignature:
    """What was signed, ``payload``, and the signature of that."""

    payload: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        """The digest of the image that it is about; empty where it is not about an image."""
        try:
            critical = json.loads(self.payload)["critical"]
            return str(critical["image"]["docker-manifest-digest"]) if critical["type"] == _KIND else ""
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""


def signature_tag(digest: str) -> str:
    """The tag that the signatures of an image are under."""
    return f"{digest.replace(':', '-')}.sig"


def payload_of(registry: str, repository: str, digest: str) -> bytes:
    """What is signed to sign an image; the same bytes for the same place and digest."""
    critical = {
        "identity": {"docker-reference": f"{registry}/{repository}"},
        "image": {"docker-manifest-digest": digest},
        "type": _KIND,
    }
    return encode({"critical": critical, "optional": None})


def read_signatures(registry: Registry, repository: str, digest: str) -> tuple[ImageSignature, ...]:
    """The signatures of an image; none where it has none. Those that cannot be read are passed over."""
    manifest = _signature_manifest(registry, repository, digest)
    signatures = []
    for layer in _layers(manifest):
        try:
            if layer["mediaType"] == _LAYER and int(layer["size"]) <= _LARGEST_PAYLOAD:
                signature = base64.b64decode(layer["annotations"][_SIGNATURE])
                payload = registry.get_blob(repository, layer["digest"])
                signatures += [ImageSignature(payload, signature)] if payload else []
        except (KeyError, TypeError, ValueError, Damaged):
            continue
    return tuple(signatures)


def add_signature(registry: Registry, repository: str, digest: str, signature: ImageSignature) -> None:
    """Add a signature to those of an image.

    :raises BuildToolsError: it is not among them afterwards.
    """
    layer = {
        "mediaType": _LAYER,
        "size": len(signature.payload),
        "digest": registry.put_blob(repository, signature.payload),
        "annotations": {_SIGNATURE: base64.b64encode(signature.signature).decode()},
    }
    _add_layers(registry, repository, digest, [layer])


def copy_signatures(source: Registry, repository: str, target: Registry, target_repository: str, digest: str) -> None:
    """Give an image of another repository the signatures that the same image has in this one.

    Where it has none there, their manifest is the same, byte for byte.

    :raises BuildToolsError: they are not there afterwards, or one is damaged here.
    """
    manifest = _signature_manifest(source, repository, digest)
    if manifest is None or tag_digest(target, target_repository, signature_tag(digest)) == manifest.digest:
        return
    for part in (manifest.config, *manifest.layers):
        blob = source.get_blob(repository, part.digest)
        if blob is None:
            raise Damaged(f"{source.host}/{repository} lacks a part of {signature_tag(digest)}", "sign the image anew")
        target.put_blob(target_repository, blob)
    if _signature_manifest(target, target_repository, digest) is None:
        target.put_manifest(target_repository, signature_tag(digest), manifest)
    else:
        _add_layers(target, target_repository, digest, _layers(manifest))


def _add_layers(registry: Registry, repository: str, digest: str, layers: Sequence[dict[str, Any]]) -> None:
    def add() -> bool | None:
        """A registry has no conditional write: who signs with another key at the same moment may overwrite ours."""
        present = _layers(_signature_manifest(registry, repository, digest))
        missing = [layer for layer in layers if layer not in present]
        if not missing:
            return True
        _put(registry, repository, digest, [*present, *missing])
        present = _layers(_signature_manifest(registry, repository, digest))
        return all(layer in present for layer in layers) or None

    if not awaited(add):
        raise BuildToolsError(
            f"{registry.host}/{repository}:{signature_tag(digest)} does not keep what is written to it",
            "let no two jobs sign the same image with different keys at once",
        )


def _put(registry: Registry, repository: str, digest: str, layers: list[dict[str, Any]]) -> None:
    # As cosign writes it: an image of no platform, from no time.
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
