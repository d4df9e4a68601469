"""A version's image, made from a stored one: other labels, the same layers, and statements about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from buildtools.image.reference import Reference
from buildtools.image.registry.attestations import package_url, restated
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import StoredImage
from buildtools.image.registry.manifest import CREATED_LABEL, Manifest, platform_of, stamp
from buildtools.settings import MediaTypes


def stamped_image(
    source: StoredImage, labels: Mapping[str, str], media_types: MediaTypes, version: Reference, registry: Registry
) -> StoredImage:
    """The image of ``version``. Only statements about it are put into its repository.

    With statements, it has an index and OCI's media types.
    """
    config = stamp(source.config, labels)
    manifest = source.manifest.with_config(config, MediaTypes.OCI if source.attestations else media_types)
    if not source.attestations:
        return StoredImage(manifest, config)
    read = partial(registry.get_blob, version.repository)
    put = partial(registry.put_blob, version.repository)
    name, time = package_url(version, config), labels[CREATED_LABEL]
    attestations = tuple(restated(each, manifest, name, time, read, put) for each in source.attestations)
    image = StoredImage(manifest, config, attestations)
    platform = platform_of(config)
    return replace(image, index=Manifest.index({platform: manifest}, {platform: attestations}))
