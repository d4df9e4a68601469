"""The names that describe may give to commits: which refs take part, and which of several wins."""

from __future__ import annotations

import os
import re

from buildtools.git.errors import DamagedRepository
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import date_of
from buildtools.git.storage.objects import Objects
from buildtools.git.wildmatch import compiled

BRANCH, LIGHTWEIGHT, ANNOTATED = 0, 1, 2
_TAGS = b"refs/tags/"
_MATCHED_BEHIND = (_TAGS, b"refs/heads/", b"refs/remotes/")


class Tag:
    """The header of a tag object. ``date`` is 0 without a tagger."""

    __slots__ = ("date", "kind", "name", "target")

    def __init__(self, content: bytes, hash_size: int) -> None:
        match = re.match(
            rb"object ([0-9a-f]{%d})\ntype ([a-z]+)\ntag ([^\n]*)\n(tagger [^\n]*\n)?" % (hash_size * 2), content
        )
        if not match or match[2] not in (b"commit", b"tree", b"blob", b"tag"):
            raise DamagedRepository("a tag object cannot be understood")
        self.target = bytes.fromhex(match[1].decode())
        self.kind = match[2].decode()
        self.name = match[3]
        self.date = date_of(match[4]) if match[4] else 0


def read_tag(objects: Objects, oid: bytes) -> Tag | None:
    """The tag object, or ``None`` if it is not one or cannot be read."""
    try:
        kind, content = objects.read(oid)
        return Tag(content, objects.hash_size) if kind == "tag" else None
    except DamagedRepository:
        return None


def peeled(objects: Objects, oid: bytes) -> bytes | None:
    """The object that a tag finally leads to, ``None`` if that cannot be read; the id itself if it is not a tag."""
    try:
        if objects.kind(oid) != "tag":
            return oid
    except DamagedRepository:
        return None
    while True:
        tag = read_tag(objects, oid)
        if tag is None:
            return None
        oid = tag.target
        if tag.kind != "tag":
            return oid


class Name:
    """A ref as a name: ``path`` without ``refs/tags/`` (or ``refs/``), and the tag object once it was read."""

    __slots__ = ("oid", "path", "priority", "tag")

    def __init__(self, path: bytes, priority: int, oid: bytes) -> None:
        self.path, self.priority, self.oid = path, priority, oid
        self.tag: Tag | None = None

    def read(self, objects: Objects) -> Tag | None:
        """The tag object of an annotated tag, else ``None``.

        :raises DamagedRepository: if it cannot be read.
        """
        if self.tag is None and self.priority == ANNOTATED:
            self.tag = read_tag(objects, self.oid)
            if self.tag is None:
                raise DamagedRepository(f"the annotated tag {os.fsdecode(self.path)} cannot be read")
        return self.tag


def known_names(
    repository: Repository, *, any_ref: bool, match: tuple[bytes, ...], exclude: tuple[bytes, ...]
) -> dict[bytes, Name]:
    """The winning name of every named object, by the object's id."""
    objects = repository.objects
    null = bytes(objects.hash_size)
    names: dict[bytes, Name] = {}
    matching = [compiled(pattern).fullmatch for pattern in match]
    excluding = [compiled(pattern).fullmatch for pattern in exclude]
    cut = len(b"refs/") if any_ref else len(_TAGS)
    for ref in repository.refs.under(b"refs/" if any_ref else _TAGS):
        if matching or excluding:
            prefix = next((prefix for prefix in _MATCHED_BEHIND if ref.name.startswith(prefix)), None)
            if prefix is None:
                continue
            short_name = ref.name[len(prefix) :]
            if any(pattern(short_name) for pattern in excluding):
                continue
            if matching and not any(pattern(short_name) for pattern in matching):
                continue
        oid = ref.oid or null
        target = ref.peeled or (peeled(objects, oid) if ref.oid else None) or oid
        priority = ANNOTATED if target != oid else LIGHTWEIGHT if ref.name.startswith(_TAGS) else BRANCH
        name = Name(ref.name[cut:], priority, oid)
        rival = names.get(target)
        if (
            rival is None
            or rival.priority < priority
            or (rival.priority == priority == ANNOTATED and _later(name, rival, objects))
        ):
            names[target] = name
    return names


def _later(name: Name, rival: Name, objects: Objects) -> bool:
    """Whether another annotated tag of the same commit replaces the current one."""
    rival.tag = rival.tag or read_tag(objects, rival.oid)
    if rival.tag is None:
        return True
    name.tag = read_tag(objects, name.oid)
    return name.tag is not None and rival.tag.date < name.tag.date
