"""The status of every image folder: its fingerprint, and whether there is an image with that fingerprint."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, replace
from enum import Enum
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.frozen import frozen
from buildtools.image.bases import BaseImage
from buildtools.image.engine.client import Engine
from buildtools.image.engine.documents import EngineImage
from buildtools.image.folder.contents import Contents
from buildtools.image.folder.context import Selection
from buildtools.image.folder.fingerprint import Fingerprint, explain, folder_fingerprint, last_inputs, recorded_inputs
from buildtools.image.folder.folders import ImageFolder
from buildtools.image.folder.instructions import is_docker_frontend
from buildtools.image.generation import generation_of, other_parents
from buildtools.image.reference import image_name
from buildtools.image.registry.lookup import StoredImage, fingerprint_tag
from buildtools.image.registry.manifest import FINGERPRINT_LABEL, diff_ids_of
from buildtools.platform import Platform

_SECONDS_AN_HOUR = 3600


class BuildState(Enum):
    """Whether the image that a folder would build already exists."""

    UP_TO_DATE = "up to date"
    STALE = "stale"
    NOT_BUILT = "not built"
    UNKNOWN = "unknown"


@frozen
class ImageStatus:
    """One image folder and its image. ``image_id`` and ``tags`` are those of the existing image with this fingerprint.

    ``why`` says why there is none, as far as that is known. ``bases`` are the base images that it was surveyed with,
    and ``base_error`` says why one of its own cannot be used. ``registry_digest`` is that of the image to pull, if a
    registry has one.
    """

    folder: ImageFolder
    fingerprint: Fingerprint
    state: BuildState
    image_id: str = ""
    tags: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    bases: Mapping[str, BaseImage] = field(default_factory=dict, repr=False)
    base_error: BuildToolsError | None = None
    registry_digest: str = ""

    @property
    def name(self) -> str:
        """The image's name."""
        return self.folder.name

    @property
    def remotes(self) -> tuple[str, ...]:
        """The URLs that a build downloads and whose content is unknown before: the image is never up to date."""
        return self.folder.needs(_triggers(self.bases)).remotes

    def selection(self) -> Selection | None:
        """What a build may take from the context; None if only the frontend that reads the Dockerfile knows.

        A Dockerfile may use a frontend with other instructions, or build on an image whose configuration is unknown.

        :raises BuildToolsError: if the ignore file cannot be read, or has an invalid pattern.
        """
        if self.folder.dockerfile.syntax or not self._declares_all:
            return None
        return self.folder.selection(self.folder.needs(_triggers(self.bases)))

    def arguments(self) -> Mapping[str, str]:
        """The build arguments that a build may read. Its provenance would tell the others too."""
        syntax = self.folder.dockerfile.syntax
        if (syntax and not is_docker_frontend(syntax)) or not self._declares_all:
            return self.folder.arguments
        return self.folder.readable_arguments(_triggers(self.bases))

    @property
    def _declares_all(self) -> bool:
        """Whether the Dockerfile and the known ``ONBUILD`` instructions are all that is built."""
        unseen = any(not self.bases[base].digest for base in self.folder.bases)
        return not (unseen or "BUILDKIT_SYNTAX" in self.folder.arguments)


def survey(
    folders: Sequence[ImageFolder],
    bases: Mapping[Platform, Mapping[str, BaseImage]],
    *,
    cache: Path,
    learn: bool = True,
    base_errors: Mapping[str, BuildToolsError] | None = None,
) -> tuple[ImageStatus, ...]:
    """Each folder with its fingerprint, in the same order, which has parents first; see :func:`engine_statuses`.

    ``bases`` is the result of :func:`find_bases`, if there is one, and ``base_errors`` says why a base image cannot be
    used. The cache is updated only if ``learn``.
    """
    errors = base_errors or {}
    fingerprints: dict[str, Fingerprint] = {}
    statuses = []
    with Contents(cache, learn=learn) as contents:
        for folder in folders:
            own_bases = bases.get(folder.platform, {})
            fingerprint = _fingerprint(folder, fingerprints, own_bases, contents)
            fingerprints[folder.name] = fingerprint
            error = next((errors[name] for name in fingerprint.unknown if name in errors), None)
            error = error or _platform_error(folder, own_bases)
            why = ("no engine can be used; `invoke doctor` says why",)
            statuses.append(
                ImageStatus(folder, fingerprint, BuildState.UNKNOWN, why=why, bases=own_bases, base_error=error)
            )
    return tuple(statuses)


def engine_statuses(
    statuses: Sequence[ImageStatus],
    engine: Engine,
    *,
    cache: Path,
    repositories: Collection[str] = (),
    stored: Mapping[str, StoredImage] | None = None,
    is_final: bool = False,
) -> tuple[ImageStatus, ...]:
    """The state of each folder in an engine.

    ``repositories`` are all those that their names in the engine may have, if that is known. ``stored`` are images in a
    registry, by the names of their folders. Such an image is used if the engine has none, provided that it was built on
    the parents that are used. With ``is_final`` it is used in any case, even instead of another build in the engine.
    """
    images = _EngineImages(engine.images(FINGERPRINT_LABEL, repositories), cache)
    parents = {parent for each in statuses for parent in each.folder.parents}
    generations: dict[str, str] = {}
    result = []
    for each in statuses:
        in_registry = (stored or {}).get(each.name)
        parent_generations = {parent: generations.get(parent, "") for parent in each.folder.parents}
        status = images.status(each, parent_generations)
        if status.state is BuildState.UP_TO_DATE and (in_registry or each.name in parents):
            image = engine.content(status.image_id) or {"RootFS": {}}
            generations[each.name] = generation_of(image["RootFS"].get("Layers") or ())
        if in_registry and (is_final or not other_parents(in_registry.labels, parent_generations)):
            generation = generation_of(diff_ids_of(in_registry.config))
            if status.state is not BuildState.UP_TO_DATE or (is_final and generation != generations[each.name]):
                status = replace(status, state=BuildState.STALE, registry_digest=in_registry.digest)
                generations[each.name] = generation
        result.append(status)
    return tuple(result)


def registry_statuses(
    statuses: Sequence[ImageStatus],
    stored: Mapping[str, StoredImage],
    *,
    repository: Callable[[str], str],
    kept_name: Callable[[str, str], str],
    cache: Path,
    is_final: bool = False,
) -> tuple[ImageStatus, ...]:
    """The state of each folder in a registry, which has ``stored`` under their fingerprints, by the folders' names.

    ``repository`` returns the repository of a name, and ``kept_name`` the reference for a name and a fingerprint. With
    ``is_final`` the stored images are those of the version, whatever they were built on.
    """
    generations: dict[str, str] = {}
    result = []
    for each in statuses:
        image = stored.get(each.name)
        why = () if is_final and image else _unfit(each, image, generations)
        if each.base_error:
            status = replace(each, why=(each.base_error.fact,))
        elif each.fingerprint.unknown:
            reason = "the registry of base {} does not tell what it is"
            status = replace(each, why=tuple(map(reason.format, each.fingerprint.unknown)))
        elif image and not why:
            generations[each.name] = generation_of(diff_ids_of(image.config))
            image_id = f"{repository(each.name)}@{image.digest}"
            tags = (kept_name(each.name, each.fingerprint.value),)
            status = replace(each, state=BuildState.UP_TO_DATE, image_id=image_id, tags=tags, why=())
        elif image:
            status = replace(each, state=BuildState.STALE, why=why)
        else:
            inputs = last_inputs(cache, each.name)
            changes = explain(inputs, each.fingerprint.inputs) if inputs else ()
            why = changes or ("the registry does not have it",)
            status = replace(each, state=BuildState.STALE if changes else BuildState.NOT_BUILT, why=why)
        result.append(status)
    return tuple(result)


def _unfit(status: ImageStatus, image: StoredImage | None, generations: Mapping[str, str]) -> tuple[str, ...]:
    """Why an image in a registry is not good enough, although it has the fingerprint."""
    if image is None:
        return ()
    parents = {parent: generations.get(parent, "") for parent in status.folder.parents}
    return _reasons(status, (time.time() - image.created) / _SECONDS_AN_HOUR, other_parents(image.labels, parents))


def _reasons(status: ImageStatus, age: float, others: Sequence[str]) -> tuple[str, ...]:
    """Why an image with the right fingerprint is stale: its age in hours, or what it was built on."""
    limit = status.folder.settings.rebuild_after
    if limit and age > limit:
        return (f"built {age:.0f} hours ago, and rebuild_after is {limit:g}",)
    if status.remotes:
        advice = "ADD {} may bring something else by now: give it a checksum or a commit"
        return tuple(map(advice.format, status.remotes))
    return tuple(f"built on another build of its parent {name}" for name in others)


def changes_since(status: ImageStatus, parents: Mapping[str, Fingerprint], contents: Contents) -> tuple[str, ...]:
    """What has changed in a folder since it was surveyed; normally nothing."""
    now = _fingerprint(status.folder, parents, status.bases, contents)
    return explain(status.fingerprint.inputs, now.inputs)


def _fingerprint(
    folder: ImageFolder, parents: Mapping[str, Fingerprint], bases: Mapping[str, BaseImage], contents: Contents
) -> Fingerprint:
    return folder_fingerprint(
        folder,
        parents=parents,
        bases={name: base.digest for name, base in bases.items()},
        contents=contents,
        triggers=_triggers(bases),
    )


def _platform_error(folder: ImageFolder, bases: Mapping[str, BaseImage]) -> Refused | None:
    """The error if a base image is not to be had for the platform that it is built on for; None if all are."""
    for base in folder.outside(_triggers(bases)):
        image = bases.get(base.image)
        if image and image.other_platforms:
            others = ", ".join(map(str, image.other_platforms))
            return Refused(
                f"{folder.where(base)}: {base.image} is not to be had for {base.platform}, but for {others}",
                "name another base image, or another platform",
            )
    return None


def _triggers(bases: Mapping[str, BaseImage]) -> dict[str, tuple[str, ...]]:
    return {name: base.triggers for name, base in bases.items() if base.triggers}


def engine_name(name: str, fingerprint: str) -> str:
    """The name in an engine of an image with this fingerprint.

    The label alone is not enough, because images built on top of an image inherit its labels.
    """
    return f"{image_name(name)}:{fingerprint_tag(fingerprint)}"


class _EngineImages:
    """An engine's images by each of their names, and the newest one by its folder's name."""

    def __init__(self, images: Sequence[EngineImage], cache: Path) -> None:
        self._cache = cache
        self._by_tag = {tag: image for image in images for tag in image.tags}
        self._by_name: dict[str, EngineImage] = {}
        for image in sorted(images, key=lambda image: image.created, reverse=True):
            for tag in image.tags:
                self._by_name.setdefault(tag.rpartition(":")[0].rpartition("/")[2], image)

    def status(self, unknown: ImageStatus, generations: Mapping[str, str]) -> ImageStatus:
        """The state of a folder whose parents have these generations."""
        folder, fingerprint = unknown.folder, unknown.fingerprint
        unknown = replace(unknown, state=BuildState.UNKNOWN, image_id="", tags=(), registry_digest="")
        if unknown.base_error:
            return replace(unknown, why=(unknown.base_error.fact,))
        if fingerprint.unknown:
            reason = "base {} is neither in the engine nor can its registry be asked"
            why = tuple(map(reason.format, fingerprint.unknown))
            return replace(unknown, why=why)
        image = self._by_tag.get(engine_name(folder.name, fingerprint.value))
        if image and image.labels.get(FINGERPRINT_LABEL) == fingerprint.value:
            age = (time.time() - image.created) / _SECONDS_AN_HOUR
            why = _reasons(unknown, age, other_parents(image.labels, generations))
            if why:
                return replace(unknown, state=BuildState.STALE, why=why)
            return replace(unknown, state=BuildState.UP_TO_DATE, image_id=image.id, tags=image.tags, why=())
        last = self._by_name.get(folder.image)
        if last is None:
            return replace(unknown, state=BuildState.NOT_BUILT, why=("never built in this engine",))
        if inputs := recorded_inputs(self._cache, folder.name, last.labels.get(FINGERPRINT_LABEL, "")):
            return replace(unknown, state=BuildState.STALE, why=explain(inputs, fingerprint.inputs))
        # It may be another project's: their names in the engine are the same.
        state = BuildState.STALE if last_inputs(self._cache, folder.name) else BuildState.NOT_BUILT
        why = (f"the engine's newest {folder.image} has other inputs, and this project has no record of them here",)
        return replace(unknown, state=state, why=why)
