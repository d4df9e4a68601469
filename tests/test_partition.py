from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools.partition import Partition, Share, partition

Graph = Mapping[str, Sequence[str]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, Mapping[str, float]]:
    """A graph in an order that has parents first, and the seconds of its names."""
    names = [f"image{number:02}" for number in range(draw(st.integers(0, 24)))]
    parents = {
        name: draw(st.lists(st.sampled_from(names[:at]), unique=True, max_size=3)) if at else []
        for at, name in enumerate(names)
    }
    return parents, {name: draw(st.integers(0, 600)) / 10 for name in names}


def closure_seconds(name: str, parents: Graph, seconds: Mapping[str, float], done: Sequence[str] = ()) -> float:
    names, waiting = set(), [name]
    while waiting:
        each = waiting.pop()
        if each not in names and each not in done:
            names.add(each)
            waiting += parents[each]
    return sum(seconds[each] for each in names)


def waves(division: Partition) -> list[tuple[Share, ...]]:
    return [wave for wave in (division.first_wave, division.shares) if wave]


def names_of(wave: Sequence[Share]) -> list[str]:
    return [name for share in wave for name in share.names]


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 9))
def test_everything_is_built_and_parents_before_what_is_built_from_them(
    case: tuple[Graph, Mapping[str, float]], count: int
) -> None:
    parents, seconds = case
    division = partition(parents, seconds, count)
    before = set(names_of(division.first_wave))
    for share in division.first_wave:
        for at, name in enumerate(share.names):
            assert set(parents[name]) <= set(share.names[:at])
    for share in division.shares:
        for at, name in enumerate(share.names):
            assert set(parents[name]) <= before | set(share.names[:at])
    assert set(parents) == before | set(names_of(division.shares))
    assert before.isdisjoint(names_of(division.shares))


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 9))
def test_no_two_shares_of_a_wave_are_further_apart_than_twice_the_heaviest_closure(
    case: tuple[Graph, Mapping[str, float]], count: int
) -> None:
    parents, seconds = case
    division = partition(parents, seconds, count)
    done: list[str] = []
    for wave in waves(division):
        assert count == len(wave)
        assert [sum(seconds[name] for name in share.names) for share in wave] == [share.seconds for share in wave]
        heaviest = max((closure_seconds(name, parents, seconds, done) for name in names_of(wave)), default=0.0)
        assert max(share.seconds for share in wave) - min(share.seconds for share in wave) <= 2 * heaviest + 1e-6
        done += names_of(wave)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 9), st.randoms(use_true_random=False))
def test_every_agent_finds_the_same_shares_in_whatever_order_parents_are_told(
    case: tuple[Graph, Mapping[str, float]], count: int, numbers: random.Random
) -> None:
    parents, seconds = case
    shuffled = {name: numbers.sample(list(above), len(above)) for name, above in parents.items()}
    assert partition(parents, seconds, count) == partition(shuffled, seconds, count)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 9))
def test_a_first_wave_is_chosen_only_where_it_costs_less(case: tuple[Graph, Mapping[str, float]], count: int) -> None:
    parents, seconds = case
    division = partition(parents, seconds, count)
    assert count > 1 or not division.first_wave
    shared = {name for name in parents if sum(name in share.names for share in division.shares) > 1}
    assert shared <= division.duplicates


def test_what_has_a_parent_in_common_stays_together_where_that_is_even() -> None:
    parents = {"a": (), "b": (), "a1": ("a",), "a2": ("a",), "b1": ("b",), "b2": ("b",)}
    division = partition(parents, dict.fromkeys(parents, 10.0), 2)
    assert {("a", "a1", "a2"), ("b", "b1", "b2")} == {share.names for share in division.shares}
    assert () == division.first_wave


def test_a_quick_parent_is_built_by_all_and_a_slow_one_once_before() -> None:
    parents = {"base": (), **{f"app{number}": ("base",) for number in range(8)}}
    quick = partition(parents, {**dict.fromkeys(parents, 20.0), "base": 1.0}, 4)
    assert ((), frozenset({"base"})) == (quick.first_wave, quick.duplicates)
    slow = partition(parents, {**dict.fromkeys(parents, 20.0), "base": 100.0}, 4)
    assert [("base",), (), (), ()] == [share.names for share in slow.first_wave]
    assert [40.0] * 4 == [share.seconds for share in slow.shares]
    assert frozenset() == slow.duplicates


def test_parents_outside_of_the_graph_are_taken_as_done() -> None:
    assert (Share(("app",), 5.0),) == partition({"app": ("base",)}, {"app": 5.0}, 1).shares


def test_nothing_to_build_is_as_many_empty_shares() -> None:
    assert (Share(), Share()) == partition({}, {}, 2).shares


def test_the_order_of_parents_does_not_matter_where_a_sum_depends_on_it() -> None:
    seconds = {"a": 0.1, "b": 0.3, "c": 0.9, "x": 7.0, "y": 7.0}
    roots: dict[str, Sequence[str]] = {"a": (), "b": (), "c": ()}
    divisions = [
        partition({**roots, "x": first, "y": second}, seconds, 2)
        for first in itertools.permutations("abc")
        for second in itertools.permutations("abc")
    ]
    assert [divisions[0]] * 36 == divisions
