"""What this tool left on a machine and nobody uses any more: images, archives, stacks, caches of others."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime
from enum import Enum
from typing import Any

from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.engine.documents import EngineImage
from buildtools.image.registry.manifest import FINGERPRINT_LABEL
from buildtools.image.survey import BuildState, engine_name
from buildtools.stages.images import survey_images
from buildtools.stages.trial import abandoned_trials, remove_trial, trial_folder
from buildtools.task_context import TaskContext

_SECONDS_A_DAY = 86_400


class LeftoverKind(Enum):
    """The kind of a leftover, which determines what its name means."""

    IMAGE = "image"
    ARCHIVE = "archive"
    CACHE = "cache"
    STACK = "stack"


@frozen
class Leftover:
    """Something that nobody uses, and the days since its last use.

    ``name`` is a name in the engine, a stack, or a path; an archive's path is relative to the project.
    """

    kind: LeftoverKind
    name: str
    days: int


def leftovers(task: TaskContext, days: int) -> tuple[Leftover, ...]:
    """Everything that nobody has used for ``days`` days, and the stacks of killed trials, which nobody will use again.

    An engine that cannot be used is skipped.

    :raises BuildToolsError: if the image folders cannot be read, since then nobody knows what is in use.
    """
    engine = task.services.engine_if_any()
    stacks = _stacks(task) if engine else ()
    others = [*(_images(task, engine) if engine else ()), *_archives(task), *_caches(task)]
    return (*stacks, *(each for each in others if each.days >= days))


def remove(task: TaskContext, each: Leftover) -> bool:
    """Remove a leftover; returns whether it was removed. If somebody has started to use it meanwhile, it stays."""
    try:
        if each.kind is LeftoverKind.IMAGE:
            task.services.engine.untag(each.name)
        elif each.kind is LeftoverKind.STACK:
            remove_trial(task, each.name)
        elif each.kind is LeftoverKind.ARCHIVE:
            (task.settings.root / each.name).unlink(missing_ok=True)
        else:
            shutil.rmtree(each.name)
    except EngineError as error:
        task.run.report(Warned("", f"{each.name} stays: {error.fact}"))
        return False
    except OSError as error:
        task.run.report(Warned("", f"{each.name} stays: {error.strerror}"))
        return False
    return True


def _stacks(task: TaskContext) -> Iterator[Leftover]:
    for name in abandoned_trials(task):
        folder = trial_folder(task, name)
        yield Leftover(LeftoverKind.STACK, name, _days(folder.stat().st_mtime) if folder.exists() else 0)


def _images(task: TaskContext, engine: Engine) -> Iterator[Leftover]:
    """Images of this project's folders that the tool built or pulled and no container uses.

    If a folder's current image is unknown, because its base image cannot be looked up, its images stay. The label alone
    does not prove that an image is ours, because images built on top of ours inherit it.
    """
    statuses = survey_images(task)
    # The variants of an image share its names.
    unknown = {status.folder.image for status in statuses if status.state is BuildState.UNKNOWN}
    current = {engine_name(status.name, status.fingerprint.value) for status in statuses}
    names = {status.folder.image for status in statuses} - unknown
    with engine.errors():
        in_containers = {container["ImageID"] for container in engine.api.containers(all=True)}
    for image in engine.images(FINGERPRINT_LABEL):
        name = _folder_name(image, names)
        if not name or not current.isdisjoint(image.tags) or image.id in in_containers:
            continue
        if not _has_own_names(task, image, name):
            continue
        details = engine.inspect(image.id)
        if details:
            # The fingerprint name, which marks it as ours, goes last.
            for tag in sorted(image.tags, key=lambda tag: (":fp-" in tag, "/" not in tag)):
                yield Leftover(LeftoverKind.IMAGE, tag, days_since_tagged(details, image))


def _folder_name(image: EngineImage, names: Collection[str]) -> str:
    fingerprint = image.labels[FINGERPRINT_LABEL]
    return next((name for name in names if engine_name(name, fingerprint) in image.tags), "")


def _has_own_names(task: TaskContext, image: EngineImage, name: str) -> bool:
    """Whether we made all of its names; a user who named it may rely on it."""
    return {tag.rpartition(":")[0] for tag in image.tags} <= repositories_in_engine(task, name)


def repositories_in_engine(task: TaskContext, name: str) -> set[str]:
    """The repositories of an image's names in the engine: with and without the registry."""
    prefix = f"{task.settings.repository_prefix}/" if task.settings.registry else ""
    return {name, f"{prefix}{name}"}


def days_since_tagged(details: dict[str, Any], image: EngineImage) -> int:
    """The days since an image was last used: a build that finds it up to date names it with the new version."""
    last = 0.0
    with suppress(ValueError, AttributeError):
        # Python cannot read nanoseconds.
        text = (details.get("Metadata") or {}).get("LastTagTime", "")
        last = datetime.fromisoformat(re.sub(r"\.\d+", "", text)).timestamp()
    return _days(max(last, image.created))


def _archives(task: TaskContext) -> Iterator[Leftover]:
    """The archives in ``dist/`` of versions other than the checkout's."""
    current = {task.version.archive_name(name) for name in task.settings.distribution}
    of_ours = re.compile(rf"(?:{'|'.join(map(re.escape, task.settings.distribution))})-\d.*\.tgz")
    for path in sorted((task.settings.root / "dist").glob("*.tgz")):
        if of_ours.fullmatch(path.name) and path.name not in current:
            yield Leftover(LeftoverKind.ARCHIVE, f"dist/{path.name}", _days(path.stat().st_mtime))


def _caches(task: TaskContext) -> Iterator[Leftover]:
    """The caches of other projects; losing one only costs time."""
    for folder in sorted(task.run.project_cache.parent.glob("*")):
        if folder != task.run.project_cache and folder.is_dir():
            # Another run may be replacing files there.
            with suppress(FileNotFoundError):
                last = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
                yield Leftover(LeftoverKind.CACHE, str(folder), _days(last))


def _days(seconds: float) -> int:
    return int(max(0.0, time.time() - seconds) // _SECONDS_A_DAY)
