"""HEAD compared with the index."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from buildtools.git.errors import DamagedRepository
from buildtools.git.storage.objects import Objects
from buildtools.git.storage.trees import entries
from buildtools.git.worktree.index import FLAGS, MODE, OID, SPARSE_DIRECTORY, STAGE, Index

_TYPE = 0o170000
_FOLDER = 0o040000
_FILE = 0o100000


# Name, mode (one that an index could have), object id.
TreeEntry = tuple[bytes, int, bytes]


class Staged:
    """What the next commit would change. Entries of the index are identified by position.

    ``modified`` and ``removed`` have the mode in the tree.
    """

    def __init__(self) -> None:
        self.added: set[int] = set()
        self.modified: dict[int, int] = {}
        self.removed: dict[bytes, int] = {}


def tree_entries(objects: Objects, oid: bytes) -> list[TreeEntry]:
    """The entries of one tree object, in order.

    :raises DamagedRepository: if it is missing, or is not a tree.
    """
    kind, data = objects.read(oid)
    if kind != "tree":
        raise DamagedRepository(f"object {oid.hex()} is a {kind} where a tree is needed")
    return [(name, _canonical(mode), entry_oid) for mode, name, entry_oid in entries(data, len(oid))]


def _canonical(mode: int) -> int:
    kind = mode & _TYPE
    return (0o100755 if mode & 0o100 else 0o100644) if kind == _FILE else kind


def tree_files(objects: Objects, oid: bytes, folder: bytes) -> Iterator[TreeEntry]:
    """Everything below a tree that is not a folder, with its full name; ``folder`` is ``b""`` or ends in a slash."""
    for name, mode, entry_oid in tree_entries(objects, oid):
        if mode == _FOLDER:
            yield from tree_files(objects, entry_oid, folder + name + b"/")
        else:
            yield folder + name, mode, entry_oid


def staged(index: Index, objects: Objects, tree: bytes) -> Staged:
    """The difference between a tree and the index. An unmerged path appears once, by its lowest stage, as modified.

    Folders that are unchanged according to the cache-tree extension are not read.

    :raises DamagedRepository: if a tree is missing or cannot be read.
    """
    difference = Staged()
    _compare(index, objects, tree, b"", 0, len(index.names), difference)
    return difference


def _compare(
    index: Index, objects: Objects, tree: bytes, folder: bytes, start: int, stop: int, difference: Staged
) -> None:
    """Compare ``names[start:stop]``, all entries of the index below ``folder``, with the folder's tree."""
    if index.cached_tree(folder) == tree and not objects.replacements:
        return
    names, fields = index.names, index.fields
    entries = {folder + name + b"/" * (mode == _FOLDER): (oid, mode) for name, mode, oid in tree_entries(objects, tree)}
    depth = len(folder)
    at = start
    while at < stop:
        name = names[at]
        slash = name.find(b"/", depth)
        if slash < 0 or (fields[at][MODE] == SPARSE_DIRECTORY and slash == len(name) - 1):
            entry = entries.pop(name, None)
            if entry is None:
                difference.added.add(at)
            elif fields[at][FLAGS] & STAGE or entry != (fields[at][OID], fields[at][MODE]):
                difference.modified[at] = entry[1]
            at += 1
            while at < stop and names[at] == name:
                at += 1
            continue
        inner = name[: slash + 1]
        # "0" is the character after "/"
        end = bisect_left(names, inner[:-1] + b"0", at, stop)
        entry = entries.pop(inner, None)
        if entry is None:
            difference.added.update(
                below for below in range(at, end) if below == at or names[below] != names[below - 1]
            )
        else:
            _compare(index, objects, entry[0], inner, at, end, difference)
        at = end
    for name, (oid, mode) in entries.items():
        if mode == _FOLDER:
            difference.removed |= {file: file_mode for file, file_mode, _ in tree_files(objects, oid, name)}
        else:
            difference.removed[name] = mode
