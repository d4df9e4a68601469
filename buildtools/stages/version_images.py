"""Which images are tried out as those of a version: the released ones, or what this checkout has built or pushed."""

from __future__ import annotations

from collections.abc import Mapping

from buildtools import Refused
from buildtools.compose import images_in
from buildtools.frozen import frozen
from buildtools.release import Release
from buildtools.stages.outputs import COMPOSE, pinned_images
from buildtools.stages.releases import named_release
from buildtools.task_context import TaskContext


@frozen
class VersionImages:
    """A version to be tried out, and its images by name, each by digest: a registry's, or the engine's own id.

    ``release`` is there where they are those of a release.
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
    """The release of a version or a channel; without a ``name``, what this checkout has made of its version.

    That is what is built in the engine, else what ``dist/VERSION/`` tells of a push: neither needs rights to read the
    store, and nobody can say that what will be released is the same.

    :raises Refused: there is no such release, or nothing was made of this version.
    """
    if name:
        return VersionImages.of(named_release(task, name))
    version = task.version
    if images := _built(task) or _pushed(task):
        return VersionImages(version.text, version.commit, images)
    raise Refused(
        f"not all images of {version} are built", "run `invoke build` first, or name a release: --release VERSION"
    )


def _pushed(task: TaskContext) -> dict[str, str]:
    """What was pushed by a builder that keeps nothing in the engine. What is dirty may be another by now."""
    version = task.version
    try:
        return (
            {} if version.dirty else images_in((task.settings.root / "dist" / version.image_tag / COMPOSE).read_text())
        )
    except OSError:
        return {}


def _built(task: TaskContext) -> dict[str, str]:
    """The engine's ids of the images of the checkout's version; nothing unless it has all of them."""
    images = {}
    for name in dict.fromkeys(folder.image for folder in task.image_folders()):
        image = task.services.engine.inspect(f"{name}:{task.version.image_tag}")
        if image is None:
            return {}
        images[name] = str(image["Id"])
    return images
