"""External base images of image folders: which exact image each name means, and its ``ONBUILD`` instructions.

A base image is an input of the images built on it in two ways: by its digest, and by its ``ONBUILD`` instructions,
which run in the child's build and may copy from its context. The engine is asked first, because it builds on what it
has. If it lacks the image, BuildKit fetches it without putting it into the engine, so the registry is asked for the
digest and the configuration. Both give the same answer for the same image, so agents with and without it agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from buildtools import BuildToolsError, Unreachable
from buildtools.frozen import frozen
from buildtools.image.engine.client import Engine
from buildtools.image.folder.folders import ImageFolder
from buildtools.image.reference import Reference
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import fingerprint_tag
from buildtools.image.registry.manifest import (
    FINGERPRINT_LABEL,
    Damaged,
    Manifest,
    OtherPlatforms,
    check_config,
    onbuild_of,
)
from buildtools.platform import Platform

# Registries answer eight questions in parallel about as fast as one.
_JOBS = 8
_NO_IMAGE = "scratch"


@frozen
class BaseImage:
    """A base image, with its ``ONBUILD`` instructions.

    ``digest`` is empty if neither engine nor registry knows the image; ``unreachable`` is True if the registry did not
    answer, and ``other_platforms`` are those that it has the image for, if it lacks the one that is wanted.
    ``kept_name`` is its name in the engine if an image of this project takes its own name.
    """

    reference: str
    digest: str = ""
    triggers: tuple[str, ...] = ()
    unreachable: bool = False
    other_platforms: tuple[Platform, ...] = ()
    kept_name: str = ""


def find_bases(
    folders: Sequence[ImageFolder],
    engine: Engine | None,
    registry_at: Callable[[str], Registry],
    cache: Cache,
    own_names: Collection[str] = (),
) -> dict[Platform, dict[str, BaseImage]]:
    """All external base images of the folders, including those that an ``ONBUILD`` names.

    The keys are the platform of a folder's image, and the reference, which may mean another image on each platform.
    ``own_names`` are the names that the folders' images get in the engine; a base image may have the same name.
    """
    bases: dict[Platform, dict[str, BaseImage]] = {folder.platform: {} for folder in folders}
    find = partial(_find, engine=engine, registry_at=registry_at, cache=cache, own_names=own_names)
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        while True:
            missing = _missing(folders, bases)
            if not missing:
                return bases
            images = pool.map(find, *zip(*missing, strict=True))
            for platforms, base_image in zip(missing.values(), images, strict=True):
                for platform in platforms:
                    bases[platform][base_image.reference] = base_image


def _missing(
    folders: Sequence[ImageFolder], bases: Mapping[Platform, Mapping[str, BaseImage]]
) -> dict[tuple[str, Platform], set[Platform]]:
    """The base images that were not looked up yet, by reference and platform, with the platforms of their folders.

    The variants of an image share most of them. One with ``ONBUILD`` may need more.
    """
    missing: dict[tuple[str, Platform], set[Platform]] = {}
    for folder in folders:
        known = bases[folder.platform]
        for base in folder.outside({name: each.triggers for name, each in known.items()}):
            if base.image not in known:
                missing.setdefault((base.image, base.platform), set()).add(folder.platform)
    return missing


def _find(
    reference: str,
    platform: Platform,
    *,
    engine: Engine | None,
    registry_at: Callable[[str], Registry],
    cache: Cache,
    own_names: Collection[str],
) -> BaseImage:
    if reference == _NO_IMAGE:
        return BaseImage(reference, _NO_IMAGE)
    kept_name = f"{reference}-outside" if reference in own_names else ""
    if kept_name and engine:
        image = engine.inspect(reference)
        if image is None or is_built_here(image, reference):
            image = engine.inspect(kept_name)
        # If that is missing too, the engine has to pull the image, which gives it its own name back.
        return replace(_in_engine(image, reference), kept_name=kept_name) if image else BaseImage(reference)
    name = Reference.parse(reference)
    image = (engine.inspect(reference) if engine else None) or {}
    in_engine = None
    if image and _is_for(image, platform):
        in_engine = _in_engine(image, reference)
        if name.digest or len(_digests(image, name)) < 2:
            return in_engine
    try:
        in_registry = _read(registry_at(name.registry), reference, platform, cache)
    except BuildToolsError as error:
        # The engine may still get it, through a mirror or a login of its own; the build will show.
        return in_engine or BaseImage(reference, unreachable=isinstance(error, Unreachable))
    if in_engine is None:
        return in_registry
    # An engine that pulled an image both alone and as part of an index knows it by two digests.
    return replace(in_engine, digest=in_registry.digest) if in_registry.digest in _digests(image, name) else in_engine


def _read(registry: Registry, reference: str, platform: Platform, cache: Cache) -> BaseImage:
    """An image in its registry; without a digest if the registry does not have it, or for other platforms only.

    :raises Damaged: if it cannot be read.
    """
    name = Reference.parse(reference)
    descriptor = None if name.digest else registry.head_manifest(name.repository, name.target)
    digest = name.digest or (descriptor.digest if descriptor else "")
    manifest = _manifest(registry, name, digest, cache) if digest else None
    if manifest and manifest.is_index:
        index = manifest
        try:
            manifest = _manifest(registry, name, index.image_for(platform), cache)
        except OtherPlatforms:
            return BaseImage(reference, other_platforms=tuple(index.platforms))
    if manifest is None:
        return BaseImage(reference)
    config = cache.config(manifest.config.digest) or registry.get_blob(name.repository, manifest.config.digest)
    if config is None:
        raise Damaged(f"{reference} has no configuration", "push the image again")
    check_config(config)
    cache.remember_config(config)
    return BaseImage(reference, digest, onbuild_of(config))


def _manifest(registry: Registry, name: Reference, digest: str, cache: Cache) -> Manifest | None:
    manifest = cache.manifest(digest) or registry.get_manifest(name.repository, digest)
    if manifest:
        cache.remember_manifest(manifest)
    return manifest


def _in_engine(image: dict[str, Any], reference: str) -> BaseImage:
    name = Reference.parse(reference)
    # An image from a registry has the same digest on every machine; its id may differ between stores.
    digest = name.digest or min(_digests(image, name), default=str(image["Id"]))
    return BaseImage(reference, digest, tuple((image.get("Config") or {}).get("OnBuild") or ()))


def _digests(image: dict[str, Any], name: Reference) -> set[str]:
    """The digests by which an engine knows an image of this repository."""
    return {each.digest for each in map(Reference.parse, image.get("RepoDigests") or ()) if each.name == name.name}


def is_built_here(image: Mapping[str, Any], reference: str) -> bool:
    """Whether an image of the engine was built and named by us, rather than pulled under this name."""
    labels = (image.get("Config") or {}).get("Labels") or {}
    own_name = f"{reference.rpartition(':')[0]}:{fingerprint_tag(labels.get(FINGERPRINT_LABEL, ''))}"
    return own_name in (image.get("RepoTags") or ())


def _is_for(image: dict[str, Any], platform: Platform) -> bool:
    """Whether BuildKit would use this image of the engine; for another platform it asks the registry."""
    try:
        return Platform.parse(f"{image['Os']}/{image['Architecture']}").architecture == platform.architecture
    except (KeyError, ValueError):
        # Of an index whose image for its own platform is not there, containerd's store tells no platform.
        return "Descriptor" not in image
