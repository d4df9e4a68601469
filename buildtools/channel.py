"""A channel: a name that points to one release and records every release it has pointed to. Pure.

``channels/NAME.json`` in the store is authoritative; the registry's tag NAME of every image of the release follows it.
A channel moves forward only to newer versions, and back to older ones only by a rollback, so the versions show the
direction of each move.
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
    """The direction of a move, compared with the version before it."""

    FORWARD = "forward"
    BACK = "back"


@frozen
class Move:
    """A version that a channel was pointed to, and the commit that it was released from."""

    version: str
    commit: str


@frozen
class Channel:
    """A channel's name and all of its ``moves``, oldest first. Without moves it does not exist yet."""

    name: str
    moves: tuple[Move, ...] = ()

    @property
    def version(self) -> Version | None:
        """The version that it points to; None if it does not exist."""
        return Version.parse(self.moves[-1].version) if self.moves else None

    @property
    def previous(self) -> Version | None:
        """The version that a rollback goes back to: the latest in the history that is older than the current one.

        A version that was rolled back before is newer than the one it was rolled back to, so it is skipped.
        """
        versions = [Version.parse(move.version) for move in self.moves]
        return next((version for version in reversed(versions) if version < versions[-1]), None)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The direction of each move, in order; the first is forward."""
        later = (
            Direction.FORWARD if Version.parse(one.version) < Version.parse(next_.version) else Direction.BACK
            for one, next_ in pairwise(self.moves)
        )
        return (Direction.FORWARD, *later) if self.moves else ()

    def moved_to(self, release: Release) -> Channel:
        """The same channel after one more move."""
        return replace(self, moves=(*self.moves, Move(release.version, release.commit)))

    def document(self) -> bytes:
        """The document in the store: equal channels have equal bytes."""
        return encode_document(CHANNEL_SCHEMA, {"name": self.name, "moves": [asdict(move) for move in self.moves]})

    @classmethod
    def parse(cls, content: bytes, where: str) -> Channel:
        """The channel that a document describes; ``where`` names the document in messages.

        :raises BuildToolsError: if it is not a channel, or has a schema that this version does not know.
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
    """The key of a channel, relative to the artifacts' prefix."""
    return f"{CHANNELS}{name}.json"


def may_be_channel(name: str) -> bool:
    """Whether a channel may have this name, apart from conflicts with moving tags."""
    return bool(IMAGE_TAG.fullmatch(name)) and not any(pattern.fullmatch(name) for pattern in _OTHER_TAGS)


def channel_name(key: str) -> str:
    """The name of the channel with this key; empty if the key is not a channel's."""
    name = key.removeprefix(CHANNELS).removesuffix(".json")
    return name if channel_key(name) == key and may_be_channel(name) else ""


def refuse_name(name: str, moving_tags: Iterable[str]) -> None:
    """Raise :class:`Refused` unless a channel may have this name. ``moving_tags`` are the configured patterns.

    :raises Refused: if it cannot be a tag, or could be mistaken for another kind of tag.
    """
    if not IMAGE_TAG.fullmatch(name):
        raise Refused(
            f"{name!r} cannot be a channel's name",
            "a channel is a tag in the registry: at most 128 letters, digits, _, . and -, such as `stage`",
        )
    patterns = {re.compile(_PARTS.sub("[0-9]+", re.escape(tag))): f"the moving tag {tag}" for tag in moving_tags}
    for pattern, meaning in {**_OTHER_TAGS, **patterns}.items():
        if pattern.fullmatch(name):
            raise Refused(
                f"a channel cannot be called {name}: that is {meaning}", "choose another name, such as `stage`"
            )
