"""Pruning in the engine: the names of each image's newest versions stay, all others are removed.

An image belongs to this project if it has the name made from the fingerprint in its label. The label alone is not
enough, because images built on top of it inherit it. That name is removed last, and only if no other name is left, so
the next run finishes what a killed run began.
"""

from __future__ import annotations

from collections.abc import Collection

from buildtools.image.engine.documents import EngineImage
from buildtools.image.reference import image_name
from buildtools.image.registry.manifest import FINGERPRINT_LABEL
from buildtools.image.survey import engine_name
from buildtools.stages.leftovers import Leftover, LeftoverKind, days_since_tagged, repositories_in_engine
from buildtools.task_context import TaskContext
from buildtools.version import Version


def surplus_names(task: TaskContext, keep: int, days: int, prefix: str) -> tuple[Leftover, ...]:
    """The names of all but the newest ``keep`` versions of each image, and then those that no version needs.

    Only versions that start with ``prefix`` count, and only images that got no name for ``days`` days. The version of
    the checkout stays, and so does every image that a container uses.

    :raises UnusableEngine: if there is no engine.
    """
    engine = task.services.engine
    images = engine.images(FINGERPRINT_LABEL)
    with engine.errors():
        in_containers = {container["ImageID"] for container in engine.api.containers(all=True)}
    names: list[Leftover] = []
    for name in dict.fromkeys(image_name(folder.image) for folder in task.image_folders()):
        own = [each for each in images if _fingerprint_name(name, each) in each.tags]
        versions = {tag for each in own for tag in _versions(name, each) if tag.startswith(prefix)}
        newest = sorted(versions, key=Version.parse, reverse=True)[:keep]
        outdated = versions - {*newest, task.version.image_tag}
        # Variants for several platforms have no version name.
        nameless = [each for each in own if _fingerprint_names(task, name, each).issuperset(each.tags)]
        spare = {each.id for each in sorted(nameless, key=lambda each: -each.created)[keep:]}
        for image in own:
            surplus = _surplus(task, name, image, outdated, is_spare=image.id in spare)
            if not surplus or image.id in in_containers:
                continue
            age = days_since_tagged(engine.inspect(image.id) or {}, image)
            names += [Leftover(LeftoverKind.IMAGE, each, age) for each in surplus if age >= days]
    return tuple(names)


def _surplus(
    task: TaskContext, name: str, image: EngineImage, outdated: Collection[str], *, is_spare: bool
) -> list[str]:
    """The names of an image that are to be removed."""
    repositories = repositories_in_engine(task, name)
    names = [tag for tag in image.tags if tag.rpartition(":")[0] in repositories and tag.rpartition(":")[2] in outdated]
    rest = set(image.tags) - set(names)
    if rest <= _fingerprint_names(task, name, image) and (names or is_spare):
        names += sorted(rest, key=_fingerprint_name(name, image).__eq__)
    return names


def _versions(name: str, image: EngineImage) -> list[str]:
    """The versions among an image's names; a name without a digit was made by the user."""
    tags = [tag for repository, _, tag in (each.rpartition(":") for each in image.tags) if repository == name]
    return [tag for tag in tags if not tag.startswith("fp-") and any(map(str.isdigit, tag))]


def _fingerprint_names(task: TaskContext, name: str, image: EngineImage) -> set[str]:
    """The image's fingerprint names: the local one, and the one with the registry if it was pulled from there."""
    tag = _fingerprint_name(name, image).rpartition(":")[2]
    return {f"{repository}:{tag}" for repository in repositories_in_engine(task, name)}


def _fingerprint_name(name: str, image: EngineImage) -> str:
    return engine_name(name, image.labels[FINGERPRINT_LABEL])
