"""What is wrong with the configuration and the image folders, as far as files alone show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from graphlib import CycleError, TopologicalSorter

from buildtools import BuildToolsError, Refused, check_at, error_count, failures_of
from buildtools.build_cache import read_caches
from buildtools.channel import refuse_name
from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.image.folder.folders import ImageFolder, folders_and_errors
from buildtools.image.reference import Reference
from buildtools.settings import Settings
from buildtools.task_context import TaskContext
from buildtools.version import Version

# Before the first tag, a Dockerfile that uses VERSION is checked with this one.
_STAND_IN = Version("0.0.0", commit="0" * 40)


@frozen
class Checked:
    """The names of the image folders, in build order, and of the distributions, after a check without errors."""

    images: tuple[str, ...]
    distributions: tuple[str, ...]


def check_project(task: TaskContext) -> Checked:
    """Check the configuration and every image folder, without an engine, registry or store.

    A missing version is only a warning, because the next tag gives one.

    :raises Refused: if something is wrong, with every error in the details.
    """
    settings = task.settings
    folders, errors = _folders(settings, _version(task))
    errors += failures_of(_checks(task, folders))
    errors += (error for folder in folders for error in folder.dockerfile.unknown_instructions())
    # Folders that share a context report the same errors in its ignore file.
    lines = dict.fromkeys([*settings.errors, *map(str, errors)])
    if lines:
        count, remedy = error_count(tuple(lines))
        raise Refused(f"the check found {count}", remedy, details=tuple(lines))
    return Checked(tuple(dict.fromkeys(folder.image for folder in folders)), tuple(settings.distribution))


def _version(task: TaskContext) -> Version:
    try:
        return task.version
    except Refused as error:
        task.run.report(Warned("", str(error)))
        return _STAND_IN


def _folders(settings: Settings, version: Version) -> tuple[tuple[ImageFolder, ...], list[BuildToolsError]]:
    try:
        return folders_and_errors(settings, version)
    except Refused as error:
        return (), [error]


def _checks(task: TaskContext, folders: tuple[ImageFolder, ...]) -> Iterator[Callable[[], object]]:
    settings = task.settings
    yield partial(_check_file, settings, "registry_ca", settings.registry_ca)
    yield lambda: task.services.verify_keys
    yield from task.services.builder_checks()
    # The default name is one that a project need not have.
    for path in settings.stage.compose if "stage.compose" in settings.origins else ():
        yield partial(_check_file, settings, "stage.compose", path)
    yield from _channel_checks(settings)
    for target in settings.target:
        yield partial(settings.of_target, target)
    yield partial(_refuse_cycle_of_gates, settings)
    for folder in folders:
        yield partial(folder.selection, folder.needs())
        for key in ("cache_from", "cache_to"):
            yield from _cache_checks(settings, folder, key)


def _channel_checks(settings: Settings) -> Iterator[Callable[[], object]]:
    targets = {f"target.{name}.channels": target.channels for name, target in settings.target.items()}
    for key, names in {"channels": settings.channels, **targets}.items():
        for name in names:
            yield partial(check_at, settings.place(key), partial(refuse_name, name, settings.moving_tags))


def _refuse_cycle_of_gates(settings: Settings) -> None:
    try:
        TopologicalSorter({name: target.requires for name, target in settings.target.items()}).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        place = settings.place(f"target.{cycle[0]}.requires")
        raise Refused(
            f"{place}: targets require each other in a cycle: {' -> '.join(reversed(cycle))}",
            "no version could be promoted there: take one of them out",
        ) from None


def _cache_checks(settings: Settings, folder: ImageFolder, key: str) -> Iterator[Callable[[], object]]:
    own_key = f"image.{folder.image}.{key}"
    place = settings.place(own_key if own_key in settings.origins else key)
    for cache in read_caches(getattr(folder.settings, key), written=key == "cache_to"):
        if cache.kind == "registry" and not cache.is_own:
            reference = cache.of_image(folder.image, folder.platform, "").place
            yield partial(check_at, place, partial(Reference.parse, reference))


def _check_file(settings: Settings, key: str, path: str) -> None:
    if path and not (settings.root / path).is_file():
        raise Refused(f"{settings.place(key)}: {path} is not a file", "name one that is there")
