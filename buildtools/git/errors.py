"""What can be wrong with a repository. Each message says the fact and the next step.

* ``NotARepository``, ``BadRevision``, ``NoCommit``, ``NoTag``, ``ShallowClone``: refused, nothing is broken
* ``BadConfig``: a git configuration file that git would not read either
* ``DamagedRepository``: an object, pack, index or ref cannot be read
    * ``MissingObject``: it is not there at all
"""

from __future__ import annotations

from buildtools import BuildToolsError, Refused


class NotARepository(Refused):
    """No repository here, or one that git of this generation would not open."""


class BadRevision(Refused):
    """A name that leads to no commit."""


class NoCommit(Refused):
    """The branch has no commit yet."""


class NoTag(Refused):
    """No tag, or none that the commit descends from."""


class ShallowClone(Refused):
    """The history is cut off before a tag was met, so the true version cannot be known."""


class BadConfig(Refused):
    """A configuration file or value that git refuses."""


class DamagedRepository(BuildToolsError):
    """Something in the repository cannot be read."""

    def __init__(self, fact: str, remedy: str = "check the repository with `git fsck`, or clone it anew") -> None:
        super().__init__(fact, remedy)


class MissingObject(DamagedRepository):
    """An object that something refers to is in no pack and no folder."""

    def __init__(self, oid: bytes) -> None:
        super().__init__(f"object {oid.hex()} is missing")
        self.oid = oid
