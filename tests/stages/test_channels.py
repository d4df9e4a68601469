"""Channels with a real registry and a real store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Drifted, Refused
from buildtools.channel import Channel, channel_key
from buildtools.events import Warned
from buildtools.image.registry.lookup import move_tag
from buildtools.release import Release
from buildtools.stages.channels import (
    ChannelState,
    advance_channels,
    move_forward,
    read_channels,
    roll_back,
    show_channel,
)
from buildtools.stages.history import read_history
from buildtools.version import Version
from tests.conftest import S3Service
from tests.contract.registries import own_registry
from tests.releases import ReleasePlace, digests, release_place


@pytest.fixture
def place(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[ReleasePlace]:
    with release_place(tmp_path, registry, s3, environment, moving_tags=("newest",)) as place:
        yield place


def forward(place: ReleasePlace, version: str, *, dry_run: bool = False) -> ChannelState:
    with place.task(dry_run=dry_run) as task:
        return move_forward(task, "stage", Version.parse(version))


def back(place: ReleasePlace, version: str = "", *, dry_run: bool = False) -> ChannelState:
    with place.task(dry_run=dry_run) as task:
        return roll_back(task, "stage", Version.parse(version) if version else None)


def show(place: ReleasePlace) -> ChannelState:
    with place.task() as task:
        return show_channel(task, "stage")


def moves(place: ReleasePlace) -> list[str]:
    """The versions that the store has of the channel, oldest first."""
    content = place.store.read(channel_key("stage"))
    return [move["version"] for move in json.loads(content.data)["moves"]] if content else []


def warnings(place: ReleasePlace) -> list[str]:
    return [event.message for event in place.events if isinstance(event, Warned)]


def put_channel(place: ReleasePlace, content: bytes) -> None:
    """Write the channel over what is there."""
    place.store.delete(channel_key("stage"))
    assert place.store.create(channel_key("stage"), content, "application/json")


def test_a_channel_moves_forward_and_back_with_the_tags_of_all_images(place: ReleasePlace) -> None:
    old, new = place.release("1.4.2"), place.release("1.10.0")
    assert ("", "1.4.2", 2) == ((first := forward(place, "1.4.2")).before, first.version, len(first.tags))
    assert digests(old) == place.tags("stage")
    second = forward(place, "1.10.0")
    assert ("1.4.2", "1.10.0") == (second.before, second.version)
    assert digests(old) == {image: tag.before for image, tag in zip(("app", "web"), second.tags, strict=True)}
    assert digests(new) == place.tags("stage")
    third = back(place)
    assert ("1.10.0", "1.4.2") == (third.before, third.version)
    assert digests(old) == place.tags("stage")
    assert ["1.4.2", "1.10.0", "1.4.2"] == moves(place)
    assert (third.channel, ()) == ((shown := show(place)).channel, shown.tags)
    assert digests(new) == place.tags("1.10.0")


def test_the_same_move_again_writes_nothing(place: ReleasePlace) -> None:
    place.release("1.0.0")
    forward(place, "1.0.0")
    before = place.store.head(channel_key("stage"))
    again = forward(place, "1.0.0")
    assert ("1.0.0", "1.0.0", ()) == (again.before, again.version, again.tags)
    assert before == place.store.head(channel_key("stage"))


def test_forward_is_never_back_and_back_never_forward(place: ReleasePlace) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        place.release(version)
    forward(place, "1.1.0")
    with pytest.raises(Refused, match="to go back, run `invoke rollback stage --to 1"):
        forward(place, "1.0.0")
    with pytest.raises(Refused, match="to go forward, run `invoke channel stage --to 1"):
        back(place, "1.2.0")
    with pytest.raises(Refused, match="has never pointed to a version older than"):
        back(place)
    assert "1.0.0" == back(place, "1.0.0").version
    assert ["1.1.0", "1.0.0"] == moves(place)


def test_a_channel_that_is_not_there_is_refused(place: ReleasePlace) -> None:
    for ask in (show, back):
        with pytest.raises(Refused, match="there is no channel stage"):
            ask(place)


def test_only_a_released_and_intact_version_can_be_pointed_to(place: ReleasePlace) -> None:
    release = place.release("1.0.0", archives=("daemon",))
    with pytest.raises(Refused, match="is not released: s3://"):
        forward(place, "1.1.0")
    place.store.delete(release.archives[0].key)
    with pytest.raises(Drifted, match="archive daemon missing"):
        forward(place, "1.0.0")
    assert ([], {"app": "", "web": ""}) == (moves(place), place.tags("stage"))


def test_a_rollback_to_a_damaged_release_changes_nothing(place: ReleasePlace) -> None:
    old, new = place.release("1.0.0"), place.release("1.1.0")
    for version in ("1.0.0", "1.1.0"):
        forward(place, version)
    web = old.images[1]
    move_tag(place.client, web.repository, "1.0.0", new.images[1].digest)
    with pytest.raises(Drifted, match="image web changed"):
        back(place)
    assert (["1.0.0", "1.1.0"], digests(new)) == (moves(place), place.tags("stage"))


def test_a_dry_run_says_what_would_move_and_moves_nothing(place: ReleasePlace) -> None:
    old, new = place.release("1.0.0"), place.release("1.1.0")
    planned = forward(place, "1.0.0", dry_run=True)
    assert ("", "1.0.0", digests(old)) == (planned.before, planned.version, after(planned))
    assert ([], {"app": "", "web": ""}) == (moves(place), place.tags("stage"))
    forward(place, "1.0.0")
    forward(place, "1.1.0")
    planned = back(place, dry_run=True)
    assert ("1.1.0", "1.0.0", digests(old)) == (planned.before, planned.version, after(planned))
    assert (["1.0.0", "1.1.0"], digests(new)) == (moves(place), place.tags("stage"))


def after(state: ChannelState) -> dict[str, str]:
    return {tag.reference.rpartition("/")[2].partition(":")[0]: tag.after for tag in state.tags}


def test_an_image_that_a_version_does_not_have_keeps_its_tag_and_is_named(place: ReleasePlace) -> None:
    old, new = place.release("1.0.0", ("app",)), place.release("1.1.0", ("app", "web"))
    forward(place, "1.0.0")
    forward(place, "1.1.0")
    back(place)
    assert {**digests(old), "web": digests(new)["web"]} == place.tags("stage")
    assert ["web:stage stays at 1.1.0: 1.0.0 has no such image"] == [
        text.rpartition("/")[2] for text in warnings(place)
    ]


def test_build_metadata_is_part_of_the_version(place: ReleasePlace) -> None:
    place.release("1.1.0+b")
    assert "1.1.0+b" == forward(place, "1.1.0+b").version
    assert ["1.1.0+b"] == moves(place)


def test_a_new_release_moves_the_configured_channels_but_none_that_was_further(
    tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    with release_place(tmp_path, registry, s3, environment, channels=("stage",)) as place:

        def advance(release: Release) -> int:
            """The number of tags that move."""
            with place.task() as task:
                return len(advance_channels(task, release))

        old, new = place.release("1.0.0"), place.release("1.1.0")
        assert (2, 2, 0) == (advance(old), advance(new), advance(place.release("1.1.0-1-gc0ffee")))
        back(place)
        # It was rolled back, and the job is run again.
        assert 0 == advance(new)
        assert ["1.0.0", "1.1.0", "1.0.0"] == moves(place)
        newest = place.release("1.2.0")
        with place.task() as task:
            (channel,) = read_channels(task)
        # A run was killed when it had moved the channel, but not yet its tags.
        put_channel(place, channel.moved_to(newest).document())
        assert (2, 0) == (advance(newest), advance(newest))
        assert digests(newest) == place.tags("stage")


@pytest.mark.parametrize("name", ["1.0.0", "newest", "a/b"])
def test_a_name_that_could_be_another_tag_is_refused(place: ReleasePlace, name: str) -> None:
    place.release("1.0.0")
    with place.task() as task, pytest.raises(Refused, match=f"'?{name}'? cannot be|cannot be called {name}"):
        move_forward(task, name, Version.parse("1.0.0"))


def test_a_word_that_is_a_version_here_cannot_be_a_channel(place: ReleasePlace) -> None:
    place.release("stage")
    place.release("1.0.0")
    with pytest.raises(Refused, match=r"releases/stage\.json says that it is a version"):
        forward(place, "1.0.0")
    place.store.delete("releases/stage.json")
    with pytest.raises(Refused, match=r"claims/stage\.json says that it is a version"):
        forward(place, "1.0.0")


def test_what_is_not_a_channel_is_never_overwritten(place: ReleasePlace) -> None:
    place.release("1.0.0")
    for content, said in ((b"<html>", "is not a channel"), (Channel("other").document(), "damaged channel")):
        put_channel(place, content)
        with pytest.raises(BuildToolsError, match=said):
            forward(place, "1.0.0")
    forward_other = Channel("other").moved_to(place.release("1.1.0"))
    put_channel(place, forward_other.document())
    with pytest.raises(BuildToolsError, match="is the channel other"):
        forward(place, "1.0.0")


def test_tags_that_do_not_follow_are_moved_by_whatever_runs_next(place: ReleasePlace) -> None:
    old, new = place.release("1.0.0"), place.release("1.1.0")
    forward(place, "1.0.0")
    for run in (show, lambda place: forward(place, "1.1.0"), lambda place: back(place, "1.1.0")):
        put_channel(place, Channel("stage").moved_to(old).moved_to(new).document())
        for image in old.images:
            move_tag(place.client, image.repository, "stage", image.digest)
        assert ("1.1.0", "1.1.0", digests(new)) == ((state := run(place)).before, state.version, after(state))
        assert digests(new) == place.tags("stage")


def test_a_rollback_that_was_cut_off_is_finished_and_goes_back_no_further(place: ReleasePlace) -> None:
    oldest, old, new = (place.release(version) for version in ("1.0.0", "1.1.0", "1.2.0"))
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        forward(place, version)
    put_channel(place, Channel("stage").moved_to(oldest).moved_to(old).moved_to(new).moved_to(old).document())
    assert ("1.1.0", digests(old)) == (back(place).version, place.tags("stage"))
    assert ["the last rollback of stage was interrupted: it is finished now, and nothing else is done"] == warnings(
        place
    )
    assert ("1.0.0", digests(oldest)) == (back(place).version, place.tags("stage"))


def test_a_rollback_after_a_move_that_was_cut_off_goes_back(place: ReleasePlace) -> None:
    old, new = place.release("1.0.0"), place.release("1.1.0")
    forward(place, "1.0.0")
    put_channel(place, Channel("stage").moved_to(old).moved_to(new).document())
    assert "1.0.0" == back(place).version
    assert (["1.0.0", "1.1.0", "1.0.0"], digests(old)) == (moves(place), place.tags("stage"))


def test_a_channel_whose_release_is_gone_says_so_and_can_be_moved_away(place: ReleasePlace) -> None:
    old = place.release("1.0.0")
    place.release("1.1.0")
    for version in ("1.0.0", "1.1.0"):
        forward(place, version)
    place.store.delete("releases/1.1.0.json")
    with pytest.raises(
        Drifted, match=r"stage points to 1.1.0 of commit .{12}, but .*releases/1\.1\.0\.json does not describe that"
    ):
        show(place)
    assert ("1.0.0", digests(old)) == (back(place).version, place.tags("stage"))


def test_without_the_right_to_push_nothing_is_written(
    tmp_path: Path, s3: S3Service, environment: Mapping[str, str]
) -> None:
    with (
        own_registry(tmp_path / "registry", environment) as registry,
        release_place(tmp_path, registry.host, s3, environment) as place,
    ):
        place.release("1.0.0")
        registry.stop()
        registry.start(
            storage={
                "filesystem": {"rootdirectory": str(registry.folder / "store")},
                "maintenance": {"readonly": {"enabled": True}},
            }
        )
        with pytest.raises(Refused, match="does not accept pushes"):
            forward(place, "1.0.0")
        assert [] == moves(place)


def test_history_names_the_channels_of_each_version(place: ReleasePlace) -> None:
    for version in ("1.0.0", "1.1.0"):
        place.release(version)
    for name, version in (("stage", "1.0.0"), ("production", "1.0.0"), ("stage", "1.1.0")):
        with place.task() as task:
            move_forward(task, name, Version.parse(version))
    for key in ("channels/note.txt", "channels/old/stage.json"):
        assert place.store.create(key, b"{}", "application/json")
    with place.task() as task:
        assert ["production", "stage"] == [channel.name for channel in read_channels(task)]
        assert {"1.0.0": ("production",), "1.1.0": ("stage",)} == {
            entry.version: entry.channels for entry in read_history(task)
        }


def test_history_warns_of_a_channel_that_cannot_be_read(place: ReleasePlace) -> None:
    place.release("1.0.0")
    put_channel(place, b"<html>")
    with place.task() as task:
        assert [()] == [entry.channels for entry in read_history(task)]
    assert [f"{place.store.location('channels/stage.json')} is not a channel"] == warnings(place)
