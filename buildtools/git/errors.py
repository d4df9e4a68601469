"""What can be wrong with a repository. Each message gives the fact and the next step.

* ``NotARepository``, ``BadRevision``, ``NoCommit``, ``NoTag``, ``ShallowClone``: refused; nothing is damaged
* ``BadConfig``: a git configuration file that git would refuse too
* ``DamagedRepository``: an object, pack, index or ref cannot be read
    * ``MissingObject``: the object does not exist at all
"""

from __future__ import annotations

from buildtools import BuildToolsError, Refused


class NotARepository(Refused):
    """There is no repository here, or one that this generation of git would not open."""


class BadRevision(Refused):
    """A name does not lead to a commit."""


class NoCommit(Refused):
    """The branch has no commit yet."""


class NoTag(Refused):
    """There is no tag, or none that the commit descends from."""


class ShallowClone(Refused):
    """The history ends before a tag is found, so the true version is unknown."""


class BadConfig(Refused):
    """A configuration file or value that git refuses."""


class DamagedRepository(BuildToolsError):
    """Something in the repository cannot be read."""

    def __init__(self, fact: str, remedy: str = "check the repository with `git fsck`, or clone it again") -> None:
        super().__init__(fact, remedy)


class MissingObject(DamagedRepository):
    """An object that something refers to does not exist, neither packed nor loose."""

    def __init__(self, oid: bytes) -> None:
        super().__init__(f"object {oid.hex()} is missing")
        self.oid = oid
