from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildtools.image.push.plan import LITTLE, LayerPlan, by_large_base, group_disjoint
from buildtools.image.registry.image_to_push import ImageToPush
from buildtools.image.registry.manifest import DOCKER_LAYER, Descriptor

LARGE = 3 * LITTLE


def plan(layers: str, **placed: int) -> LayerPlan:
    """An image of layers with names of one letter, of which the registry has some, with their sizes."""
    descriptors = {name: Descriptor(DOCKER_LAYER, f"sha256:{name}", size) for name, size in placed.items()}
    return LayerPlan(ImageToPush(layers, layers, ""), 0, tuple(layers), descriptors)


def names(groups: list[list[LayerPlan]]) -> list[list[str]]:
    return sorted(sorted(each.image.name for each in group) for group in groups)


@pytest.mark.parametrize(
    ("images", "groups"),
    [
        (["ab", "abc", "xy"], [["ab", "abc"], ["xy"]]),
        (["ab", "xy", "abxy"], [["ab", "abxy", "xy"]]),
        (["a", "b", "c", "d", "e"], [["a", "e"], ["b"], ["c"], ["d"]]),
    ],
)
def test_images_that_share_a_new_layer_are_given_out_together(images: list[str], groups: list[list[str]]) -> None:
    assert groups == names(group_disjoint([plan(layers) for layers in images]))


def test_a_small_base_is_given_out_with_each_and_a_larger_one_once() -> None:
    assert [["ba"], ["bc"]] == names(group_disjoint([plan("ba", b=LITTLE), plan("bc", b=LITTLE)]))
    assert [["ba", "bc"]] == names(group_disjoint([plan("ba", b=LITTLE + 1), plan("bc", b=LITTLE + 1)]))


@given(st.lists(st.text("abcdefghij", min_size=1), min_size=1, unique_by=lambda layers: layers))
def test_every_image_is_in_one_group_and_every_new_layer_in_one(images: list[str]) -> None:
    groups = group_disjoint([plan(layers) for layers in images])
    assert sorted(images) == sorted(name for group in names(groups) for name in group)
    layers = [set().union(*(each.missing for each in group)) for group in groups]
    assert sum(map(len, layers)) == len(set().union(*layers))


def test_a_base_ends_with_its_last_large_layer() -> None:
    assert ("b", "c") == plan("bcde", b=1, c=LARGE, d=LITTLE).base
    assert () == plan("ebc", b=LARGE, c=LARGE).base


def test_a_large_base_is_worth_an_engines_push_of_as_many_images_as_it_is_large() -> None:
    few = [plan(f"b{name}", b=LARGE) for name in "acdefg"]
    assert {("b",): few} == by_large_base(few)
    many = [*few, plan("bh", b=LARGE)]
    assert {} == by_large_base(many)
    others = [plan("ax", a=LARGE), plan("m", m=1)]
    assert {("b",): few, ("a",): others[:1]} == by_large_base(few + others)
