"""The files of a work tree compared with the index: by status if that is enough, else by content."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import islice

from buildtools.git.config import boolean
from buildtools.git.errors import NotARepository
from buildtools.git.repository import Repository
from buildtools.git.worktree.gitlink import gitlink_head
from buildtools.git.worktree.index import (
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
from buildtools.git.worktree.staging import tree_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    import hashlib

    # Imported only when content must be compared, which a clean tree does not need.
    from buildtools.git.worktree.attributes import Attributes
    from buildtools.git.worktree.cone import Cone
    from buildtools.git.worktree.conversion import Conversion

_LOW = 0xFFFFFFFF
_TYPE = 0o170000
_LONGEST_PLAIN = 0x0FFF  # flags with only the length of a name
_READ_SIZE = 1 << 20
# The time to examine these entries is several times what another process takes to start.
LEAST_SHARE = 4000
_EMPTY_BLOBS = {
    20: bytes.fromhex("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
    32: bytes.fromhex("473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813"),
}


class FileState(Enum):
    """The state of a file compared with its entry in the index."""

    SAME = "same"
    CHANGED = "changed"
    MISSING = "missing"


class Files:
    """The files of one repository's work tree, ``top``, with the index read once.

    Must be closed, because filters may be running.
    """

    def __init__(self, repository: Repository, *, refresh: bool = True) -> None:
        """With ``refresh=False`` a file whose status differs from the index counts as changed.

        :raises NotARepository: if there is no work tree, or it is gone.
        :raises DamagedRepository: if the index cannot be read.
        """
        if repository.work_tree is None:
            raise NotARepository("there is no work tree to compare with", "run this in a clone that is not bare")
        if not os.path.isdir(repository.work_tree):
            raise NotARepository(
                f"the work tree {repository.work_tree} is not a folder", "correct core.worktree or GIT_WORK_TREE"
            )
        self.repository = repository
        self.top = os.fsencode(repository.work_tree)
        self._refresh = refresh
        config = repository.config
        place = repository.environment.get("GIT_INDEX_FILE") or f"{repository.git_dir}/index"
        place = os.path.join(repository.work_tree, place)
        self.index = read_index(place, repository.git_dir, repository.hash_size)
        self._trust_mode = config.bool("core.filemode", True)
        self._has_symlinks = config.bool("core.symlinks", True)
        self._minimal = (config.get("core.checkstat") or "").lower() == "minimal"
        self._trust_ctime = config.bool("core.trustctime", True) and not self._minimal
        self._empty_blob = _EMPTY_BLOBS[repository.hash_size]
        self._states: dict[int, FileState] = {}
        self._behind_links: dict[bytes, bool] = {b"": False}
        self._conversion: Conversion | None = None
        self._cone: Cone | None = None
        self._is_sparse = config.bool("core.sparsecheckout")
        if self._is_sparse and not config.bool("sparse.expectfilesoutsideofpatterns"):
            self._notice_present_files()

    def close(self) -> None:
        """End the filters."""
        if self._conversion:
            self._conversion.close()

    def is_looked_at(self, position: int) -> bool:
        """Whether git compares an entry with its file at all."""
        entry = self.index.fields[position]
        return not entry[FLAGS] & (ASSUME_VALID | SKIP_WORKTREE) and entry[MODE] != SPARSE_DIRECTORY

    def suspects(self) -> list[int]:
        """The positions of all entries except those whose file status clearly matches the index."""
        shares = 1
        if len(self.index) >= 2 * LEAST_SHARE and self.repository.config.bool("core.preloadindex", True):
            from buildtools.git.worktree.shares import processes

            shares = min(processes(), len(self.index) // LEAST_SHARE)
        if shares == 1:
            return self._suspects(0, None)
        from buildtools.git.worktree.shares import gathered

        return gathered(self._suspects, len(self.index), shares)

    def _suspects(self, first: int, end: int | None) -> list[int]:
        """The suspects among the entries from ``first`` up to ``end``."""
        # The ten items of a status by position are integers, and only they are compared.
        lstat: Callable[..., Sequence[int]] = os.lstat  # type: ignore[assignment]
        mode_mask = 0o170100 if self._trust_mode else _TYPE
        trust_ctime, minimal, empty = self._trust_ctime, self._minimal, self._empty_blob
        index_time = self.index.mtime or 1 << 32
        positions: list[int] = []
        folder, descriptor = None, -1
        try:
            for position, (buffer, start, stop, fields) in islice(enumerate(self.index.located()), first, end):
                ctime, mtime, inode, mode, user, group, size, oid, flags = fields
                if flags > _LONGEST_PLAIN or mode == GITLINK:
                    positions.append(position)
                    continue
                name_start = buffer.rfind(b"/", start, stop) + 1 or start
                if buffer[start:name_start] != folder:
                    # Looking up names relative to an open folder saves the kernel the path lookup.
                    folder = buffer[start:name_start]
                    if descriptor >= 0:
                        os.close(descriptor)
                    descriptor = self._open_folder(folder)
                try:
                    status = lstat(buffer[name_start:stop], dir_fd=descriptor)
                except OSError:
                    positions.append(position)
                    continue
                if (
                    status[8] & _LOW != mtime
                    or status[6] & _LOW != size
                    or (status[0] ^ mode) & mode_mask
                    or mtime >= index_time
                    or (trust_ctime and status[9] & _LOW != ctime)
                    or not (minimal or (status[1] & _LOW == inode and status[4] == user and status[5] == group))
                    or not (size or oid == empty)
                ):
                    positions.append(position)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return positions

    def _open_folder(self, folder: bytes) -> int:
        """A descriptor of a folder in the tree; -1, which every call rejects, if git would not look into it."""
        if self._is_behind_link(folder[: folder.rfind(b"/", 0, -1) + 1][:-1]):
            return -1
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(self.top + b"/" + folder[:-1], flags)
        except OSError:
            return -1

    def state(self, position: int) -> FileState:
        """The state of the file of an entry; for a submodule, only whether its folder exists.

        :raises DamagedRepository: if a required filter failed.
        """
        cached_state = self._states.get(position)
        if cached_state is None:
            cached_state = self._states[position] = self._read_state(position)
        return cached_state

    def _read_state(self, position: int) -> FileState:
        entry, name = self.index.fields[position], self.index.names[position]
        path = self.top + b"/" + name
        try:
            status = os.lstat(path)
        except OSError:
            return FileState.MISSING
        if self._is_behind_link(name.rpartition(b"/")[0]):
            return FileState.MISSING
        if entry[MODE] == GITLINK:
            return FileState.SAME if stat.S_ISDIR(status.st_mode) else FileState.CHANGED
        if stat.S_ISDIR(status.st_mode):
            # A repository in place of a file is a change; any other folder means that the file is missing.
            return FileState.CHANGED if gitlink_head(path, self.repository.environment) else FileState.MISSING
        if entry[FLAGS] & (STAGE | INTENT_TO_ADD):
            return FileState.CHANGED
        return FileState.CHANGED if self._file_changed(name, path, entry, status) else FileState.SAME

    def _file_changed(self, name: bytes, path: bytes, entry: Fields, status: os.stat_result) -> bool:
        ctime, mtime, inode, mode, user, group, size, oid, _ = entry
        kind = stat.S_IFMT(status.st_mode)
        if mode == SYMLINK:
            if kind != stat.S_IFLNK and (self._has_symlinks or kind != stat.S_IFREG):
                return True
        elif kind != stat.S_IFREG or (self._trust_mode and (status.st_mode ^ mode) & 0o100):
            return True
        if status.st_size & _LOW != size and size:
            # Git does not run a filter on a file of another size.
            return True
        is_touched = (
            status.st_size & _LOW != size
            or (not size and oid != self._empty_blob)
            or int(status[8]) & _LOW != mtime
            or (self._trust_ctime and int(status[9]) & _LOW != ctime)
            or not (self._minimal or (status.st_ino & _LOW, status.st_uid, status.st_gid) == (inode, user, group))
        )
        if is_touched and not self._refresh:
            return True
        # As new as the index: the file may have been written in the same second, after its status was stored.
        racy = 0 < self.index.mtime <= mtime
        return (is_touched or racy) and self._stored_id(name, path, kind) != oid

    def _stored_id(self, name: bytes, path: bytes, kind: int) -> bytes | None:
        """The object id that git would give the file; ``None`` if it cannot be read."""
        try:
            if kind == stat.S_IFLNK:
                return self._blob_id(os.readlink(path))
            plan = self.conversion.plan(name)
            with open(path, "rb", buffering=0) as stream:
                if plan:
                    return self._blob_id(self.conversion.to_git(name, stream.readall(), plan))
                digest = self._new_blob(os.fstat(stream.fileno()).st_size)
                while block := stream.read(_READ_SIZE):
                    digest.update(block)
                return digest.digest()
        except OSError:
            return None

    def _blob_id(self, data: bytes) -> bytes:
        digest = self._new_blob(len(data))
        digest.update(data)
        return digest.digest()

    def _new_blob(self, size: int) -> hashlib._Hash:
        import hashlib

        return hashlib.new(self.repository.object_format, b"blob %d\0" % size, usedforsecurity=False)

    def _is_behind_link(self, folder: bytes) -> bool:
        """Whether a parent folder is a symbolic link: git tracks nothing behind one."""
        is_behind = self._behind_links.get(folder)
        if is_behind is None:
            is_behind = self._is_behind_link(folder.rpartition(b"/")[0]) or os.path.islink(self.top + b"/" + folder)
            self._behind_links[folder] = is_behind
        return is_behind

    def attributes(self) -> Attributes:
        """The attributes of this tree."""
        from buildtools.git.worktree.attributes import SYSTEM_ATTRIBUTES, Attributes

        repository = self.repository
        no_system = boolean(repository.environment.get("GIT_ATTR_NOSYSTEM", "false"))
        return Attributes(
            self.top,
            self._read_indexed_attributes,
            (*([] if no_system else [SYSTEM_ATTRIBUTES]), *user_file(repository, "core.attributesfile", "attributes")),
            f"{repository.common_dir}/info/attributes",
            ignore_case=repository.config.bool("core.ignorecase"),
        )

    def _read_indexed_attributes(self, name: bytes) -> bytes | None:
        if self._cone is None and self._is_sparse and self.repository.config.bool("core.sparsecheckoutcone"):
            from buildtools.git.worktree.cone import read_cone

            self._cone = read_cone(f"{self.repository.git_dir}/info/sparse-checkout")
        return self.read_indexed(name) if self._cone is None or self._cone.holds(name) else None

    @property
    def conversion(self) -> Conversion:
        """The conversions of this tree, created when the first content must be compared."""
        if self._conversion is None:
            from buildtools.git.worktree.conversion import Conversion

            repository = self.repository
            self._conversion = Conversion(
                self.attributes(), repository.config, self.read_indexed, self.top, repository.environment
            )
        return self._conversion

    def read_indexed(self, name: bytes) -> bytes | None:
        """A path's content in the index; our own side's if it is unmerged."""
        names, fields = self.index.names, self.index.fields
        position = self.index.position(name)
        while position is not None and position < len(names) and names[position] == name:
            if fields[position][FLAGS] & STAGE in (0, 0x2000) and fields[position][MODE] != GITLINK:
                kind, data = self.repository.objects.read(fields[position][OID])
                return data if kind == "blob" else None
            position += 1
        return None

    def expand_present_directories(self) -> None:
        """Add to the index the files of folders that exist although the sparse checkout leaves them out."""
        index = self.index
        if self._is_sparse and any(
            fields[MODE] == SPARSE_DIRECTORY and os.path.lexists(self.top + b"/" + name)
            for name, fields in zip(index.names, index.fields, strict=True)
        ):
            self._expand_sparse_directories()

    def _notice_present_files(self) -> None:
        """In a sparse checkout, also examine files that exist although they are not checked out."""
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
            for file, mode, oid in tree_files(objects, fields[OID], name):
                names.append(file)
                entries.append((0, 0, 0, mode, 0, 0, 0, oid, SKIP_WORKTREE))
        index.replace(names, entries)


def user_file(repository: Repository, key: str, name: str) -> list[str]:
    """The user's file that a configuration key names, by default ``git/NAME`` in the XDG folder."""
    path = repository.config.path(key, repository.home())
    if path is not None:
        return [os.path.join(repository.work_tree or "", path)]
    environment = repository.environment
    base = environment.get("XDG_CONFIG_HOME") or (environment.get("HOME") and f"{environment['HOME']}/.config")
    return [f"{base}/git/{name}"] if base else []
