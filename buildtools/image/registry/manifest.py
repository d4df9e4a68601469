"""Manifests and configurations of images, as bytes and as parsed values.

https://github.com/opencontainers/image-spec/blob/main/manifest.md and
https://distribution.github.io/distribution/spec/manifest-v2-2/
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from buildtools import BuildToolsError
from buildtools.frozen import frozen
from buildtools.platform import Platform
from buildtools.settings import MediaTypes

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

ACCEPTED = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)
FINGERPRINT_LABEL = "lockstep.fingerprint"
VERSION_LABEL = "org.opencontainers.image.version"
SOURCE_LABEL = "org.opencontainers.image.source"
CREATED_LABEL = "org.opencontainers.image.created"
# How an index refers to attestations:
# https://github.com/moby/buildkit/blob/master/docs/attestations/attestation-storage.md
_REFERENCE_DIGEST = "vnd.docker.reference.digest"
_REFERENCE_TYPE = "vnd.docker.reference.type"
# Docker's media types, and OCI's equivalents: https://github.com/opencontainers/image-spec/blob/main/media-types.md
_OCI_NAMES = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    ),
}
_NAMES = {MediaTypes.OCI: _OCI_NAMES, MediaTypes.DOCKER: {oci: docker for docker, oci in _OCI_NAMES.items()}}
# https://github.com/opencontainers/image-spec/blob/main/layer.md and Docker's own types; foreign layers are elsewhere.
_LAYER = re.compile(
    r"application/vnd\.docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.gzip|\.zstd)?"
    r"|application/vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?"
)
# https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+")


class Damaged(BuildToolsError):
    """Content from a registry is not what was stored: its bytes do not match, or it is not an image."""


class OtherPlatforms(Damaged):
    """An index has no image for the requested platform, or several where one is expected."""


@frozen
class Descriptor:
    """Content in a registry. ``size`` is in bytes. ``urls`` are the places of a layer that registries need not have."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Any) -> Descriptor:
        """The descriptor in a manifest.

        :raises KeyError, TypeError, ValueError, OverflowError: if it is not a descriptor.
        """
        media_type, digest, size = str(document["mediaType"]), _read_digest(document), int(document["size"])
        return cls(media_type, digest, size, tuple(map(str, document.get("urls") or ())))

    @property
    def is_layer(self) -> bool:
        """Whether engines unpack content of this type as a layer."""
        return self.size >= 0 and _LAYER.fullmatch(self.media_type) is not None

    @property
    def is_compressed(self) -> bool:
        """Whether a layer's media type is a compressed one."""
        return self.media_type.endswith(("gzip", "zstd"))

    def named(self, media_types: MediaTypes) -> Descriptor:
        """The same content with the equivalent media type."""
        return replace(self, media_type=_NAMES[media_types].get(self.media_type, self.media_type))

    def document(self) -> dict[str, Any]:
        """The form in a manifest."""
        urls = {"urls": list(self.urls)} if self.urls else {}
        return {"mediaType": self.media_type, "size": self.size, "digest": self.digest, **urls}


@frozen
class Manifest:
    """A manifest's exact bytes. An index (a list of manifests) is one too; it has no config and no layers."""

    media_type: str
    body: bytes

    @classmethod
    def make(
        cls, config: Descriptor, layers: Iterable[Descriptor], media_types: MediaTypes = MediaTypes.DOCKER
    ) -> Manifest:
        """The manifest of an image; the same bytes for the same parts, whatever their media types were called."""
        parts = [config, *layers]
        # As in BuildKit: only OCI has a name for this compression.
        if any(part.media_type.endswith("zstd") for part in parts):
            media_types = MediaTypes.OCI
        named_config, *named_layers = (part.named(media_types).document() for part in parts)
        media_type = OCI_MANIFEST if media_types is MediaTypes.OCI else DOCKER_MANIFEST
        document = {"schemaVersion": 2, "mediaType": media_type, "config": named_config, "layers": named_layers}
        return cls(media_type, encode(document))

    @classmethod
    def index(
        cls, images: Mapping[Platform, Manifest], attestations: Mapping[Platform, Sequence[Manifest]] | None = None
    ) -> Manifest:
        """The index of one image for several platforms, in any order, and of their attestations."""
        in_order = sorted(images.items(), key=lambda item: str(item[0]))
        entries: list[dict[str, Any]] = [
            {
                **Descriptor(manifest.media_type, manifest.digest, len(manifest.body)).document(),
                "platform": {
                    "architecture": platform.architecture,
                    "os": platform.system,
                    **({"variant": platform.variant} if platform.variant else {}),
                },
            }
            for platform, manifest in in_order
        ]
        entries += [
            {
                **Descriptor(each.media_type, each.digest, len(each.body)).document(),
                "annotations": {_REFERENCE_DIGEST: manifest.digest, _REFERENCE_TYPE: "attestation-manifest"},
                "platform": {"architecture": "unknown", "os": "unknown"},
            }
            for platform, manifest in in_order
            for each in (attestations or {}).get(platform, ())
        ]
        return cls(OCI_INDEX, encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))

    @classmethod
    def received(cls, content_type: str, body: bytes) -> Manifest:
        """A manifest with the response's media type, or with its own if the response's is not a manifest type."""
        if content_type in ACCEPTED:
            return cls(content_type, body)
        document = read_object(body) or {}
        media_type = document.get("mediaType")
        if media_type in ACCEPTED:
            return cls(str(media_type), body)
        by_members = {"manifests": OCI_INDEX, "layers": OCI_MANIFEST}
        return cls(next((kind for key, kind in by_members.items() if key in document), content_type), body)

    @cached_property
    def digest(self) -> str:
        """The digest of the bytes, which is the image's digest."""
        return digest_of(self.body)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The parsed manifest.

        :raises Damaged: if it is not a JSON object.
        """
        document = read_object(self.body)
        if document is None:
            raise Damaged(f"the manifest {self.digest} is not a JSON object", "push the image again")
        return document

    @property
    def is_index(self) -> bool:
        """Whether this is a list of manifests."""
        return self.media_type in (OCI_INDEX, DOCKER_LIST)

    @cached_property
    def entries(self) -> tuple[Descriptor, ...]:
        """The descriptors in an index, including attestations.

        :raises Damaged: if the index is malformed.
        """
        try:
            return tuple(map(Descriptor.read, self.document["manifests"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise Damaged(f"the index {self.digest} cannot be read", "push the image again") from None

    @cached_property
    def only_image(self) -> str:
        """The digest of an index's only image for a platform; attestations, which are for none, do not count.

        :raises OtherPlatforms: if there are several, or none.
        """
        entries = self.document.get("manifests") or ()
        try:
            digests = [_read_digest(one) for one in entries if (one.get("platform") or {}).get("os") != "unknown"]
        except (AttributeError, KeyError, TypeError, ValueError):
            digests = []
        if len(digests) != 1:
            raise OtherPlatforms(f"the index {self.digest} lists {len(digests)} images", "name one platform's image")
        return digests[0]

    def attestations_of(self, digest: str) -> tuple[str, ...]:
        """The digests of the attestation manifests in an index for the image with this digest."""
        digests = []
        for entry in self.document.get("manifests") or ():
            with suppress(AttributeError, KeyError, TypeError, ValueError):
                if entry["annotations"][_REFERENCE_DIGEST] == digest:
                    digests.append(_read_digest(entry))
        return tuple(digests)

    @cached_property
    def platforms(self) -> Mapping[Platform, str]:
        """The digests of an index's images, by platform.

        :raises Damaged: if this is not a JSON object.
        """
        digests: dict[Platform, str] = {}
        entries = self.document.get("manifests")
        for entry in entries if isinstance(entries, list) else ():
            # Attestations have no real platform, and other malformed entries are not for ours.
            with suppress(AttributeError, KeyError, TypeError, ValueError):
                parts = [str(entry["platform"].get(key) or "") for key in ("os", "architecture", "variant")]
                digests.setdefault(Platform.parse("/".join(filter(None, parts))), _read_digest(entry))
        return digests

    def image_for(self, platform: Platform) -> str:
        """The digest of an index's image for a platform; an image for an older variant can serve a newer one.

        :raises OtherPlatforms: if there is none.
        """
        digests = self.platforms
        digests_of_variants = [each for each in digests if replace(each, variant=platform.variant) == platform]
        usable = [each for each in digests_of_variants if each.variant <= platform.variant]
        if not usable:
            raise OtherPlatforms(f"the index {self.digest} has no image for {platform}", "name another platform")
        return digests[max(usable, key=lambda each: each.variant)]

    @cached_property
    def config(self) -> Descriptor:
        """The descriptor of the image's configuration.

        :raises Damaged: if this is not an image's manifest.
        """
        return self._descriptors[0]

    @cached_property
    def layers(self) -> tuple[Descriptor, ...]:
        """The descriptors of the image's layers, lowest first.

        :raises Damaged: if this is not an image's manifest.
        """
        return self._descriptors[1:]

    @cached_property
    def _descriptors(self) -> tuple[Descriptor, ...]:
        try:
            return tuple(Descriptor.read(one) for one in (self.document["config"], *(self.document["layers"] or ())))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise Damaged(
                f"the manifest {self.digest} ({self.media_type}) is not that of one image", "name one platform's image"
            ) from None

    def with_config(self, config: bytes, media_types: MediaTypes) -> Manifest:
        """The manifest of the same layers with another configuration."""
        descriptor = replace(self.config, digest=digest_of(config), size=len(config))
        return self.make(descriptor, self.layers, media_types)


def check_image(manifest: Manifest, config: bytes) -> None:
    """Raise :class:`Damaged` unless a manifest and a configuration are those of an image that engines can pull.

    A registry stores anything, under any tag.

    :raises Damaged: if the configuration is not that of an image or has another size than in the manifest; if the
        number of layers does not match its diff_ids; or if a layer has an unknown type.
    """
    check_config(config)
    layers, count = manifest.layers, len(diff_ids_of(config))
    problems = [f"layer {layer.digest} has media type {layer.media_type!r}" for layer in layers if not layer.is_layer]
    if len(layers) != count:
        problems.append(f"{len(layers)} layers for {count} diff_ids")
    if manifest.config.size != len(config):
        problems.append(f"a configuration of {len(config)} bytes where {manifest.config.size} are named")
    if problems:
        raise Damaged(f"the image {manifest.digest} cannot be pulled ({'; '.join(problems)})", "push the image again")


def check_config(config: bytes) -> None:
    """Raise :class:`Damaged` unless these bytes are a configuration that can be read and stamped.

    :raises Damaged: if they are not.
    """
    document = read_object(config)
    inner, rootfs = ((document or {}).get(key) or {} for key in ("config", "rootfs"))
    try:
        # A list is added, because a table would pass for its keys.
        texts = list((inner.get("Labels") or {}).values()) + (rootfs.get("diff_ids") or [])
    except (AttributeError, TypeError):
        document = None
    if document is None or not all(isinstance(text, str) for text in texts):
        raise Damaged(f"{digest_of(config)} is not the configuration of an image", "push the image again")


def stamp(config: bytes, labels: Mapping[str, str]) -> bytes:
    """A configuration with these labels set, and without anything that depends on the time and engine of the build.

    Members have a fixed order, and null members, which only some engines write, are left out. If a label says when the
    image was created, later times become that one, as BuildKit does with ``SOURCE_DATE_EPOCH``. The layers stay as they
    are.
    """
    document = _without_nulls(json.loads(config))
    inner = _without_nulls(document.get("config") or {})
    document["config"] = {**inner, "Labels": {**(inner.get("Labels") or {}), **labels}}
    if CREATED_LABEL in labels:
        history = document.get("history")
        steps = [step for step in history if isinstance(step, dict)] if isinstance(history, list) else []
        for part in (document, *steps):
            if is_later(part.get("created"), labels[CREATED_LABEL]):
                part["created"] = labels[CREATED_LABEL]
    return encode(document, sort_keys=True)


def _without_nulls(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not None}


def is_later(time: Any, limit: str) -> bool:
    """Whether this is an RFC 3339 time after another one."""
    try:
        return datetime.fromisoformat(time) > datetime.fromisoformat(limit)
    except (TypeError, ValueError):
        return False


def platform_of(config: bytes) -> Platform:
    """The platform in a configuration."""
    document = json.loads(config)
    return Platform(*(str(document.get(key) or "") for key in ("os", "architecture", "variant")))


def labels_of(config: bytes) -> Mapping[str, str]:
    """The labels in a configuration."""
    return (json.loads(config).get("config") or {}).get("Labels") or {}


def onbuild_of(config: bytes) -> tuple[str, ...]:
    """The ``ONBUILD`` instructions, which run first in a build on top of this image."""
    instructions = (json.loads(config).get("config") or {}).get("OnBuild") or ()
    return tuple(str(each) for each in instructions) if isinstance(instructions, list) else ()


def diff_ids_of(config: bytes) -> list[str]:
    """The digests of the layers' uncompressed bytes, lowest first."""
    return list((json.loads(config).get("rootfs") or {}).get("diff_ids") or ())


def read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in these bytes; None if they are not one, or one that cannot be encoded again."""
    try:
        document = json.loads(body)
        encode(document)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def is_digest(text: str) -> bool:
    """Whether a text is a digest, with any algorithm."""
    return _DIGEST.fullmatch(text) is not None


def _read_digest(document: Any) -> str:
    digest = document["digest"]
    if not is_digest(digest):
        raise ValueError(digest)
    return str(digest)


def encode(document: Any, *, sort_keys: bool = False) -> bytes:
    """JSON without extra white space; the same bytes for the same document."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, sort_keys=sort_keys).encode()


def digest_of(body: bytes) -> str:
    """``sha256:`` and the hexadecimal SHA-256 of the bytes."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
