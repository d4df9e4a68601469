"""The status of every image folder: its fingerprint, and whether the engine has an image with that fingerprint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from enum import Enum
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.frozen import frozen
from buildtools.image.bases import BaseImage
from buildtools.image.engine.documents import EngineImage
from buildtools.image.folder.contents import Contents
from buildtools.image.folder.context import Selection
from buildtools.image.folder.fingerprint import Fingerprint, explain, folder_fingerprint, recorded_inputs
from buildtools.image.folder.folders import ImageFolder
from buildtools.image.registry.lookup import fingerprint_tag
from buildtools.image.registry.manifest import FINGERPRINT_LABEL

_SECONDS_AN_HOUR = 3600


class BuildState(Enum):
    """Whether the engine has what an image folder would build."""

    UP_TO_DATE = "up to date"
    STALE = "stale"
    NOT_BUILT = "not built"
    UNKNOWN = "unknown"


@frozen
class ImageStatus:
    """One image folder and its image. ``image_id`` and ``tags`` are those of the engine's image with this fingerprint.

    ``why`` says why none matches, as far as it is known. ``bases`` are the base images that it was surveyed with, and
    ``base_error`` what keeps one of its own from being had.
    """

    folder: ImageFolder
    fingerprint: Fingerprint
    state: BuildState
    image_id: str = ""
    tags: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    bases: Mapping[str, BaseImage] = field(default_factory=dict, repr=False)
    base_error: BuildToolsError | None = None

    @property
    def name(self) -> str:
        """The image's name."""
        return self.folder.name

    def selection(self) -> Selection | None:
        """What a build may take of the context; None where that is only known to whoever reads the Dockerfile.

        It may ask for a frontend that knows other instructions, or build on an image that nobody has seen inside.

        :raises BuildToolsError: the ignore file cannot be read, or has an invalid pattern.
        """
        unseen = any(not self.bases[base].digest for base in self.folder.bases)
        if unseen or self.folder.dockerfile.syntax or "BUILDKIT_SYNTAX" in self.folder.arguments:
            return None
        return self.folder.selection(self.folder.needs(_triggers(self.bases)))


def survey(
    folders: Sequence[ImageFolder],
    bases: Mapping[str, BaseImage],
    *,
    cache: Path,
    learn: bool = True,
    base_errors: Mapping[str, BuildToolsError] | None = None,
) -> tuple[ImageStatus, ...]:
    """Each folder with its fingerprint, in their order, which has parents first; see :func:`engine_statuses`.

    ``base_errors`` says why a base image cannot be had. Unless ``learn``, the cache stays as it is.
    """
    errors = base_errors or {}
    fingerprints: dict[str, Fingerprint] = {}
    statuses = []
    with Contents(cache, learn=learn) as contents:
        for folder in folders:
            fingerprint = _fingerprint(folder, fingerprints, bases, contents)
            fingerprints[folder.name] = fingerprint
            error = next((errors[name] for name in fingerprint.unknown if name in errors), None)
            why = ("no engine answers",)
            statuses.append(
                ImageStatus(folder, fingerprint, BuildState.UNKNOWN, why=why, bases=bases, base_error=error)
            )
    return tuple(statuses)


def engine_statuses(
    statuses: Sequence[ImageStatus], images: Sequence[EngineImage], *, cache: Path
) -> tuple[ImageStatus, ...]:
    """Where each folder stands in an engine, which has these images that carry a fingerprint."""
    engine_images = _EngineImages(images)
    return tuple(
        replace(
            _status(each.folder, each.fingerprint, engine_images, cache), bases=each.bases, base_error=each.base_error
        )
        for each in statuses
    )


def changes_since(status: ImageStatus, parents: Mapping[str, Fingerprint], contents: Contents) -> tuple[str, ...]:
    """What has changed in a folder since it was surveyed; nothing, as a rule."""
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


def _triggers(bases: Mapping[str, BaseImage]) -> dict[str, tuple[str, ...]]:
    return {name: base.triggers for name, base in bases.items() if base.triggers}


def engine_name(name: str, fingerprint: str) -> str:
    """What an image with this fingerprint is called in an engine.

    The label alone does not tell: what somebody builds or commits on top of an image has the same labels.
    """
    return f"{name}:{fingerprint_tag(fingerprint)}"


class _EngineImages:
    """An engine's images by each of their names, and the newest by the name of its folder."""

    def __init__(self, images: Sequence[EngineImage]) -> None:
        self.by_tag = {tag: image for image in images for tag in image.tags}
        self.by_name: dict[str, EngineImage] = {}
        for image in sorted(images, key=lambda image: image.created, reverse=True):
            for tag in image.tags:
                self.by_name.setdefault(tag.rpartition(":")[0].rpartition("/")[2], image)


def _status(folder: ImageFolder, fingerprint: Fingerprint, engine_images: _EngineImages, cache: Path) -> ImageStatus:
    if fingerprint.unknown:
        why = tuple(
            f"base {name} is neither in the engine nor can its registry be asked" for name in fingerprint.unknown
        )
        return ImageStatus(folder, fingerprint, BuildState.UNKNOWN, why=why)
    image = engine_images.by_tag.get(engine_name(folder.name, fingerprint.value))
    if image and image.labels.get(FINGERPRINT_LABEL) == fingerprint.value:
        age = (time.time() - image.created) / _SECONDS_AN_HOUR
        limit = folder.settings.rebuild_after
        if limit and age > limit:
            why = (f"built {age:.0f} hours ago, and rebuild_after is {limit:g}",)
            return ImageStatus(folder, fingerprint, BuildState.STALE, why=why)
        return ImageStatus(folder, fingerprint, BuildState.UP_TO_DATE, image.id, image.tags)
    last = engine_images.by_name.get(folder.name)
    if last is None:
        return ImageStatus(folder, fingerprint, BuildState.NOT_BUILT, why=("never built in this engine",))
    inputs = recorded_inputs(cache, folder.name, last.labels.get(FINGERPRINT_LABEL, ""))
    why = (
        explain(inputs, fingerprint.inputs)
        if inputs
        else ("changed since it was built; what changed was not recorded on this machine",)
    )
    return ImageStatus(folder, fingerprint, BuildState.STALE, why=why)
