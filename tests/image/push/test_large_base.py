"""Small images on a large base: giving the base out of the engine again would take longer than all the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from buildtools.image.engine.client import Engine
from buildtools.image.reference import Reference
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.image_to_push import ImageToPush, PushRoute
from buildtools.image.registry.manifest import Descriptor
from tests.faults.proxy import wire_to
from tests.image.conftest import MakeImage
from tests.image.images import Layer
from tests.image.push.pusher import Pusher

pytestmark = pytest.mark.usefixtures("engine_sends_layers")

LARGE = 34_000_000


@pytest.fixture
def large() -> Layer:
    return {"large": os.urandom(LARGE)}


@pytest.fixture
def base(make_image: MakeImage, large: Layer) -> ImageToPush:
    return make_image("base", large)


def another_machine(pusher: Pusher, folder: Path) -> Pusher:
    """One with the same engine, as far as that goes, that remembers nothing of the registry."""
    return Pusher(pusher.engine, pusher.registry, Cache(folder / "another"))


def layers(pusher: Pusher, image: ImageToPush, version: str) -> Sequence[Descriptor]:
    return pusher.stored(image.repository, version).manifest.layers


def had_from(engine: Engine, namespace: str) -> set[str]:
    """The ids of all images that the engine got from repositories of a namespace, or sent there."""
    images = engine.api.images(all=True)
    return {image["Id"] for image in images if any(namespace in digest for digest in image["RepoDigests"] or ())}


def test_an_engine_that_pulled_the_base_sends_what_is_above_it(
    pusher: Pusher, make_image: MakeImage, base: ImageToPush, large: Layer, tmp_path: Path
) -> None:
    (pushed,) = pusher("1.0", base)
    pusher.engine.pull(pushed.reference, None)
    leaf = make_image("leaf", large, {"b": b"1"}, parents=(base.repository,))
    (_, small) = another_machine(pusher, tmp_path)("1.1", base, leaf)
    pusher.engine.untag(pushed.reference)
    assert PushRoute.ENGINE == small.route
    assert layers(pusher, base, "1.1") == layers(pusher, leaf, "1.1")[:1]


def test_an_engine_that_does_not_know_the_base_gives_all_out_once(
    pusher: Pusher, make_image: MakeImage, base: ImageToPush, large: Layer, tmp_path: Path
) -> None:
    pusher("1.0", base)
    leaf = make_image("leaf", large, {"b": b"1"}, parents=(base.repository,))
    (_, small) = another_machine(pusher, tmp_path)("1.1", base, leaf)
    assert PushRoute.DIRECT == small.route
    assert layers(pusher, base, "1.1") == layers(pusher, leaf, "1.1")[:1]


def test_an_engine_is_told_of_a_base_that_this_machine_sent_before_and_keeps_nothing_of_that(
    pusher: Pusher, make_image: MakeImage, base: ImageToPush, large: Layer, namespace: str
) -> None:
    pusher("1.0", base)
    leaf = make_image("leaf", large, {"b": b"1"}, parents=(base.repository,))
    (_, small) = pusher("1.1", base, leaf)
    assert PushRoute.ENGINE == small.route
    assert layers(pusher, base, "1.1") == layers(pusher, leaf, "1.1")[:1]
    assert {leaf.image_id} == had_from(pusher.engine, namespace)

    other = make_image("other", large, {"c": b"1"}, parents=(base.repository,))
    (_, once_more) = pusher("1.2", base, other)
    assert PushRoute.ENGINE == once_more.route


def test_little_that_the_registry_has_is_sent_again_rather_than_a_large_base_given_out(
    pusher: Pusher, make_image: MakeImage, base: ImageToPush, large: Layer
) -> None:
    middle = make_image("middle", large, {"b": os.urandom(300_000)}, parents=(base.repository,))
    pusher("1.0", base, middle)
    leaf = make_image("leaf", large, {"b": os.urandom(300_000)}, {"c": b"1"}, parents=(middle.repository,))
    (_, _, small) = pusher("1.1", base, middle, leaf)
    assert PushRoute.ENGINE == small.route
    assert layers(pusher, base, "1.1") == layers(pusher, leaf, "1.1")[:1]
    assert 3 == len(layers(pusher, leaf, "1.1"))


def test_more_images_than_a_base_is_worth_are_given_out_together(
    pusher: Pusher, make_image: MakeImage, base: ImageToPush, large: Layer
) -> None:
    pusher("1.0", base)
    images = [make_image(f"leaf{number}", large, {"b": b"%d" % number}) for number in range(5)]
    assert {PushRoute.DIRECT} == {pushed.route for pushed in pusher("1.1", *images)}


def test_an_engine_that_has_no_way_to_the_registry_gives_all_out(
    pusher: Pusher, make_image: MakeImage, base: ImageToPush, large: Layer
) -> None:
    with wire_to(pusher.registry.host) as wire:
        wire.sent = lambda data: None if b"User-Agent: docker/" in data else data
        through = Pusher(pusher.engine, Registry(wire.address), pusher.cache)
        through("1.0", base)
        (_, small) = through("1.1", base, make_image("leaf", large, {"b": b"1"}, parents=(base.repository,)))
        through.registry.close()
    assert PushRoute.DIRECT == small.route


def test_layers_of_a_base_image_in_the_same_registry_are_not_sent_again(
    pusher: Pusher, make_image: MakeImage, large: Layer, base: ImageToPush, namespace: str
) -> None:
    # As its own owners have pushed it, which is not as this machine would.
    outside = f"{pusher.registry.host}/{namespace}/outside"
    pusher.engine.tag(base.image_id, f"{outside}:1")
    for line in pusher.engine.api.push(outside, "1", stream=True, decode=True):
        assert "error" not in line
    leaf = make_image("leaf", {**large}, {"b": b"1"})
    pusher("1.0", leaf, bases=[Reference.parse(f"{outside}:1")])
    assert layers(pusher, leaf, "1.0")[0] == layers(pusher, ImageToPush("", f"{namespace}/outside", ""), "1")[0]
