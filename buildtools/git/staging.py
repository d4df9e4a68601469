"""The commit that is checked out against the index."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from buildtools.git.errors import DamagedRepository
from buildtools.git.index import FLAGS, MODE, OID, SPARSE_DIRECTORY, STAGE, Index
from buildtools.git.objects import Objects

_TYPE = 0o170000
_FOLDER = 0o040000
_FILE = 0o100000


class TreeEntry(NamedTuple):
    """One line of a tree object; ``mode`` is one that an index could have."""

    name: bytes
    mode: int
    oid: bytes


class Staged(NamedTuple):
    """What the next commit would change. Entries of the index are given by position, removed paths with their mode."""

    added: set[int]
    modified: dict[int, int]
    removed: dict[bytes, int]


def tree_entries(objects: Objects, oid: bytes) -> list[TreeEntry]:
    """The entries of one tree object, in its order.

    :raises DamagedRepository: it is missing, or is no tree.
    """
    kind, data = objects.read(oid)
    if kind != "tree":
        raise DamagedRepository(f"object {oid.hex()} is a {kind} where a tree is needed")
    found: list[TreeEntry] = []
    length = len(oid)
    at = 0
    try:
        while at < len(data):
            space = data.index(b" ", at)
            end = data.index(b"\0", space)
            found.append(
                TreeEntry(data[space + 1 : end], _canonical(int(data[at:space], 8)), data[end + 1 : end + 1 + length])
            )
            at = end + 1 + length
    except ValueError as error:
        raise DamagedRepository(f"tree {oid.hex()} cannot be read") from error
    return found


def _canonical(mode: int) -> int:
    kind = mode & _TYPE
    return (0o100755 if mode & 0o100 else 0o100644) if kind == _FILE else kind


def tree_files(objects: Objects, oid: bytes, folder: bytes) -> Iterator[TreeEntry]:
    """Everything below a tree that is no folder, with its full name; ``folder`` is ``b""`` or ends in a slash."""
    for entry in tree_entries(objects, oid):
        if entry.mode == _FOLDER:
            yield from tree_files(objects, entry.oid, folder + entry.name + b"/")
        else:
            yield entry._replace(name=folder + entry.name)


def staged(index: Index, objects: Objects, tree: bytes) -> Staged:
    """What the index changes in a tree. Unmerged paths are given once, by their lowest stage, and as modified.

    Folders that the cache-tree extension knows to be unchanged are not read.

    :raises DamagedRepository: a tree is missing or cannot be read.
    """
    found = Staged(set(), {}, {})
    _compare(index, objects, tree, b"", 0, len(index.names), found)
    return found


def _compare(index: Index, objects: Objects, tree: bytes, folder: bytes, start: int, stop: int, found: Staged) -> None:
    """Compare ``names[start:stop]``, which is all the index has below ``folder``, with the folder's tree."""
    cached = index.cached_tree(folder)
    if cached and cached.oid == tree and not objects.replacements:
        return
    names, fields = index.names, index.fields
    expected = {
        folder + entry.name + (b"/" if entry.mode == _FOLDER else b""): entry for entry in tree_entries(objects, tree)
    }
    depth = len(folder)
    at = start
    while at < stop:
        name = names[at]
        slash = name.find(b"/", depth)
        if slash < 0 or (fields[at][MODE] == SPARSE_DIRECTORY and slash == len(name) - 1):
            entry = expected.pop(name, None)
            if entry is None:
                found.added.add(at)
            elif fields[at][FLAGS] & STAGE or (entry.oid, entry.mode) != (fields[at][OID], fields[at][MODE]):
                found.modified[at] = entry.mode
            at += 1
            while at < stop and names[at] == name:
                at += 1
            continue
        inner = name[: slash + 1]
        # "0" is the character after "/"
        end = bisect_left(names, inner[:-1] + b"0", at, stop)
        entry = expected.pop(inner, None)
        if entry is None:
            found.added.update(below for below in range(at, end) if below == at or names[below] != names[below - 1])
        else:
            _compare(index, objects, entry.oid, inner, at, end, found)
        at = end
    for name, entry in expected.items():
        if entry.mode == _FOLDER:
            found.removed.update((file.name, file.mode) for file in tree_files(objects, entry.oid, name))
        else:
            found.removed[name] = entry.mode
