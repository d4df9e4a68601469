from __future__ import annotations

import pytest

from buildtools import BuildToolsError, Refused
from buildtools.channel import Channel, Direction, Move, channel_key, channel_name, refuse_name
from buildtools.version import Version


def channel(*versions: str) -> Channel:
    return Channel("stage", tuple(Move(version, "c" * 40) for version in versions))


def test_a_channel_is_read_as_it_was_written() -> None:
    written = channel("1.4.2", "1.5.0+b", "1.4.2")
    assert written == Channel.parse(written.document(), "channels/stage.json")


def test_a_channel_that_was_never_moved_points_nowhere() -> None:
    assert (None, None, ()) == (Channel("stage").version, Channel("stage").previous, Channel("stage").directions)


@pytest.mark.parametrize(
    ("versions", "previous"),
    [
        ("1", None),
        ("1 2", "1"),
        ("1 2 3", "2"),
        ("1 2 3 2", "1"),
        ("1 2 3 2 1", None),
        ("1 2 1 3", "1"),
        ("1 3 1 2 3", "2"),
        ("1 2 3 4 3 2", "1"),
        ("2 1 3", "1"),
        ("1.0.0-rc.9 1.0.0-rc.10 1.0.0", "1.0.0-rc.10"),
    ],
)
def test_the_version_before_is_the_last_older_one_and_none_that_was_rolled_back(
    versions: str, previous: str | None
) -> None:
    assert (previous and Version.parse(previous)) == channel(*versions.split()).previous


def test_each_move_has_a_direction() -> None:
    forward, back = Direction.FORWARD, Direction.BACK
    assert (forward, forward, back, forward) == channel("1.9", "1.10", "1.9", "2.0").directions


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "is not a channel"),
        (b'{"schema": 2}', "schema 2"),
        (b'{"schema": 1, "name": "stage"}', "damaged channel .'moves'"),
        (b'{"schema": 1, "name": "stage", "moves": []}', "moves cannot be empty"),
        (b'{"schema": 1, "name": "stage", "moves": [1]}', "damaged"),
        (b'{"schema": 1, "name": "stage", "moves": [{"version": "1", "commit": 7}]}', "commit cannot be '7'"),
        (b'{"schema": 1, "name": "stage", "moves": [{"version": "-", "commit": "c"}]}', "damaged"),
    ],
)
def test_what_is_not_a_channel_is_told_apart(content: bytes, said: str) -> None:
    with pytest.raises(BuildToolsError, match=said):
        Channel.parse(content, "channels/stage.json")


@pytest.mark.parametrize("name", ["stage", "production", "_x", "team.eu-1", "latest", "vendor", "a" * 128])
def test_a_word_can_be_a_channel(name: str) -> None:
    refuse_name(name, ("{major}.{minor}", "stable-{major}"))
    assert name == channel_name(channel_key(name))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "cannot be a channel's name"),
        ("../claims/1", "cannot be a channel's name"),
        ("-x", "cannot be a channel's name"),
        ("stäge", "cannot be a channel's name"),
        ("stage\n", "cannot be a channel's name"),
        ("a" * 129, "cannot be a channel's name"),
        ("1", "is a version"),
        ("1.4.2", "is a version"),
        ("v2", "is a version"),
        ("release-1-3-gabcdef1", "is a version"),
        ("stage-dirty", "is a version"),
        ("fp-0123456789abcdef", "is the tag of a fingerprint"),
        ("latest", "is the moving tag latest"),
        ("stable-10", "is the moving tag stable-{major}"),
    ],
)
def test_a_name_that_is_another_kind_of_tag_is_refused(name: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        refuse_name(name, ("latest", "stable-{major}"))


@pytest.mark.parametrize("key", ["channels/a/b.json", "channels/.json", "channels/a.txt", "releases/a.json", "a.json"])
def test_what_else_lies_beside_channels_is_none(key: str) -> None:
    assert "" == channel_name(key)
