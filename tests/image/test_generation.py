"""Which build of its parents an image was made from."""

from __future__ import annotations

from buildtools.image.generation import PARENTS_LABEL, generation_of, other_parents, parents_label

ONE, TWO = generation_of(["sha256:1"]), generation_of(["sha256:1", "sha256:2"])


def test_an_image_with_other_layers_is_of_another_generation() -> None:
    assert 4 == len({ONE, TWO, generation_of([]), generation_of(["sha256:2", "sha256:1"])})
    assert ONE == generation_of(iter(["sha256:1"]))


def test_a_label_tells_of_every_parent() -> None:
    labels = {PARENTS_LABEL: parents_label({"base": ONE, "tools": TWO})}
    assert [] == other_parents(labels, {"base": ONE, "tools": TWO})
    assert [] == other_parents(labels, {"tools": TWO})
    assert ["tools"] == other_parents(labels, {"base": ONE, "tools": ONE})
    assert ["more"] == other_parents(labels, {"base": ONE, "more": ONE})


def test_a_parent_that_is_yet_to_be_built_is_another_one() -> None:
    assert ["base"] == other_parents({PARENTS_LABEL: parents_label({"base": ONE})}, {"base": ""})
    assert ["base"] == other_parents({PARENTS_LABEL: "base="}, {"base": ""})


def test_an_image_that_says_nothing_of_its_parents_was_built_on_others() -> None:
    assert ["base"] == other_parents({}, {"base": ONE})
    assert [] == other_parents({}, {})
