"""Whether the work tree is dirty: what ``git describe --dirty`` compares, HEAD with the index with the files.

Nothing is written: where git would refresh the index's notes of a file's status, they are only worked out.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from buildtools.git import submodule
from buildtools.git.attributes import SYSTEM_FILE, Attributes
from buildtools.git.config import boolean
from buildtools.git.conversion import Conversion
from buildtools.git.errors import DamagedRepository, NoCommit, NotARepository
from buildtools.git.index import (
    ASSUME_VALID,
    FLAGS,
    GITLINK,
    INTENT_TO_ADD,
    MODE,
    OID,
    SKIP_WORKTREE,
    SPARSE_DIRECTORY,
    STAGE,
    SYMLINK,
    Fields,
    read_index,
)
from buildtools.git.repository import Repository
from buildtools.git.staging import Staged, staged, tree_files

_LOW = 0xFFFFFFFF
_TYPE = 0o170000
_LONGEST_PLAIN = 0x0FFF  # flags that are no more than the length of a name
_READ_SIZE = 1 << 20
_NOTHING_STAGED = Staged(set(), {}, {})


def is_dirty(repository: Repository, *, refresh: bool = True) -> bool:
    """Whether ``git describe --dirty`` would append its mark.

    ``refresh=False`` is what ``git describe --broken`` did up to git 2.45: a file whose status differs from the
    index's notes is dirty, whatever its content.

    :raises NotARepository: there is no work tree.
    :raises DamagedRepository: something that git needs for the comparison cannot be read.
    """
    with WorkTree(repository, refresh=refresh) as work_tree:
        return next(work_tree.changes(), None) is not None


def changed_paths(repository: Repository, limit: int = 0) -> tuple[str, ...]:
    """The tracked paths that make the tree dirty, sorted; ``limit`` is how many at most, 0 for all.

    :raises NotARepository: there is no work tree.
    :raises DamagedRepository: something that git needs for the comparison cannot be read.
    """
    with WorkTree(repository) as work_tree:
        paths = sorted(set(work_tree.changes()))
    return tuple(path.decode("utf-8", "replace") for path in (paths[:limit] if limit else paths))


class State(Enum):
    """A file against its entry in the index."""

    SAME = "same"
    CHANGED = "changed"
    MISSING = "missing"


class WorkTree:
    """The work tree of one repository, with its index read once. To be closed: filters may be running."""

    def __init__(self, repository: Repository, *, refresh: bool = True, ignore: str = "untracked") -> None:
        """``ignore`` is what counts in submodules that say nothing of their own."""
        if repository.work_tree is None:
            raise NotARepository("there is no work tree to compare with", "run this in a clone that is not bare")
        self.repository = repository
        self.top = os.fsencode(repository.work_tree)
        self._refresh = refresh
        self._ignore = ignore
        config = repository.config
        place = repository.environment.get("GIT_INDEX_FILE") or f"{repository.git_dir}/index"
        place = os.path.join(repository.work_tree, place)
        self.index = read_index(place, repository.git_dir, repository.hash_size)
        self._trust_mode = config.bool("core.filemode", True)
        self._has_symlinks = config.bool("core.symlinks", True)
        self._minimal = (config.get("core.checkstat") or "").lower() == "minimal"
        self._trust_ctime = config.bool("core.trustctime", True) and not self._minimal
        self._new_hash = hashlib.sha1 if repository.hash_size == 20 else hashlib.sha256
        self._empty_blob = self._new_hash(b"blob 0\0").digest()
        self._states: dict[int, State] = {}
        self._behind_links: dict[bytes, bool] = {b"": False}
        self._conversion: Conversion | None = None
        self._submodules: submodule.Submodules | None = None
        if config.bool("core.sparsecheckout") and not config.bool("sparse.expectfilesoutsideofpatterns"):
            self._notice_present_files()

    def __enter__(self) -> WorkTree:
        return self

    def __exit__(self, *_: object) -> None:
        if self._conversion:
            self._conversion.close()

    # Which paths differ from HEAD

    def changes(self) -> Iterator[bytes]:
        """The paths by which the tree differs from HEAD, in git's order, as it finds them.

        :raises DamagedRepository: something needed cannot be read; git, too, fails only when it gets there.
        """
        difference = self.staged()
        names = self.index.names
        suspects = list(self.suspects())
        if self._refresh:
            # As git does first of all: a filter that fails here is fatal, though an earlier path may differ.
            for position in suspects:
                if self._is_looked_at(position) and self.index.fields[position][MODE] != GITLINK:
                    self.state(position)
        if difference is None:
            for position in suspects:
                if self._differs(position, _NOTHING_STAGED):
                    yield names[position]
            return
        self._states |= dict.fromkeys(set(range(len(names))).difference(suspects), State.SAME)
        removed = [
            name
            for name, mode in sorted(difference.removed.items(), reverse=True)
            if mode != GITLINK or not self.submodules.ignores_all(name)
        ]
        for position, name in enumerate(names):
            while removed and removed[-1] < name:
                yield removed.pop()
            if not (position and name == names[position - 1]) and self._differs(position, difference):
                yield name
        yield from reversed(removed)

    def staged(self) -> Staged | None:
        """HEAD against the index; ``None`` where the index is known to be HEAD's tree."""
        tree = self.head_tree()
        if tree is None:
            raise NoCommit("HEAD leads to no commit", "make a commit first")
        if tree == self.index.root_tree() and not self.repository.objects.replacements:
            return None
        return staged(self.index, self.repository.objects, tree)

    def head_tree(self) -> bytes | None:
        """The tree of the commit that is checked out; ``None`` before the first commit."""
        commit = self.repository.head()
        if commit is None:
            return None
        kind, data = self.repository.objects.read(commit)
        if kind != "commit" or not data.startswith(b"tree "):
            raise DamagedRepository(f"HEAD leads to {commit.hex()}, which is no commit")
        return bytes.fromhex(data[5 : 5 + 2 * self.repository.hash_size].decode("ascii", "replace"))

    def _is_looked_at(self, position: int) -> bool:
        """Whether git compares the entry with its file at all."""
        entry = self.index.fields[position]
        return not entry[FLAGS] & (ASSUME_VALID | SKIP_WORKTREE) and entry[MODE] != SPARSE_DIRECTORY

    def _differs(self, position: int, difference: Staged) -> bool:
        """Whether one path, given by its lowest stage, differs from HEAD in the index or on disk."""
        entry = self.index.fields[position]
        head_mode = difference.modified.get(position)
        if not self._is_looked_at(position):
            differs = position in difference.added or head_mode is not None
        elif position in difference.added:
            differs = self.state(position) is not State.MISSING
        else:
            differs = head_mode is not None or self.state(position) is not State.SAME
        if differs and entry[MODE] == GITLINK and head_mode in (None, GITLINK):
            return not self.submodules.ignores_all(self.index.names[position])
        return differs

    # How a file compares with its entry

    def suspects(self) -> Iterator[int]:
        """The positions of all entries but those whose file's status is plainly as the index has it."""
        # The ten items of a status by position are whole numbers, which is all that is compared.
        lstat: Callable[[bytes], Sequence[int]] = os.lstat  # type: ignore[assignment]
        prefix = self.top + b"/"
        mode_mask = 0o170100 if self._trust_mode else _TYPE
        trust_ctime, minimal, empty = self._trust_ctime, self._minimal, self._empty_blob
        written = self.index.mtime or 1 << 32
        last_folder, linked = b"", False
        for position, (name, fields) in enumerate(zip(self.index.names, self.index.fields, strict=True)):
            ctime, mtime, inode, mode, user, group, size, oid, flags = fields
            if flags > _LONGEST_PLAIN or mode == GITLINK:
                yield position
                continue
            folder = name[: name.rfind(b"/") + 1]
            if folder != last_folder:
                last_folder, linked = folder, self._is_behind_link(folder[:-1])
            try:
                found = lstat(prefix + name)
            except OSError:
                yield position
                continue
            if (
                linked
                or found[8] & _LOW != mtime
                or found[6] & _LOW != size
                or (found[0] ^ mode) & mode_mask
                or mtime >= written
                or (trust_ctime and found[9] & _LOW != ctime)
                or not (minimal or (found[1] & _LOW == inode and found[4] == user and found[5] == group))
                or not (size or oid == empty)
            ):
                yield position

    def state(self, position: int) -> State:
        """How the file compares with the entry, with all that git does to find out.

        :raises DamagedRepository: a submodule or a required filter is broken.
        """
        known = self._states.get(position)
        if known is None:
            known = self._states[position] = self._found_state(position)
        return known

    def _found_state(self, position: int) -> State:
        entry, name = self.index.fields[position], self.index.names[position]
        path = self.top + b"/" + name
        try:
            found = os.lstat(path)
        except OSError:
            return State.MISSING
        if self._is_behind_link(name.rpartition(b"/")[0]):
            return State.MISSING
        if entry[MODE] == GITLINK and not entry[FLAGS] & INTENT_TO_ADD:
            if not stat.S_ISDIR(found.st_mode):
                return State.CHANGED
            return State.CHANGED if self.submodules.is_changed(name, entry[OID]) else State.SAME
        if stat.S_ISDIR(found.st_mode):
            # A repository in a file's place is a change; any other folder means that the file is gone.
            return State.CHANGED if submodule.gitlink_head(path, self.repository.environment) else State.MISSING
        if entry[FLAGS] & (STAGE | INTENT_TO_ADD):
            return State.CHANGED
        return State.CHANGED if self._file_changed(name, path, entry, found) else State.SAME

    def _file_changed(self, name: bytes, path: bytes, entry: Fields, found: os.stat_result) -> bool:
        ctime, mtime, inode, mode, user, group, size, oid, _ = entry
        kind = stat.S_IFMT(found.st_mode)
        if mode == SYMLINK:
            if kind != stat.S_IFLNK and (self._has_symlinks or kind != stat.S_IFREG):
                return True
        elif kind != stat.S_IFREG or (self._trust_mode and (found.st_mode ^ mode) & 0o100):
            return True
        if found.st_size & _LOW != size and size:
            # Git does not ask a filter about a file of another size.
            return True
        touched = (
            found.st_size & _LOW != size
            or (not size and oid != self._empty_blob)
            or int(found[8]) & _LOW != mtime
            or (self._trust_ctime and int(found[9]) & _LOW != ctime)
            or not (self._minimal or (found.st_ino & _LOW, found.st_uid, found.st_gid) == (inode, user, group))
        )
        if touched and not self._refresh:
            return True
        # As new as the index: the file may have been written after it was looked at, within the same second.
        racy = 0 < self.index.mtime <= mtime
        return (touched or racy) and self._stored_id(name, path, kind) != oid

    def _stored_id(self, name: bytes, path: bytes, kind: int) -> bytes | None:
        """The id the file would be stored under; ``None`` if it cannot be read."""
        try:
            if kind == stat.S_IFLNK:
                return self._blob_id(os.readlink(path))
            plan = self.conversion.plan(name)
            with open(path, "rb") as stream:
                if plan:
                    return self._blob_id(self.conversion.to_git(name, stream.read(), plan))
                digest = self._new_hash(b"blob %d\0" % os.fstat(stream.fileno()).st_size)
                while block := stream.read(_READ_SIZE):
                    digest.update(block)
                return digest.digest()
        except OSError:
            return None

    def _blob_id(self, data: bytes) -> bytes:
        digest = self._new_hash(b"blob %d\0" % len(data))
        digest.update(data)
        return digest.digest()

    def _is_behind_link(self, folder: bytes) -> bool:
        """Whether a folder on the way is a symbolic link: git takes nothing below one for its own."""
        known = self._behind_links.get(folder)
        if known is None:
            known = self._is_behind_link(folder.rpartition(b"/")[0]) or os.path.islink(self.top + b"/" + folder)
            self._behind_links[folder] = known
        return known

    # What the comparison leans on

    @property
    def conversion(self) -> Conversion:
        """The conversions of this tree, made when the first content must be looked at."""
        if self._conversion is None:
            repository = self.repository
            config, environment = repository.config, repository.environment
            files = [] if boolean(environment.get("GIT_ATTR_NOSYSTEM", "false")) else [SYSTEM_FILE]
            files += user_file(repository, "core.attributesfile", "attributes")
            attributes = Attributes(
                self.top,
                self.read_indexed,
                tuple(files),
                f"{repository.common_dir}/info/attributes",
                ignore_case=config.bool("core.ignorecase"),
            )
            self._conversion = Conversion(attributes, config, self.read_indexed, self.top, environment)
        return self._conversion

    @property
    def submodules(self) -> submodule.Submodules:
        """What is configured for submodules, read when the first one is met."""
        if self._submodules is None:
            self._submodules = submodule.Submodules(self, self._ignore)
        return self._submodules

    def read_indexed(self, name: bytes) -> bytes | None:
        """The content the index has for a path; our own side's while it is unmerged."""
        names, fields = self.index.names, self.index.fields
        position = self.index.position(name)
        while position is not None and position < len(names) and names[position] == name:
            if fields[position][FLAGS] & STAGE in (0, 0x2000) and fields[position][MODE] != GITLINK:
                kind, data = self.repository.objects.read(fields[position][OID])
                return data if kind == "blob" else None
            position += 1
        return None

    def _notice_present_files(self) -> None:
        """In a sparse checkout, look at files that are there although they were not checked out."""
        index = self.index
        for position, fields in enumerate(index.fields):
            if fields[FLAGS] & SKIP_WORKTREE and os.path.lexists(self.top + b"/" + index.names[position]):
                if fields[MODE] == SPARSE_DIRECTORY:
                    self._expand_sparse_directories()
                    self._notice_present_files()
                    return
                index.fields[position] = (*fields[:FLAGS], fields[FLAGS] & ~SKIP_WORKTREE)

    def _expand_sparse_directories(self) -> None:
        index, objects = self.index, self.repository.objects
        names: list[bytes] = []
        entries: list[Fields] = []
        for name, fields in zip(index.names, index.fields, strict=True):
            if fields[MODE] != SPARSE_DIRECTORY:
                names.append(name)
                entries.append(fields)
                continue
            for file in tree_files(objects, fields[OID], name):
                names.append(file.name)
                entries.append((0, 0, 0, file.mode, 0, 0, 0, file.oid, SKIP_WORKTREE))
        index.names, index.fields = names, entries


def user_file(repository: Repository, key: str, name: str) -> list[str]:
    """The user's file that a configuration key names, or by default ``git/NAME`` below the XDG folder."""
    configured = repository.config.path(key, repository.home())
    if configured is not None:
        return [os.path.join(repository.work_tree or "", configured)]
    environment = repository.environment
    base = environment.get("XDG_CONFIG_HOME") or (environment.get("HOME") and f"{environment['HOME']}/.config")
    return [f"{base}/git/{name}"] if base else []
