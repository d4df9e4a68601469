"""Variants of one image: pushed each by itself, joined by an index that another agent may write at the same time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from buildtools import Conflict
from buildtools.image.push.routes import PushRequest, push
from buildtools.image.registry.image_to_push import ImageToPush, PushRoute
from buildtools.image.registry.lookup import tag_digest
from buildtools.image.registry.manifest import Manifest
from buildtools.platform import Platform
from buildtools.version import Version
from tests.image.conftest import MakeImage
from tests.image.push.pusher import REVISION, VERSION, Pusher

AMD, ARM = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def two(make_image: MakeImage, name: str = "app", content: bytes = b"") -> list[ImageToPush]:
    """The variants of an image."""
    return [
        replace(make_image(name, {"a": content + str(each).encode()}), name=f"{name}@{each}", platform=each)
        for each in (AMD, ARM)
    ]


def index(pusher: Pusher, image: ImageToPush, tag: str) -> Manifest:
    found = pusher.registry.get_manifest(image.repository, tag)
    assert found is not None
    assert found.is_index
    return found


def test_variants_become_one_image_whatever_their_order(pusher: Pusher, make_image: MakeImage) -> None:
    images = two(make_image)
    (pushed,) = pusher("1.0", *images)
    assert ("app", PushRoute.DIRECT) == (pushed.name, pushed.route)
    assert {AMD, ARM} == set(index(pusher, images[0], "1.0").platforms)
    assert tag_digest(pusher.registry, images[0].repository, "1.0") == pushed.digest
    (again,) = pusher("1.0", *reversed(images), engine=False)
    assert replace(pushed, route=PushRoute.ALREADY_THERE) == again


def test_one_variant_that_is_new_leaves_the_other_stamped(pusher: Pusher, make_image: MakeImage) -> None:
    images = two(make_image)
    pusher("1.0", *images)
    changed = two(make_image, content=b"another ")[1]
    (pushed,) = pusher("1.1", replace(images[0], image_id=""), changed)
    assert PushRoute.DIRECT == pushed.route
    old, new = (index(pusher, changed, tag).platforms for tag in ("1.0", "1.1"))
    layers = [pusher.stored(changed.repository, digest).manifest.layers for digest in (old[AMD], new[AMD])]
    assert layers[0] == layers[1]


@pytest.mark.parametrize("revision", ["1", "2"])
def test_another_agent_that_joins_first_has_made_the_version_or_is_a_conflict(
    pusher: Pusher, make_image: MakeImage, revision: str
) -> None:
    images = two(make_image)
    theirs = two(make_image, content=b"their ") if revision == "2" else images

    def first_come_the_others() -> None:
        pusher("1.0", *theirs, revision=revision)

    request = PushRequest(
        tuple(images), Version.parse("1.0"), {VERSION: "1.0", REVISION: "1"}, before_tags=first_come_the_others
    )
    if revision == "2":
        with pytest.raises(Conflict):
            push(request, pusher.engine, pusher.registry, pusher.cache)
        assert {image.fingerprint for image in theirs} == fingerprints(pusher, images[0])
    else:
        (pushed,) = push(request, pusher.engine, pusher.registry, pusher.cache)
        assert tag_digest(pusher.registry, images[0].repository, "1.0") == pushed.digest


def fingerprints(pusher: Pusher, image: ImageToPush) -> set[str]:
    digests = index(pusher, image, "1.0").platforms.values()
    return {pusher.stored(image.repository, digest).labels["lockstep.fingerprint"] for digest in digests}
