"""What a registry has: images with their labels, fingerprints, and what can be thrown away."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from buildtools.image.cache import Cache
from buildtools.image.manifest import Manifest, labels_of
from buildtools.image.registry import Registry

_JOBS = 8


@dataclass(frozen=True)
class StoredImage:
    """An image in a registry: its manifest and its configuration, as bytes."""

    manifest: Manifest
    config: bytes

    @property
    def digest(self) -> str:
        """The image's digest."""
        return self.manifest.digest

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The labels that it carries."""
        return labels_of(self.config)


def fingerprint_tag(fingerprint: str) -> str:
    """The tag under which a registry holds the image with this fingerprint."""
    return f"fp-{fingerprint[:40]}"


def read_image(registry: Registry, repository: str, target: str, cache: Cache) -> StoredImage | None:
    """The image under a tag or digest; None where there is none, or its configuration is gone.

    :raises BuildToolsError: it is an index, which is not one image.
    """
    manifest = registry.get_manifest(repository, target)
    if manifest is None:
        return None
    digest = manifest.config.digest
    config = cache.config(digest)
    if config is None:
        config = registry.get_blob(repository, digest)
        if config is None:
            return None
        cache.remember_config(config)
    return StoredImage(manifest, config)


def is_intact(registry: Registry, repository: str, manifest: Manifest) -> bool:
    """Whether everything that a manifest names is there, in its full size; contents are not read."""
    return all(registry.blob_size(repository, one.digest) == one.size for one in (manifest.config, *manifest.layers))


def find_fingerprints(
    registry: Registry, wanted: Mapping[str, tuple[str, str]], cache: Cache
) -> dict[str, StoredImage | None]:
    """For each name, with its repository and fingerprint, the image that the registry has, if all of it is there."""

    def find(name: str) -> StoredImage | None:
        repository, fingerprint = wanted[name]
        found = read_image(registry, repository, fingerprint_tag(fingerprint), cache)
        return found if found and is_intact(registry, repository, found.manifest) else None

    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        return dict(zip(wanted, pool.map(find, wanted), strict=True))
