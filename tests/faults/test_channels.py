"""A channel's move is killed at each of its requests, or meets another one; the next run puts all right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from buildtools import Conflict
from buildtools.channel import channel_key
from buildtools.events import Warned
from buildtools.stages.channels import ChannelState, move_forward, roll_back, show_channel
from buildtools.task_context import TaskContext
from buildtools.version import Version
from tests.conftest import S3Service
from tests.faults.killing import KillSwitch, killable_place
from tests.faults.proxy import Wire, wire_to
from tests.releases import ReleasePlace, digests, release_place

pytestmark = pytest.mark.exhaustive

Move = Callable[[TaskContext], ChannelState]


def forward(place: ReleasePlace, version: str) -> ChannelState:
    with place.task() as task:
        return move_forward(task, "stage", Version.parse(version))


def back(place: ReleasePlace, version: str = "") -> ChannelState:
    with place.task() as task:
        return roll_back(task, "stage", Version.parse(version) if version else None)


def show(place: ReleasePlace) -> ChannelState:
    with place.task() as task:
        return show_channel(task, "stage")


@pytest.fixture
def switch(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[KillSwitch]:
    with killable_place(tmp_path, registry, s3, environment) as switch:
        yield switch


def test_killed_at_any_request_a_move_leaves_a_channel_that_the_next_run_puts_right(switch: KillSwitch) -> None:
    place = switch.place
    releases = {version: digests(place.release(version)) for version in ("1.0.0", "1.1.0", "1.2.0")}
    for version in ("1.0.0", "1.1.0"):
        forward(place, version)
    at, was_killed, ends = 0, True, set()
    while was_killed:
        at += 1
        was_killed = switch.killed(at, partial(move_forward, name="stage", version=Version.parse("1.2.0")))
        # Whoever looks at it next finishes it.
        state = show(place)
        assert releases[state.version] == place.tags("stage"), at
        ends.add(state.version)

        forward(place, "1.2.0")
        was_killed |= switch.killed(at, partial(roll_back, name="stage", version=None))
        had_moved_all = releases["1.1.0"] == place.tags("stage")
        state = back(place)
        # Only after one that was killed when all was done does the next one go back further.
        assert ("1.0.0" if had_moved_all else "1.1.0") == state.version, at
        assert releases[state.version] == place.tags("stage"), at
        if had_moved_all:
            forward(place, "1.1.0")
    assert {"1.1.0", "1.2.0"} == ends


@dataclass(frozen=True)
class Raced:
    """A place with a channel at 1.2.0, reached over wires."""

    place: ReleasePlace
    registry: Wire
    store: Wire

    def ends(
        self, wire: Wire, moment: re.Pattern[bytes], first: Move, *meanwhile: Move
    ) -> list[ChannelState | Conflict]:
        """How moves end: ``meanwhile`` the others begin and end, when the first is about to send this request."""
        ends: list[ChannelState | Conflict] = []
        waiting = list(meanwhile)

        def hold(data: bytes) -> bytes:
            while moment.match(data) and waiting:
                ends.append(self._end(waiting.pop(0)))
            return data

        wire.sent = hold
        return [self._end(first), *ends]

    def _end(self, move: Move) -> ChannelState | Conflict:
        try:
            with self.place.task() as task:
                return move(task)
        except Conflict as error:
            return error

    def moves(self) -> list[str]:
        return [move.version for move in show(self.place).channel.moves]


@pytest.fixture
def raced(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[Raced]:
    with (
        wire_to(s3.endpoint.removeprefix("http://")) as to_store,
        wire_to(registry) as to_registry,
        release_place(
            tmp_path, to_registry.address, s3, environment, s3_endpoint=f"http://{to_store.address}"
        ) as place,
    ):
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            place.release(version)
            forward(place, version)
        place.release("1.3.0")
        yield Raced(place, to_registry, to_store)


WRITE = re.compile(rb"PUT \S+/channels/stage\.json ")
TAG = re.compile(rb"PUT \S+/manifests/stage ")
BACK = partial(roll_back, name="stage", version=None)
BACK_TO_1_0 = partial(roll_back, name="stage", version=Version.parse("1.0.0"))
FORWARD = partial(move_forward, name="stage", version=Version.parse("1.3.0"))


def test_two_rollbacks_at_once_to_the_version_before_go_back_once(raced: Raced) -> None:
    ends = raced.ends(raced.store, WRITE, BACK, BACK)
    assert ["1.1.0", "1.1.0"] == [end.version for end in ends if isinstance(end, ChannelState)]
    assert ["1.0.0", "1.1.0", "1.2.0", "1.1.0"] == raced.moves()
    assert raced.place.tags("1.1.0") == raced.place.tags("stage")


@pytest.mark.parametrize(
    ("first", "second", "version"), [(BACK, BACK_TO_1_0, "1.0.0"), (BACK, FORWARD, "1.3.0"), (FORWARD, BACK, "1.1.0")]
)
def test_of_two_moves_at_once_the_first_to_be_written_wins(
    raced: Raced, first: Move, second: Move, version: str
) -> None:
    lost, won = raced.ends(raced.store, WRITE, first, second)
    assert isinstance(lost, Conflict)
    assert f"another run has just moved stage to {version}" == lost.fact
    assert isinstance(won, ChannelState)
    assert ["1.0.0", "1.1.0", "1.2.0", version] == raced.moves()
    assert raced.place.tags(version) == raced.place.tags("stage")


def test_of_two_runs_that_make_a_channel_one_wins(raced: Raced) -> None:
    raced.place.store.delete(channel_key("stage"))
    older = partial(move_forward, name="stage", version=Version.parse("1.0.0"))
    lost, won = raced.ends(raced.store, WRITE, FORWARD, older)
    assert isinstance(lost, Conflict)
    assert isinstance(won, ChannelState)
    assert (["1.0.0"], raced.place.tags("1.0.0")) == (raced.moves(), raced.place.tags("stage"))


def test_who_moves_a_tag_last_gives_it_to_where_the_channel_points_by_then(raced: Raced) -> None:
    last, _ = raced.ends(raced.registry, TAG, BACK, FORWARD)
    assert isinstance(last, ChannelState)
    assert ("1.2.0", "1.3.0") == (last.before, last.version)
    assert ["1.0.0", "1.1.0", "1.2.0", "1.1.0", "1.3.0"] == raced.moves()
    assert raced.place.tags("1.3.0") == raced.place.tags("stage")
    assert [Warned("", "another run has just moved stage to 1.3.0")] == raced.place.events


def test_a_write_whose_answer_is_lost_is_made_once(raced: Raced) -> None:
    writes: list[bytes] = []

    def note(data: bytes) -> bytes:
        writes.extend([data] if WRITE.match(data) else [])
        return data

    def lose(data: bytes) -> bytes | None:
        return None if len(writes) == 1 else data

    raced.store.sent, raced.store.answered = note, lose
    assert "1.3.0" == forward(raced.place, "1.3.0").version
    assert 2 == len(writes)
    assert ["1.0.0", "1.1.0", "1.2.0", "1.3.0"] == raced.moves()
