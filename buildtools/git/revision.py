"""Names of objects as users write them. https://git-scm.com/docs/gitrevisions"""

from __future__ import annotations

import re

from buildtools.git.commits import Commits
from buildtools.git.errors import BadRevision, DamagedRepository, MissingObject
from buildtools.git.names import read_tag
from buildtools.git.refs import is_safe, resolve
from buildtools.git.repository import Repository

# https://git-scm.com/docs/gitrevisions#Documentation/gitrevisions.txt-emltrefnamegtemegemmasterememheadsmasterememrefsheadsmasterem
_RULES = (b"%s", b"refs/%s", b"refs/tags/%s", b"refs/heads/%s", b"refs/remotes/%s", b"refs/remotes/%s/HEAD")
_SUFFIX = re.compile(r"[~^]\d*$")


class Revisions:
    """Resolves names in one repository. ``commits`` gives parents, with grafts in force."""

    def __init__(self, repository: Repository, commits: Commits) -> None:
        self._repository = repository
        self._commits = commits

    def resolve(self, name: str) -> bytes:
        """The object that a name stands for.

        :raises BadRevision: for none, or for several.
        """
        found = self._find(name)
        if found is None:
            raise BadRevision(
                f"{name!r} names no commit", "give a branch, a tag or a commit that `git log --all` shows"
            )
        return found

    def commit(self, oid: bytes) -> bytes | None:
        """The commit that the object is, or that a tag leads to; ``None`` for trees and blobs.

        :raises DamagedRepository: an object on the way cannot be read.
        """
        objects = self._repository.objects
        while True:
            kind, _ = objects.read(oid)
            if kind != "tag":
                return oid if kind == "commit" else None
            tag = read_tag(objects, oid)
            if tag is None:
                raise DamagedRepository(f"tag {oid.hex()} cannot be understood")
            oid = tag.target

    def _find(self, name: str) -> bytes | None:
        suffix = _SUFFIX.search(name)
        if suffix:
            count = int(suffix[0][1:] or 1)
            commit = self._committish(name[: suffix.start()])
            if commit is None:
                return None
            if suffix[0][0] == "~":
                for _ in range(count):
                    parents = self._commits.load(commit)[1]
                    if not parents:
                        return None
                    commit = parents[0]
                return commit
            parents = self._commits.load(commit)[1]
            return commit if count == 0 else parents[count - 1] if count <= len(parents) else None
        return self._basic(name)

    def _committish(self, name: str) -> bytes | None:
        found = self._find(name)
        try:
            return None if found is None else self.commit(found)
        except MissingObject:
            return None

    def _basic(self, name: str) -> bytes | None:
        if re.fullmatch(rf"[0-9a-fA-F]{{{self._repository.hash_size * 2}}}", name):
            return bytes.fromhex(name)
        return self._ref(name)

    def _ref(self, name: str) -> bytes | None:
        """The first of the rules that leads to a ref."""
        short = b"HEAD" if name == "@" else name.encode("utf-8", "surrogateescape")
        for rule in _RULES:
            full = rule % short
            if is_safe(full):
                oid = resolve(self._repository.refs, full)[1]
                if oid is not None:
                    return oid
        return None
