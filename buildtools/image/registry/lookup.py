"""Look up images in a registry, with labels and fingerprints, and delete fingerprints that are no longer needed."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from types import MappingProxyType

from buildtools import BuildToolsError, Refused
from buildtools.frozen import frozen
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import (
    FINGERPRINT_LABEL,
    VERSION_LABEL,
    Damaged,
    Descriptor,
    Manifest,
    OtherPlatforms,
    check_image,
    labels_of,
)
from buildtools.platform import Platform

_JOBS = 8
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# https://github.com/moby/buildkit/blob/master/docs/attestations/attestation-storage.md
_PREDICATE_TYPE = "in-toto.io/predicate-type"
_PROVENANCE = "https://slsa.dev/provenance/"
_FINGERPRINT_TAG = re.compile(r"fp-[0-9a-f]{32,}")


@frozen
class StoredImage:
    """An image in a registry: its manifest and the bytes of its configuration.

    ``attestations`` are the manifests of its attestations. ``index`` is the index of both, if it lists no other image.
    """

    manifest: Manifest
    config: bytes
    attestations: tuple[Manifest, ...] = ()
    index: Manifest | None = None

    @property
    def digest(self) -> str:
        """The image's digest; with attestations, that of the index with both."""
        return (self.index or self.manifest).digest

    @property
    def parts(self) -> tuple[Descriptor, ...]:
        """All blobs of the image."""
        return tuple(part for each in (self.manifest, *self.attestations) for part in (each.config, *each.layers))

    @property
    def attested(self) -> frozenset[str]:
        """What is attested about it, in the words of the settings: ``provenance``, ``sbom``."""
        layers = (layer for each in self.attestations for layer in each.document["layers"])
        types = [str((layer.get("annotations") or {}).get(_PREDICATE_TYPE, "")) for layer in layers]
        return frozenset("provenance" if each.startswith(_PROVENANCE) else "sbom" for each in types)

    @property
    def created(self) -> float:
        """When it was built, in seconds since 1970; 0 if unknown."""
        try:
            return datetime.fromisoformat(json.loads(self.config)["created"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):
            return 0.0

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return labels_of(self.config)


def fingerprint_tag(fingerprint: str) -> str:
    """The tag in a registry of the image with this fingerprint."""
    return f"fp-{fingerprint[:40]}"


class KnownParts:
    """Parts of images that a registry is known to have. Thread-safe: only one thread asks for a part.

    A part may have been seen in a sibling repository. Registries keep one copy for all, so it is not requested again.
    If only one repository has lost it, the registry rejects any manifest there that names it.
    """

    def __init__(self, parts: Iterable[Descriptor] = ()) -> None:
        self._parts = set(parts)
        self._locks: dict[Descriptor, threading.Lock] = {}

    def add(self, part: Descriptor) -> None:
        """Add a known part."""
        self._parts.add(part)

    def has(self, registry: Registry, repository: str, part: Descriptor) -> bool:
        """Whether the registry has a part in its full size."""
        with self._locks.setdefault(part, threading.Lock()):
            if part not in self._parts:
                if registry.blob_size(repository, part.digest) != part.size:
                    return False
                self._parts.add(part)
            return True


class ImageLookup:
    """Looks up images in a registry. A configuration is taken from ``cache`` if it is there.

    ``parts`` are those that the registry is known to have: they are not asked for, and what is found is added. Without
    it, every question about the parts of an image goes to the registry.
    """

    def __init__(self, registry: Registry, cache: Cache, parts: KnownParts | None = None) -> None:
        self._registry = registry
        self._cache = cache
        self._parts = parts

    def read(self, repository: str, target: str, platform: Platform | None = None) -> StoredImage | None:
        """The image with a tag or digest; None if there is none, or its configuration is missing.

        For an index, that is its image for ``platform``, or its only image if no platform is given.

        :raises OtherPlatforms: if it is an index without that platform, or with several.
        :raises Damaged: if it is not an image that can be pulled.
        """
        manifest = self._registry.get_manifest(repository, target)
        return self.image_of(repository, manifest, platform) if manifest else None

    def image_of(self, repository: str, manifest: Manifest, platform: Platform | None = None) -> StoredImage | None:
        """Like :meth:`read`, for a manifest that was read before."""
        if not manifest.is_index:
            return self._with_config(repository, manifest)
        digest = manifest.platforms.get(platform) if platform else manifest.only_image
        if digest is None:
            raise OtherPlatforms(f"the index {manifest.digest} has no image for {platform}", "name another platform")
        image = self._image_of_index(repository, manifest, digest)
        return replace(image, index=manifest) if image and image.attestations and not platform else image

    def variants_of(
        self, repository: str, manifest: Manifest | None
    ) -> tuple[str, Mapping[str, StoredImage | None]] | None:
        """The digest of what a version's tag points to, and its image, or those of several platforms by platform.

        None if there is none.

        :raises Damaged: if one is not an image that can be pulled.
        """
        if manifest and manifest.is_index and len(manifest.platforms) > 1:
            return manifest.digest, {
                str(platform): self._image_of_index(repository, manifest, each)
                for platform, each in manifest.platforms.items()
            }
        image = self.image_of(repository, manifest) if manifest else None
        return (image.digest, {"": image}) if image else None

    def with_fingerprint(self, repository: str, fingerprint: str) -> StoredImage | None:
        """The image with this fingerprint, whether or not all of its parts are there; None if there is none.

        Anybody may move a tag, so the image's own label must match too.
        """
        try:
            image = self.read(repository, fingerprint_tag(fingerprint))
        except Damaged:
            return None
        return image if image and image.labels.get(FINGERPRINT_LABEL) == fingerprint else None

    def intact(self, repository: str, fingerprint: str) -> StoredImage | None:
        """The image with this fingerprint; None if there is none, or a part of it is missing or truncated."""
        image = self.with_fingerprint(repository, fingerprint)
        return image if image and self.is_whole(repository, image) else None

    def to_stamp(self, repository: str, fingerprint: str) -> StoredImage | None:
        """The image with this fingerprint, to make a version from; None if there is none, or a layer is incomplete.

        A version gets its own configuration, made from one that is at hand, so the stored configuration need not be
        there.
        """
        image = self.with_fingerprint(repository, fingerprint)
        return image if image and self._has_all(repository, image.parts[1:]) else None

    def is_whole(self, repository: str, image: StoredImage) -> bool:
        """Whether all parts of an image are there, in their full size; their content is not read."""
        return self._has_all(repository, image.parts)

    def _has_all(self, repository: str, parts: Iterable[Descriptor]) -> bool:
        known_parts = self._parts or KnownParts()
        return all(known_parts.has(self._registry, repository, part) for part in parts)

    def _image_of_index(self, repository: str, index: Manifest, digest: str) -> StoredImage | None:
        """One image of an index, with its attestations; None if a part of either is missing."""
        manifest = self._registry.get_manifest(repository, digest)
        image = self._with_config(repository, manifest) if manifest else None
        attestations = [
            self._registry.get_manifest(repository, each) for each in index.attestations_of(digest) if image
        ]
        if image is None or None in attestations:
            return None
        # A manifest without layers attests nothing.
        return replace(image, attestations=tuple(each for each in attestations if each and each.layers))

    def _with_config(self, repository: str, manifest: Manifest) -> StoredImage | None:
        digest = manifest.config.digest
        config = self._cache.config(digest)
        if config is None:
            config = self._registry.get_blob(repository, digest)
            if config is None:
                return None
            self._cache.remember_config(config)
            if self._parts and len(config) == manifest.config.size:
                self._parts.add(manifest.config)
        check_image(manifest, config)
        return StoredImage(manifest, config)


def find_fingerprints(
    registry: Registry, places: Mapping[str, tuple[str, str]], cache: Cache
) -> dict[str, StoredImage | None]:
    """For each name, with its repository and fingerprint, the image in the registry, if all of it is there."""
    lookup = ImageLookup(registry, cache, KnownParts())

    def find(place: tuple[str, str]) -> StoredImage | None:
        try:
            return lookup.intact(*place)
        except Refused:
            # Some registries deny access to what does not exist.
            return None

    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        return dict(zip(places, pool.map(find, places.values()), strict=True))


def image_manifests(
    registry: Registry, repository: str, digest: str, manifests: Mapping[str, Manifest] = MappingProxyType({})
) -> Iterator[tuple[Manifest, tuple[Descriptor, ...]]]:
    """The manifests of an image, each with the blobs that it names; those that an index lists come before it.

    Those in ``manifests``, by digest, are not read.

    :raises Damaged: if one is missing, or is not a manifest.
    """
    manifest = manifests.get(digest) or registry.get_manifest(repository, digest)
    if manifest is None:
        raise _missing(registry, repository, digest)
    yield from manifests_below(registry, repository, manifest, manifests)


def manifests_below(
    registry: Registry, repository: str, manifest: Manifest, manifests: Mapping[str, Manifest] = MappingProxyType({})
) -> Iterator[tuple[Manifest, tuple[Descriptor, ...]]]:
    """Like :func:`image_manifests`, of an image whose own manifest is known.

    :raises Damaged: if one that it lists is missing, or is not a manifest.
    """
    if not manifest.is_index:
        yield manifest, (manifest.config, *manifest.layers)
        return
    for entry in manifest.entries:
        yield from image_manifests(registry, repository, entry.digest, manifests)
    yield manifest, ()


def download_blob(registry: Registry, repository: str, digest: str, write: Callable[[bytes], object]) -> None:
    """Pass a blob to ``write`` as it arrives.

    :raises Damaged: if it is missing, or does not match its digest.
    """
    if not registry.download_blob(repository, digest, write):
        raise _missing(registry, repository, digest)


def refuse_damaged(registry: Registry, repository: str, digest: str) -> None:
    """Read all of an image, and raise :class:`Damaged` unless it is there, byte for byte.

    :raises Damaged: if a part is missing or does not match its digest.
    """
    for _, blobs in image_manifests(registry, repository, digest):
        for blob in blobs:
            download_blob(registry, repository, blob.digest, lambda _: None)


def _missing(registry: Registry, repository: str, digest: str) -> Damaged:
    return Damaged(f"{registry.host}/{repository} does not have {digest}", "push the image again")


def tag_digest(registry: Registry, repository: str, tag: str) -> str | None:
    """The digest that a tag points to; None if there is no such tag."""
    descriptor = registry.head_manifest(repository, tag)
    return descriptor.digest if descriptor else None


def move_tag(registry: Registry, repository: str, tag: str, digest: str) -> None:
    """Point a tag to an image of the same repository, byte for byte the same.

    :raises BuildToolsError: if the repository has no such image.
    """
    manifest = registry.get_manifest(repository, digest)
    if manifest is None:
        raise BuildToolsError(f"{registry.host}/{repository} has no image {digest}", "push it first")
    registry.put_manifest(repository, tag, manifest)


def prune_fingerprints(
    registry: Registry, repository: str, keep: Collection[str], most: int, cache: Cache
) -> list[str]:
    """Delete the oldest fingerprint tags so that at most ``most`` remain, and those in ``keep``; returns those deleted.

    Versions lose nothing: their own manifests name the layers that they share with what is deleted. If the registry
    does not support deletion, nothing happens.
    """
    tags = [tag for tag in registry.tags(repository) if _FINGERPRINT_TAG.fullmatch(tag)]
    surplus = len(tags) - most
    if surplus <= 0:
        return []
    keep_tags = {fingerprint_tag(fingerprint) for fingerprint in keep}
    lookup = ImageLookup(registry, cache)
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        images = dict(zip(tags, pool.map(lambda tag: lookup.read(repository, tag), tags), strict=True))
    oldest = sorted((image.created if image else 0.0, tag) for tag, image in images.items() if tag not in keep_tags)
    names = []
    for _, tag in oldest[:surplus]:
        image = images[tag]
        digest = image.digest if image else tag_digest(registry, repository, tag)
        # A digest is deleted with all its tags. An image that was built with all labels has the same digest as its
        # version.
        version = image.labels.get(VERSION_LABEL, "") if image else ""
        if digest is None or (_TAG.fullmatch(version) and tag_digest(registry, repository, version) == digest):
            continue
        if not registry.delete_manifest(repository, digest):
            break
        names.append(tag)
    return names
