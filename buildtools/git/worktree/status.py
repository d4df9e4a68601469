"""Whether the work tree is dirty, for ``git describe --dirty``: HEAD, index and files are compared.

Nothing is written: where git would refresh the file status in the index, this computes it only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from buildtools import BuildToolsError
from buildtools.git.errors import BadConfig, DamagedRepository, NoCommit
from buildtools.git.repository import Repository
from buildtools.git.worktree.gitlink import gitlink_head, open_gitlink
from buildtools.git.worktree.index import FLAGS, GITLINK, INTENT_TO_ADD, MODE, OID
from buildtools.git.worktree.staging import Staged, staged
from buildtools.git.worktree.submodule import IGNORE_VALUES, Submodules
from buildtools.git.worktree.tracked_files import Files, FileState

_NOTHING_STAGED = Staged()


def is_dirty(repository: Repository, *, refresh: bool = True) -> bool:
    """Whether ``git describe --dirty`` would append its suffix.

    ``refresh=False`` is what ``git describe --broken`` did up to git 2.45: a file whose status differs from the index
    is dirty, whatever its content.

    :raises NotARepository: if there is no work tree.
    :raises DamagedRepository: if something that git needs for the comparison cannot be read.
    """
    with WorkTree(repository, refresh=refresh) as work_tree:
        return next(work_tree.changes(), None) is not None


def changed_paths(repository: Repository, limit: int = 0) -> tuple[str, ...]:
    """The tracked paths that make the tree dirty, sorted; at most ``limit``, or all if it is 0.

    :raises NotARepository: if there is no work tree.
    :raises DamagedRepository: if something that git needs for the comparison cannot be read.
    """
    with WorkTree(repository) as work_tree:
        paths = sorted(set(work_tree.changes()))
    return tuple(path.decode("utf-8", "replace") for path in (paths[:limit] if limit else paths))


class WorkTree:
    """The work tree of one repository, compared with its index and its HEAD.

    Must be closed, because filters may be running.
    """

    def __init__(self, repository: Repository, *, refresh: bool = True, ignore: str = "untracked") -> None:
        """``ignore`` is what to ignore in submodules without a setting of their own."""
        self.repository = repository
        self.files = Files(repository, refresh=refresh)
        self.index = self.files.index
        self._refresh = refresh
        self._ignore = ignore
        self._thorough = False
        self._submodules: Submodules | None = None

    def __enter__(self) -> WorkTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()

    def changes(self) -> Iterator[bytes]:
        """The paths in which the tree differs from HEAD, in git's order, as they are found.

        :raises DamagedRepository: if something needed cannot be read; like git, only when it gets there.
        """
        suspects = self.files.suspects()
        if self._refresh:
            self._look_at_files(suspects)
        difference = self._staged()
        if difference is None:
            for position in suspects:
                if self._differs(position, _NOTHING_STAGED):
                    yield self.index.names[position]
            return
        names = self.index.names
        # First the paths in HEAD, then those only in the index: git's order, which decides where it meets damage.
        in_head = [(name, -1) for name in difference.removed]
        in_head += [
            (names[position], position)
            for position in difference.modified.keys() | suspects
            if position not in difference.added and not (position and names[position] == names[position - 1])
        ]
        for name, position in sorted(in_head):
            if position >= 0:
                differs = self._differs(position, difference)
            else:
                differs = difference.removed[name] != GITLINK or not self.submodules.ignores_all(name)
            if differs:
                yield name
        for position in sorted(difference.added):
            if self._differs(position, difference):
                yield names[position]

    def has_status(self, *, untracked: bool) -> bool:
        """Whether ``git status`` would list anything; without ``untracked``, as with ``-uno``.

        Everything is examined, even after a change was found, because damage anywhere makes git fail.

        :raises DamagedRepository: if something needed cannot be read.
        """
        self._thorough = True
        fields = self.index.fields
        suspects = self.files.suspects()
        self._look_at_files(suspects)
        positions = [position for position in suspects if self._differs(position, _NOTHING_STAGED)]
        # An intent to add is not staged yet.
        if self._head_tree() is None:
            positions += [position for position, entry in enumerate(fields) if not entry[FLAGS] & INTENT_TO_ADD]
        else:
            difference = self._staged() or _NOTHING_STAGED
            positions += difference.modified
            positions += [position for position in difference.added if not fields[position][FLAGS] & INTENT_TO_ADD]
            if difference.removed:
                return True
        if positions or not untracked:
            return bool(positions)
        from buildtools.git.worktree.untracked import has_untracked

        return has_untracked(self.files)

    def _staged(self) -> Staged | None:
        """HEAD compared with the index; ``None`` if the index is known to equal HEAD's tree."""
        tree = self._head_tree()
        if tree is None:
            raise NoCommit("HEAD leads to no commit", "make a commit first")
        if tree == self.index.root_tree() and not self.repository.objects.replacements:
            # If the tree is missing, nobody can say that the work tree is equal to it.
            self.repository.objects.read(tree)
            return None
        return staged(self.index, self.repository.objects, tree)

    def _head_tree(self) -> bytes | None:
        """The tree of the commit that is checked out; ``None`` before the first commit."""
        commit = self.repository.head()
        if commit is None:
            return None
        kind, data = self.repository.objects.read(commit)
        match = re.match(rb"tree ([0-9a-f]{%d})\n" % (2 * self.repository.hash_size), data)
        if kind != "commit" or not match:
            raise DamagedRepository(f"HEAD leads to {commit.hex()}, which is not a commit")
        return bytes.fromhex(match[1].decode())

    def _look_at_files(self, suspects: list[int]) -> None:
        """Compare all files first, as git does: a failing filter is fatal even if something else differs."""
        for position in suspects:
            if self.files.is_looked_at(position):
                self.files.state(position)

    def _state(self, position: int) -> FileState:
        """The state of the file or submodule of an entry."""
        entry, name = self.index.fields[position], self.index.names[position]
        state = self.files.state(position)
        if entry[MODE] != GITLINK or state is not FileState.SAME:
            return state
        return FileState.CHANGED if self._is_moved_or_dirty(name, entry[OID]) else state

    def _differs(self, position: int, difference: Staged) -> bool:
        """Whether one path, given by its lowest stage, differs from HEAD in the index or on disk."""
        entry = self.index.fields[position]
        head_mode = difference.modified.get(position)
        if not self.files.is_looked_at(position):
            differs = position in difference.added or head_mode is not None
        elif position in difference.added:
            differs = self._state(position) is not FileState.MISSING
        else:
            differs = head_mode is not None or self._state(position) is not FileState.SAME
        if differs and entry[MODE] == GITLINK and head_mode in (None, GITLINK):
            return not self.submodules.ignores_all(self.index.names[position])
        return differs

    def _is_moved_or_dirty(self, path: bytes, oid: bytes) -> bool:
        """Whether the submodule at ``path`` differs from the commit ``oid`` in the index.

        :raises DamagedRepository: if its repository is damaged.
        """
        mode = self.submodules.ignored(path)
        place = self.files.top + b"/" + path
        environment = self.repository.environment
        if mode == "all":
            return False
        head = gitlink_head(place, environment)
        has_moved = head is not None and head != oid
        if (has_moved and not self._thorough) or mode == "dirty" or not os.path.exists(place + b"/.git"):
            return has_moved
        try:
            return _status_differs(open_gitlink(place, environment), untracked=mode == "none") or has_moved
        except BuildToolsError as error:
            raise DamagedRepository(
                f"the submodule {os.fsdecode(path)} cannot be read: {error.fact}",
                error.remedy or "check it out again with `git submodule update --init`",
            ) from error

    @property
    def submodules(self) -> Submodules:
        """The configuration of submodules, read when the first one is met."""
        if self._submodules is None:
            self._submodules = Submodules(self.files, self._ignore)
        return self._submodules


def _status_differs(repository: Repository, *, untracked: bool) -> bool:
    """Whether ``git status`` in ``repository`` would list anything; without ``untracked``, as with ``-uno``."""
    if untracked:
        mode = repository.config.get("status.showuntrackedfiles") or "normal"
        if mode not in ("no", "normal", "all"):
            raise BadConfig(f"status.showUntrackedFiles is {mode!r}", "write no, normal or all")
        untracked = mode != "no"
    default = repository.config.get("diff.ignoresubmodules", "none")
    if default not in IGNORE_VALUES:
        raise BadConfig(f"diff.ignoreSubmodules is {default!r}", f"write one of {', '.join(IGNORE_VALUES)}")
    if default == "none" and not untracked:
        default = "untracked"
    with WorkTree(repository, ignore=default) as work_tree:
        return work_tree.has_status(untracked=untracked)
