"""A channel: a name that points to one release, and remembers all that it ever pointed to. Pure.

``channels/NAME.json`` in the store is what counts; in the registry, the tag NAME of every image of the release follows.
A channel moves forward to newer versions, and back to older ones by a rollback only, so each move's direction is told
by the versions themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from enum import Enum
from itertools import pairwise
from typing import Any

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.json_document import encode_document, parse_document, value_of
from buildtools.release import Release
from buildtools.version import IMAGE_TAG, Version

CHANNEL_SCHEMA = 1
CHANNELS = "channels/"

_OTHER_TAGS = {
    re.compile(r"[vV]?[0-9].*|.*-[0-9]+-g[0-9a-f]{4,64}|.*-dirty"): "a version",
    re.compile(r"fp-.*"): "the tag of a fingerprint",
}
_PARTS = re.compile(r"\\\{(?:major|minor|patch)\\\}")


class Direction(Enum):
    """Where a move went, seen from the version before."""

    FORWARD = "forward"
    BACK = "back"


@frozen
class Move:
    """A version that a channel was pointed to, and the commit that it was released from."""

    version: str
    commit: str


@frozen
class Channel:
    """A channel's name and all of its ``moves``, oldest first. One that was never moved does not exist yet."""

    name: str
    moves: tuple[Move, ...] = ()

    @property
    def version(self) -> Version | None:
        """The version that it points to; None where it does not exist."""
        return Version.parse(self.moves[-1].version) if self.moves else None

    @property
    def previous(self) -> Version | None:
        """The version that a rollback goes back to: the last one that it pointed to and that is older than now's.

        Versions that were rolled back before are newer than what they were rolled back to, and are passed over.
        """
        versions = [Version.parse(move.version) for move in self.moves]
        return next((version for version in reversed(versions) if version < versions[-1]), None)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Where each move went, in their order; the first one went forward."""
        later = (
            Direction.FORWARD if Version.parse(one.version) < Version.parse(next_.version) else Direction.BACK
            for one, next_ in pairwise(self.moves)
        )
        return (Direction.FORWARD, *later) if self.moves else ()

    def moved_to(self, release: Release) -> Channel:
        """The same channel after one more move."""
        return replace(self, moves=(*self.moves, Move(release.version, release.commit)))

    def document(self) -> bytes:
        """What lies in the store: equal channels have equal bytes."""
        return encode_document(CHANNEL_SCHEMA, {"name": self.name, "moves": [asdict(move) for move in self.moves]})

    @classmethod
    def parse(cls, content: bytes, where: str) -> Channel:
        """The channel that a document describes; ``where`` names the document to the user.

        :raises BuildToolsError: it does not describe one, or is of a schema that this version does not know.
        """
        return parse_document(content, where, "channel", CHANNEL_SCHEMA, cls._of)

    @classmethod
    def _of(cls, document: Mapping[str, Any]) -> Channel:
        moves = tuple(
            Move(Version.parse(value_of(move, "version", "str")).text, value_of(move, "commit", "str"))
            for move in value_of(document, "moves", "list")
        )
        if not moves:
            raise TypeError("moves cannot be empty")
        return cls(value_of(document, "name", "str"), moves)


def channel_key(name: str) -> str:
    """Where a channel lies, relative to the artifacts' prefix."""
    return f"{CHANNELS}{name}.json"


def may_be_channel(name: str) -> bool:
    """Whether a channel can be called so, whatever moving tags there are."""
    return bool(IMAGE_TAG.fullmatch(name)) and not any(pattern.fullmatch(name) for pattern in _OTHER_TAGS)


def channel_name(key: str) -> str:
    """The name of the channel that lies under a key; empty for what is not a channel."""
    name = key.removeprefix(CHANNELS).removesuffix(".json")
    return name if channel_key(name) == key and may_be_channel(name) else ""


def refuse_name(name: str, moving_tags: Iterable[str]) -> None:
    """Nothing, where a channel may be called so. ``moving_tags`` are the configured patterns.

    :raises Refused: it cannot be a registry's tag, or could be taken for another kind of tag.
    """
    if not IMAGE_TAG.fullmatch(name):
        raise Refused(
            f"{name!r} cannot be a channel's name",
            "a channel is a tag in the registry: at most 128 letters, digits, _, . and -, as in `stage`",
        )
    patterns = {re.compile(_PARTS.sub("[0-9]+", re.escape(tag))): f"the moving tag {tag}" for tag in moving_tags}
    for pattern, meaning in {**_OTHER_TAGS, **patterns}.items():
        if pattern.fullmatch(name):
            raise Refused(f"a channel cannot be called {name}: that is {meaning}", "choose another name, as `stage`")
