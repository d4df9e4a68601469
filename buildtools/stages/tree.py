"""Whether the work tree that images are built from is what the commit contains.

``git describe --dirty`` ignores untracked files, but an image that includes one contains something that no commit has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from buildtools import Refused, printable
from buildtools.events import Warned
from buildtools.git.checkout import refuse_dirty, uncommitted_files, untracked_files
from buildtools.image.folder.context import ignore_file
from buildtools.image.folder.folders import ImageFolder
from buildtools.image.survey import ImageStatus, survey
from buildtools.task_context import TaskContext

_MOST_NAMED = 5
_MODE = re.compile("(?:file|d) ([0-7]+)")
# The files with tasks and configuration: Invoke's own, and ours.
_DECIDING = ("pyproject.toml", "invoke.yaml", "invoke.yml", "invoke.json", "invoke.py", "tasks.py", "tasks/__init__.py")


def to_release(task: TaskContext) -> TaskContext:
    """The task, after checking that its tree matches its commit. With ``--allow-dirty`` the version may be dirty.

    :raises Refused: naming the files that no commit has.
    """
    if not task.run.allow_dirty:
        refuse_dirty(task.settings.root, task.run.environment)
    if task.version.dirty:
        return task
    folders = task.image_folders()
    # Without base images, which are slow to look up; what their ONBUILD includes is checked later.
    warning = _untracked(
        task, folders, partial(survey, folders, {}, cache=task.run.project_cache, learn=not task.run.dry_run)
    )
    if warning and not task.run.allow_dirty:
        raise _refusal(warning)
    _refuse_uncommitted_settings(task, folders)
    if not warning:
        return task
    version = replace(task.version, dirty=True)
    task.run.report(Warned("", f"{warning}: this is {version}"))
    return task.with_checkout(replace(task.checkout, version=version))


def check_untracked(task: TaskContext, statuses: Sequence[ImageStatus], *, release: bool) -> None:
    """Refuse a ``release`` of files that no commit has; otherwise warn, unless the version is dirty anyway.

    Modes that no commit has are only worth a warning: the clone's umask decides over them.

    :raises Refused: naming the files.
    """
    if task.version.dirty:
        return
    if warning := _modes_of_this_clone(task, statuses):
        task.run.report(Warned("", warning))
    warning = _untracked(task, [status.folder for status in statuses], lambda: statuses)
    if warning and release:
        raise _refusal(warning)
    if warning:
        task.run.report(Warned("", f"{warning}: {task.version} is not what its commit says"))


def _refuse_uncommitted_settings(task: TaskContext, folders: Sequence[ImageFolder]) -> None:
    """Raise :class:`Refused` unless the files that control a release are committed, whether git ignores them or not."""
    root = task.settings.root
    paths = [root / name for name in _DECIDING] + [path for folder in folders for path in _own_files(folder)]
    strangers = uncommitted_files(root, paths, task.run.environment)
    if strangers and not task.run.allow_dirty:
        names = ", ".join(_printable(str(path), task) for path in strangers)
        raise Refused(
            f"uncommitted files would decide the release ({names})",
            "commit them, then tag that commit and publish again",
        )


def _refusal(warning: str) -> Refused:
    return Refused(
        warning,
        "commit or delete them; or list them in .gitignore if each build makes them again, "
        "in .dockerignore if no image needs them",
    )


def _untracked(
    task: TaskContext, folders: Sequence[ImageFolder], status_reader: Callable[[], Sequence[ImageStatus]]
) -> str:
    """Which folders include files that git neither tracks nor ignores, in words; empty if none does."""
    own = {folder.name: _own_files(folder) for folder in folders}
    places = {path.parent for files in own.values() for path in files} | {folder.context for folder in folders}
    strangers = untracked_files(
        task.settings.root, places, task.run.environment, lambda text: task.run.report(Warned("", text))
    )
    if not strangers:
        return ""
    files, repositories = set(strangers), tuple(path for path in strangers if path.endswith("/"))
    takers = []
    paths: set[str] = set()
    for status in status_reader():
        context = os.path.realpath(status.folder.context)
        inputs = [str(path) for path in own[status.name]]
        inputs += [
            f"{context}/{key.removeprefix('context ')}"
            for key, value in status.fingerprint.inputs.items()
            if key.startswith("context ") and not value.startswith("d ")
        ]
        matches = [path for path in inputs if path in files or path.startswith(repositories)]
        if matches:
            takers.append(f"{task.settings.images}/{status.folder.image}")
            paths.update(matches)
    if not paths:
        return ""
    names = [_printable(path, task) for path in sorted(paths)[:_MOST_NAMED]]
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return f"untracked files would be included in {', '.join(dict.fromkeys(takers))} ({', '.join(names)}{more})"


def _modes_of_this_clone(task: TaskContext, statuses: Sequence[ImageStatus]) -> str:
    """Which files have modes that another clone need not give them, in words; empty if none has.

    Git keeps of a mode whether a file is executable, and no more.
    """
    modes = {
        f"{os.path.realpath(status.folder.context)}/{key.removeprefix('context ')}": match[1]
        for status in statuses
        for key, value in status.fingerprint.inputs.items()
        if key.startswith("context ") and (match := _MODE.match(value)) and match[1] not in ("644", "755")
    }
    if not modes:
        return ""
    name, mode = next(iter(modes.items()))
    more = f" and {len(modes) - 1} more" if len(modes) > 1 else ""
    fact = (
        f"git does not keep the mode of {_printable(name, task)}{more} ({mode}), so another clone builds another image"
    )
    return f"{fact}: clone, and make files, with umask 022"


def _own_files(folder: ImageFolder) -> list[Path]:
    """The Dockerfile and the ignore file, which need not be in the context."""
    ignoring = ignore_file(folder.context, folder.dockerfile_path)
    return [path.resolve() for path in (folder.dockerfile_path, ignoring) if path]


def _printable(path: str, task: TaskContext) -> str:
    return printable(os.path.relpath(path, os.path.realpath(task.settings.root)))
