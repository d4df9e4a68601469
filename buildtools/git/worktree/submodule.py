"""Submodules, as far as they make the tree around them dirty.

https://git-scm.com/docs/gitmodules, https://git-scm.com/docs/git-config#Documentation/git-config.txt-submoduleltnamegtignore
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from buildtools import BuildToolsError
from buildtools.git.config import parse_config
from buildtools.git.errors import BadConfig, DamagedRepository
from buildtools.git.repository import Repository, is_git_dir
from buildtools.git.worktree.index import FLAGS, STAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildtools.git.worktree.tracked_files import Files

_IGNORE = ("all", "dirty", "untracked", "none")
# What git takes away from the environment before it enters another repository: `git rev-parse --local-env-vars`,
# but for the two that carry `git -c`.
_LOCAL = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}


def gitlink_head(path: bytes, environment: Mapping[str, str]) -> bytes | None:
    """The commit checked out in the repository whose work tree is ``path``; ``None`` if there is none to be had."""
    try:
        return opened(path, environment).head()
    except BuildToolsError:
        return None


def opened(path: bytes, environment: Mapping[str, str]) -> Repository:
    """The repository whose work tree is ``path``.

    :raises NotARepository: there is none.
    """
    inner = {name: value for name, value in environment.items() if name not in _LOCAL}
    return Repository.open(os.fsdecode(path), inner | {"GIT_DIR": ".git"})


class Submodules:
    """The submodules of one work tree. ``default`` is what is ignored in those that say nothing of their own."""

    def __init__(self, files: Files, default: str) -> None:
        self._files = files
        self._default = default
        self._names: dict[str, str] = {}
        self._ignored: dict[str, str] = {}
        self._read_gitmodules()

    def _read_gitmodules(self) -> None:
        files = self._files
        position = files.index.position(b".gitmodules")
        if position is not None and files.index.fields[position][FLAGS] & STAGE:
            return
        try:
            with open(files.top + b"/.gitmodules", "rb") as stream:
                data: bytes | None = stream.read()
        except OSError:
            data = files.read_indexed(b".gitmodules")
        for key, value in parse_config(data or b"", ".gitmodules"):
            section, _, rest = key.partition(".")
            name, dot, item = rest.rpartition(".")
            if section != "submodule" or not dot or value is None:
                continue
            if item == "path" and not value.startswith("-"):
                self._names = {path: other for path, other in self._names.items() if other != name}
                self._names[value] = name
            elif item == "ignore" and value in _IGNORE:
                self._ignored[name] = value

    def ignored(self, path: bytes) -> str:
        """What does not count in the submodule at ``path``: ``all``, ``dirty``, ``untracked`` or ``none``.

        :raises BadConfig: the configuration has another word.
        """
        name = self._names.get(os.fsdecode(path))
        if name is None:
            return self._default
        value = self._files.repository.config.get(f"submodule.{name}.ignore")
        if value is not None and value not in _IGNORE:
            raise BadConfig(f"submodule.{name}.ignore is {value!r}", f"write one of {', '.join(_IGNORE)}")
        return value or self._ignored.get(name, self._default)

    def ignores_all(self, path: bytes) -> bool:
        """Whether nothing of the submodule at ``path`` counts, not even another commit."""
        return self.ignored(path) == "all"

    def is_changed(self, path: bytes, oid: bytes, *, thorough: bool = False) -> bool:
        """Whether the folder at ``path`` differs from the commit ``oid`` that the index has for it.

        ``thorough`` looks for damage inside although another commit is checked out.

        :raises DamagedRepository: the repository in it is broken.
        """
        ignored = self.ignored(path)
        place = self._files.top + b"/" + path
        environment = self._files.repository.environment
        if ignored == "all":
            return False
        head = gitlink_head(place, environment)
        has_moved = head is not None and head != oid
        if (has_moved and not thorough) or ignored == "dirty" or not os.path.exists(place + b"/.git"):
            return has_moved
        try:
            return _status_differs(opened(place, environment), untracked=ignored == "none") or has_moved
        except BuildToolsError as error:
            raise DamagedRepository(
                f"the submodule {os.fsdecode(path)} cannot be read: {error.fact}",
                error.remedy or "check it out anew with `git submodule update --init`",
            ) from error


def _status_differs(repository: Repository, *, untracked: bool) -> bool:
    """Whether ``git status`` in ``repository`` would list anything; without ``untracked`` as with ``-uno``."""
    from buildtools.git.worktree.status import WorkTree

    if untracked:
        mode = repository.config.get("status.showuntrackedfiles") or "normal"
        if mode not in ("no", "normal", "all"):
            raise BadConfig(f"status.showUntrackedFiles is {mode!r}", "write no, normal or all")
        untracked = mode != "no"
    default = repository.config.get("diff.ignoresubmodules", "none")
    if default not in _IGNORE:
        raise BadConfig(f"diff.ignoreSubmodules is {default!r}", f"write one of {', '.join(_IGNORE)}")
    if default == "none" and not untracked:
        default = "untracked"
    with WorkTree(repository, ignore=default) as work_tree:
        return work_tree.has_status(untracked=untracked)


def holds_repository(path: bytes, environment: Mapping[str, str]) -> bool:
    """Whether ``path`` is the work tree of a repository of its own."""
    place = os.fsdecode(path) + "/.git"
    if os.path.isfile(place):
        try:
            opened(path, environment)
        except BuildToolsError:
            return False
        return True
    return is_git_dir(place, environment)
