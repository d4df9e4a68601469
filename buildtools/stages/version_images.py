"""The images to try out for a version: the released ones, or those this checkout has built or pushed."""

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
    """A version to try out, and its images by name, each by its digest in a registry or its id in the engine.

    ``release`` is set if the images are those of a release.
    """

    version: str
    commit: str
    images: Mapping[str, str]
    release: Release | None = None

    @classmethod
    def of(cls, release: Release) -> VersionImages:
        """The images of a released version."""
        return cls(release.version, release.commit, pinned_images(release), release)


def version_images(task: TaskContext, name: str) -> VersionImages:
    """The images of a released version or a channel; without a ``name``, those this checkout has made of its version.

    These are the images in the engine, or else those that ``dist/VERSION/`` recorded of a push. Neither needs read
    access to the store, and neither is sure to be what will be released.

    :raises Refused: if there is no such release, or nothing was made of this version.
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
    """The images that a builder pushed but the engine lacks; empty for a dirty version, which may be outdated."""
    version = task.version
    try:
        return (
            {} if version.dirty else images_in((task.settings.root / "dist" / version.image_tag / COMPOSE).read_text())
        )
    except OSError:
        return {}


def _built(task: TaskContext) -> dict[str, str]:
    """The engine's ids of all images of the checkout's version; empty unless it has all of them."""
    images = {}
    for name in dict.fromkeys(folder.image for folder in task.image_folders()):
        image = task.services.engine.inspect(f"{name}:{task.version.image_tag}")
        if image is None:
            return {}
        images[name] = str(image["Id"])
    return images
