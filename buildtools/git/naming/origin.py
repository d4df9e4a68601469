"""The commit that introduced a blob, for ``git describe BLOB``."""

from __future__ import annotations

from heapq import heappop, heappush

from buildtools.git.errors import NoCommit
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import Commits
from buildtools.git.storage.trees import entries

_FOLDER = 0o040000


def first_holder(repository: Repository, commits: Commits, blob: bytes) -> tuple[bytes, bytes] | None:
    """The first commit in the order of ``git rev-list --reverse HEAD`` that has the blob, and the blob's path.

    :raises NoCommit: if there is no HEAD.
    """
    head = repository.head()
    if head is None:
        raise NoCommit("there is no commit that could hold it", "make one with `git commit`")
    date, parents = commits.load(head)
    queue = [(-date, 0, head, parents)]
    marks = {head}
    order = []
    while queue:
        _, _, commit, parents = heappop(queue)
        order.append(commit)
        for parent in parents:
            if parent not in marks:
                date, grandparents = commits.load(parent)
                heappush(queue, (-date, len(marks), parent, grandparents))
                marks.add(parent)
    trees: set[bytes] = set()
    digits = repository.hash_size * 2
    for commit in reversed(order):
        tree = bytes.fromhex(repository.objects.read(commit)[1][5 : 5 + digits].decode("latin-1"))
        path = _path_in(repository, tree, blob, b"", trees)
        if path is not None:
            return commit, path
    return None


def _path_in(repository: Repository, tree: bytes, blob: bytes, prefix: bytes, trees: set[bytes]) -> bytes | None:
    if tree in trees:
        return None
    trees.add(tree)
    for mode, name, oid in entries(repository.objects.read(tree)[1], repository.hash_size):
        if oid == blob:
            return prefix + name
        if mode == _FOLDER:
            path = _path_in(repository, oid, blob, prefix + name + b"/", trees)
            if path is not None:
                return path
    return None
