"""A repository inside the work tree of another, which the index stores as a link to a commit."""

from __future__ import annotations

import os
from collections.abc import Mapping

from buildtools import BuildToolsError
from buildtools.git.repository import Repository, is_git_dir

# The variables that git removes before it enters another repository: `git rev-parse --local-env-vars`, except the two
# for `git -c`.
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
    """The commit checked out in the repository whose work tree is ``path``; ``None`` if there is none."""
    try:
        return open_gitlink(path, environment).head()
    except BuildToolsError:
        return None


def open_gitlink(path: bytes, environment: Mapping[str, str]) -> Repository:
    """The repository whose work tree is ``path``.

    :raises NotARepository: if there is none.
    """
    inner = {name: value for name, value in environment.items() if name not in _LOCAL}
    return Repository.open(os.fsdecode(path), inner | {"GIT_DIR": ".git"})


def holds_repository(path: bytes, environment: Mapping[str, str]) -> bool:
    """Whether ``path`` is the work tree of a repository of its own."""
    place = os.fsdecode(path) + "/.git"
    if os.path.isfile(place):
        try:
            open_gitlink(path, environment)
        except BuildToolsError:
            return False
        return True
    return is_git_dir(place, environment)
