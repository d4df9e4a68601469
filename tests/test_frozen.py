"""What ``dataclass(frozen=True)`` makes is the oracle."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, field
from functools import cached_property
from typing import Any

import pytest

from buildtools.frozen import frozen


def described() -> type:
    class Described:
        """Fields of every kind."""

        name: str
        size: int = 0
        secret: str = field(default="", repr=False)
        labels: Mapping[str, str] = field(default_factory=dict, hash=False)
        seen: int = field(default=0, compare=False)

        @cached_property
        def shouted(self) -> str:
            return self.name.upper()

    return Described


def without_fields() -> type:
    class Empty:
        """None at all."""

    return Empty


def equal_by_its_size() -> type:
    class Sized:
        """One that says of itself when it is equal, and what it is called."""

        name: str
        size: int

        def __repr__(self) -> str:
            return self.name

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self)) and self.size == other.size

        def __hash__(self) -> int:
            return self.size

    return Sized


def checked_at_its_making() -> type:
    class Checked:
        """One that looks at its values, and takes one of them by name only."""

        number: int
        unit: str = field(default="s", kw_only=True)

        def __post_init__(self) -> None:
            if self.number < 0:
                raise ValueError("negative")

    return Checked


def both(define: Callable[[], type]) -> tuple[Any, Any]:
    return dataclasses.dataclass(frozen=True)(define()), frozen(define())


THEIRS, OURS = both(described)
CALLS: list[Callable[[Any], Any]] = [
    lambda kind: kind("a"),
    lambda kind: kind("a", 1, "s", {"k": "v"}, 2),
    lambda kind: kind(size=1, name="a"),
    lambda kind: kind("a", labels={"k": "v"}, seen=3),
]
WRONG: list[Callable[[Any], Any]] = [
    lambda kind: kind(),
    lambda kind: kind(size=1),
    lambda kind: kind("a", name="a"),
    lambda kind: kind("a", 1, "s", {}, 2, 3),
    lambda kind: kind("a", other=1),
    lambda kind: kind(other=1),
]


@frozen
class Point:
    """At module level, where it can be found again."""

    x: int
    y: int = 0


@frozen
class Named(Point):
    """With one more field than its parent."""

    name: str = "origin"


@pytest.mark.parametrize("make", CALLS)
def test_it_holds_and_shows_what_a_dataclass_does(make: Callable[[Any], Any]) -> None:
    theirs, ours = make(THEIRS), make(OURS)
    assert dataclasses.asdict(theirs) == dataclasses.asdict(ours)
    assert repr(theirs) == repr(ours)
    assert hash(theirs) == hash(ours)


@pytest.mark.parametrize("make", WRONG)
def test_wrong_arguments_are_errors(make: Callable[[Any], Any]) -> None:
    for kind in (THEIRS, OURS):
        with pytest.raises(TypeError):
            make(kind)


@pytest.mark.parametrize("one", CALLS)
@pytest.mark.parametrize("other", CALLS)
def test_two_are_equal_where_dataclasses_are(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> None:
    assert (one(THEIRS) == other(THEIRS)) == (one(OURS) == other(OURS))


def test_what_was_worked_out_and_kept_is_not_part_of_it() -> None:
    asked = OURS("a")
    assert "A" == asked.shouted
    assert OURS("a") == asked


def test_another_class_with_the_same_fields_is_not_equal() -> None:
    assert Point(1, 2) != Named(1, 2)
    assert Named(1, 2) == Named(1, 2, "origin")


def test_nothing_can_be_set_or_deleted() -> None:
    point: Any = Point(1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to 'x'"):
        point.x = 2
    with pytest.raises(FrozenInstanceError, match="cannot delete 'x'"):
        del point.x
    assert Point(1) == point


def test_each_gets_a_default_of_its_own() -> None:
    assert OURS("a").labels is not OURS("a").labels


def test_it_is_replaced_pickled_and_matched() -> None:
    assert Named(1, 5) == dataclasses.replace(Named(1, 2), y=5)
    assert Named(1, 2) == pickle.loads(pickle.dumps(Named(1, 2)))
    match Point(3, 4):
        case Point(x, y):
            assert (3, 4) == (x, y)


def test_one_without_fields_equals_its_like() -> None:
    theirs, ours = both(without_fields)
    assert (theirs() == theirs(), repr(theirs()), hash(theirs())) == (ours() == ours(), repr(ours()), hash(ours()))


def test_what_a_class_says_of_itself_stays() -> None:
    for kind in both(equal_by_its_size):
        assert (kind("a", 1), "a", 1) == (kind("b", 1), repr(kind("a", 1)), hash(kind("a", 1)))


def test_values_are_checked_when_they_are_made_and_some_are_taken_by_name_only() -> None:
    for kind in both(checked_at_its_making):
        assert (1, "ms") == (kind(1, unit="ms").number, kind(1, unit="ms").unit)
        with pytest.raises(ValueError, match="negative"):
            kind(-1)
        with pytest.raises(TypeError):
            kind(1, "ms")


def test_what_is_not_supported_is_refused_when_the_class_is_made() -> None:
    class OnlyForInit:
        seed: dataclasses.InitVar[int]

    class NotForInit:
        count: int = field(default=0, init=False)

    for kind, name in ((OnlyForInit, "seed"), (NotForInit, "count")):
        with pytest.raises(TypeError, match=f"does not support InitVar and init=False .*{name}"):
            frozen(kind)


def test_a_field_without_a_default_after_one_with_it_is_refused_when_the_class_is_made() -> None:
    class Wrong:
        host: str = ""
        port: int

    class Right:
        host: str = field(default="", kw_only=True)
        port: int

    with pytest.raises(TypeError, match="without a default follows"):
        frozen(Wrong)
    assert "port" in frozen(Right).__annotations__
