"""Which images are tried out as those of a version: the released ones, or what this checkout has pushed or built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildtools import Refused
from buildtools.compose import images_in
from buildtools.frozen import frozen
from buildtools.release import Release
from buildtools.stages.outputs import COMPOSE, RELEASE, pinned_images
from buildtools.stages.releases import named_release, released_version
from buildtools.task_context import TaskContext


@frozen
class VersionImages:
    """A version to be tried out, and its images by name, each by digest: a registry's, or the engine's own id.

    ``release`` is there where the version is released.
    """

    version: str
    commit: str
    images: Mapping[str, str]
    release: Release | None = None

    @classmethod
    def of(cls, release: Release) -> VersionImages:
        """A released version."""
        return cls(release.version, release.commit, pinned_images(release), release)


def version_images(task: TaskContext, name: str) -> VersionImages:
    """The release of a version or a channel; without a ``name`` the version of the checkout.

    That one is what ``dist/VERSION/`` tells of a push or a release made here, else what is built in the engine, else
    the release in the store. The first two need no rights to read the store.

    :raises Refused: there is no such release, or nothing of this version.
    """
    if name:
        return VersionImages.of(named_release(task, name))
    version = task.version
    # What is dirty may have been built anew since it was pushed.
    if not version.dirty and (pushed := _pushed(task, task.settings.root / "dist" / version.image_tag)):
        return pushed
    if images := _built(task):
        return VersionImages(version.text, version.commit, images)
    if task.settings.artifacts and not version.dirty:
        return VersionImages.of(released_version(task, version))
    raise Refused(f"not all images of {version} are built", "run `invoke build` first, or name a released version")


def _pushed(task: TaskContext, folder: Path) -> VersionImages | None:
    version = task.version
    try:
        if (manifest := folder / RELEASE).exists():
            release = Release.parse(manifest.read_bytes(), str(manifest))
            return VersionImages.of(release) if release.commit == version.commit else None
        images = images_in((folder / COMPOSE).read_text())
    except OSError:
        return None
    return VersionImages(version.text, version.commit, images) if images else None


def _built(task: TaskContext) -> dict[str, str]:
    """The engine's ids of the images of the checkout's version; nothing unless it has all of them."""
    images = {}
    for name in dict.fromkeys(folder.image for folder in task.image_folders()):
        image = task.services.engine.inspect(f"{name}:{task.version.image_tag}")
        if image is None:
            return {}
        images[name] = str(image["Id"])
    return images
