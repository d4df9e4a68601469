from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Conflict
from buildtools.events import Event, Step, Transferred, Warned
from buildtools.image.engine.client import Engine
from buildtools.image.push.routes import Begin, PushRequest, foreseen_routes, push
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.image_to_push import ImageToPush, PushRoute
from buildtools.image.registry.lookup import StoredImage, fingerprint_tag
from buildtools.image.registry.manifest import FINGERPRINT_LABEL, diff_ids_of, digest_of, labels_of, stamp
from buildtools.version import Version
from tests.image.conftest import MakeImage
from tests.image.images import layer_tar
from tests.image.push.pusher import REVISION, VERSION, Pusher
from tests.waiting import until


def test_a_new_image_arrives_whole_with_the_version_in_it(pusher: Pusher, make_image: MakeImage) -> None:
    layers = [{"a": os.urandom(3_000_000)}, {"b": b"text " * 100_000}]
    image = make_image("app", *layers)
    (pushed,) = pusher("1.0", image)
    stored = pusher.stored(image.repository, "1.0")
    assert [layer_tar(layer) for layer in layers] == pusher.layer_tars(image.repository, "1.0")
    assert {FINGERPRINT_LABEL: image.fingerprint, VERSION: "1.0", REVISION: "1"} == stored.labels
    assert (PushRoute.DIRECT, stored.digest) == (pushed.route, pushed.digest)
    assert sum(layer.size for layer in stored.manifest.layers) == pushed.size
    assert f"{pusher.registry.host}/{image.repository}:1.0" == pushed.reference


def test_an_image_without_layers_arrives_beside_another(pusher: Pusher, make_image: MakeImage) -> None:
    bare, other = make_image("bare"), make_image("other", {"a": b"a"})
    pusher("1.0", bare, other)
    stored = [pusher.stored(image.repository, "1.0") for image in (bare, other)]
    assert [0, 1] == [len(each.manifest.layers) for each in stored]
    assert ["1.0"] * 2 == [each.labels[VERSION] for each in stored]


def test_the_image_under_its_fingerprint_is_as_it_was_built(
    pusher: Pusher, make_image: MakeImage, connected: Engine
) -> None:
    image = make_image("app", {"a": b"1"})
    pusher("1.0", image)
    stored = pusher.stored(image.repository, fingerprint_tag(image.fingerprint))
    assert (connected.inspect(image.image_id) or {})["RootFS"]["Layers"] == diff_ids_of(stored.config)
    if not connected.containerd_store:
        assert image.image_id == stored.manifest.config.digest
    assert {FINGERPRINT_LABEL: image.fingerprint} == stored.labels


def test_an_image_without_what_should_be_attested_gets_no_version(pusher: Pusher, make_image: MakeImage) -> None:
    image = replace(make_image("app", {"a": b"1"}), attested=frozenset({"sbom"}))
    with pytest.raises(BuildToolsError, match="was built without the sbom that it should have"):
        pusher("1.0", image)
    assert pusher.registry.get_manifest(image.repository, "1.0") is None


def test_layers_of_what_is_complete_go_while_others_are_built_if_the_engine_gives_them_out_one_by_one(
    pusher: Pusher, make_image: MakeImage, connected: Engine
) -> None:
    image = make_image("app", {"a": b"1"})
    (diff_id,) = (connected.inspect(image.image_id) or {})["RootFS"]["Layers"]
    early: list[bool] = []

    def provide(images: Sequence[ImageToPush], _: object, begin: Begin) -> Sequence[ImageToPush]:
        begin(image)
        if connected.containerd_store:
            until(lambda: pusher.cache.layer(diff_id))
        early.append(pusher.cache.layer(diff_id) is not None)
        assert [] == pusher.registry.tags(image.repository)
        return images

    pusher("1.0", image, provide=provide)
    assert [connected.containerd_store] == early
    assert [layer_tar({"a": b"1"})] == pusher.layer_tars(image.repository, "1.0")


def test_an_engine_that_pulls_it_sees_the_version_and_the_layers(
    pusher: Pusher, make_image: MakeImage, connected: Engine
) -> None:
    image = make_image("app", {"a": b"1"}, {"b": b"2"})
    (pushed,) = pusher("1.0", image)
    for line in connected.api.pull(pushed.reference, stream=True, decode=True):
        assert "error" not in line
    pulled = connected.inspect(pushed.reference)
    built = connected.inspect(image.image_id)
    connected.api.remove_image(pushed.reference)
    assert pulled is not None
    assert built is not None
    assert {FINGERPRINT_LABEL: image.fingerprint, VERSION: "1.0", REVISION: "1"} == pulled["Config"]["Labels"]
    assert built["RootFS"] == pulled["RootFS"]
    assert [f"{pusher.registry.host}/{image.repository}@{pushed.digest}"] == pulled["RepoDigests"]


def test_a_new_version_of_an_unchanged_image_needs_no_engine(pusher: Pusher, make_image: MakeImage) -> None:
    image = make_image("app", {"a": b"1"})
    (first,) = pusher("1.0", image)
    (second,) = pusher("1.1", replace(image, image_id=""), engine=False)
    assert PushRoute.STAMPED == second.route
    assert first.digest != second.digest
    one, two = pusher.stored(image.repository, "1.0"), pusher.stored(image.repository, "1.1")
    assert one.manifest.layers == two.manifest.layers
    assert "1.1" == two.labels[VERSION]


def test_another_agent_stamps_the_same_digest(pusher: Pusher, make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image("app", {"a": b"1"})
    pusher("1.0", image)
    (ours,) = pusher("1.1", image)
    assert pusher.registry.delete_manifest(image.repository, ours.digest)
    pusher.cache = Cache(tmp_path / "another")
    (theirs,) = pusher("1.1", image, engine=False)
    assert (PushRoute.STAMPED, ours.digest) == (theirs.route, theirs.digest)


def test_pushing_the_same_version_again_sends_nothing(pusher: Pusher, make_image: MakeImage) -> None:
    image = make_image("app", {"a": b"1"})
    (first,) = pusher("1.0", image)
    (again,) = pusher("1.0", image)
    assert replace(first, route=PushRoute.ALREADY_THERE) == again


@pytest.mark.parametrize("change", ["fingerprint", "stamp"])
def test_a_version_with_other_content_is_a_conflict_and_nothing_is_sent(
    pusher: Pusher, make_image: MakeImage, change: str
) -> None:
    image, other = make_image("app", {"a": b"1"}), make_image("other", {"a": b"9"})
    (first,) = pusher("1.0", image)
    changed = make_image("app", {"a": b"2"}) if change == "fingerprint" else image
    with pytest.raises(Conflict) as caught:
        pusher("1.0", other, changed, revision="2" if change == "stamp" else "1")
    assert first.digest in caught.value.fact
    assert first.digest == pusher.stored(image.repository, "1.0").digest
    assert [] == pusher.registry.tags(other.repository)


def test_a_version_that_another_agent_makes_while_we_build_is_a_conflict(pusher: Pusher, make_image: MakeImage) -> None:
    ours, theirs = make_image("app", {"a": b"1"}), make_image("app", {"a": b"2"})

    def built(lacking: Sequence[ImageToPush], *_: object) -> Sequence[ImageToPush]:
        pusher("1.0", theirs)
        return lacking

    with pytest.raises(Conflict):
        pusher("1.0", ours, provide=built)
    assert theirs.fingerprint == pusher.stored(theirs.repository, "1.0").labels[FINGERPRINT_LABEL]


def test_a_dirty_version_is_overwritten_with_a_warning(pusher: Pusher, make_image: MakeImage) -> None:
    first, second = make_image("app", {"a": b"1"}), make_image("app", {"a": b"2"})
    pusher("1.0-dirty", first)
    pusher("1.0-dirty", second)
    assert second.fingerprint == pusher.stored(second.repository, "1.0-dirty").labels[FINGERPRINT_LABEL]
    reference = f"{pusher.registry.host}/{second.repository}:1.0-dirty"
    assert [Warned("app", f"{reference} has other content and is overwritten")] == [
        event for event in pusher.events if isinstance(event, Warned)
    ]


def test_an_image_that_is_nowhere_is_an_error(pusher: Pusher, namespace: str) -> None:
    image = ImageToPush("app", f"{namespace}/app", "0" * 64)
    with pytest.raises(
        BuildToolsError, match="not built, and not in the registry: app: build them first: `invoke build`"
    ):
        pusher("1.0", image)


def test_skopeo_reads_the_version_out_of_the_registry(
    pusher: Pusher, make_image: MakeImage, environment: Mapping[str, str]
) -> None:
    image = make_image("app", {"a": b"1"})
    (pushed,) = pusher("1.0", image)
    source = f"docker://{pushed.reference}"
    config = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--config", "--raw", source],
        env=dict(environment),
        capture_output=True,
        check=True,
    ).stdout
    assert "1.0" == labels_of(config)[VERSION]


def sent_by(pusher: Pusher) -> list[str]:
    """Who sent layers, one entry for each layer."""
    return [event.subject for event in pusher.events if isinstance(event, Transferred) and event.done == event.total]


def test_what_siblings_share_is_sent_once(pusher: Pusher, make_image: MakeImage) -> None:
    shared = {"a": os.urandom(100_000)}
    images = [make_image(f"app{number}", shared, {"b": b"%d" % number}) for number in range(4)]
    pusher("1.0", *images)
    assert 5 == len(sent_by(pusher))
    for number, image in enumerate(images):
        expected = [layer_tar(shared), layer_tar({"b": b"%d" % number})]
        assert expected == pusher.layer_tars(image.repository, "1.0")


def test_a_fresh_agent_sends_only_what_is_new_on_top_of_a_parent(
    pusher: Pusher, make_image: MakeImage, tmp_path: Path
) -> None:
    below, above = {"a": os.urandom(100_000)}, {"b": b"1"}
    base = make_image("base", below)
    pusher("1.0", base)
    pusher.cache = Cache(tmp_path / "fresh")
    pusher.events.clear()
    leaf = make_image("leaf", below, above, parents=(base.repository,))
    routes = [pushed.route for pushed in pusher("1.1", base, leaf)]
    assert [PushRoute.STAMPED, PushRoute.DIRECT] == routes
    assert ["leaf"] == sent_by(pusher)
    assert [layer_tar(below), layer_tar(above)] == pusher.layer_tars(leaf.repository, "1.1")


def test_what_was_built_too_long_ago_is_not_stamped(pusher: Pusher, make_image: MakeImage) -> None:
    # Every image of these tests says that it was built on the first day of 2026.
    image = make_image("app", {"a": b"1"})
    pusher("1.0", image)
    (young,) = pusher("1.1", replace(image, built_since=1767225600.0))
    (old,) = pusher("1.2", replace(image, built_since=1767225601.0))
    assert [PushRoute.STAMPED, PushRoute.DIRECT] == [young.route, old.route]


def test_only_what_the_registry_lacks_is_asked_for_and_the_rest_is_prepared_meanwhile(
    pusher: Pusher, make_image: MakeImage
) -> None:
    there, lacking = make_image("there", {"a": b"1"}), make_image("lacking", {"a": b"2"})
    pusher("1.0", there)
    asked: list[str] = []

    labels = {VERSION: "1.1", REVISION: "1"}
    config = stamp(pusher.stored(there.repository, fingerprint_tag(there.fingerprint)).config, labels)

    def provide(images: Sequence[ImageToPush], *_: object) -> Sequence[ImageToPush]:
        asked.extend(image.name for image in images)
        # What is there gets its configuration of the new version while something else is built.
        until(lambda: pusher.registry.blob_size(there.repository, digest_of(config)))
        return [replace(image, image_id=lacking.image_id) for image in images]

    wanted = (replace(there, image_id=""), replace(lacking, image_id=""))
    request = PushRequest(wanted, Version.parse("1.1"), labels)
    foreseen = foreseen_routes(request, pusher.registry, pusher.cache)
    assert [PushRoute.STAMPED, None] == foreseen
    pusher("1.1", *wanted, provide=provide)
    assert ["lacking"] == asked
    foreseen = foreseen_routes(request, pusher.registry, pusher.cache)
    assert [PushRoute.ALREADY_THERE] * 2 == foreseen


def test_old_fingerprints_go_when_a_new_one_is_stored(pusher: Pusher, make_image: MakeImage) -> None:
    images = [make_image("app", {"a": b"%d" % number}) for number in range(4)]
    for number, image in enumerate(images):
        version = f"1.{number}"
        request = PushRequest((image,), Version.parse(version), {VERSION: version}, fingerprints_kept=2)
        push(request, pusher.engine, pusher.registry, pusher.cache)
    tags = pusher.registry.tags(images[0].repository)
    assert ["1.0", "1.1", "1.2", "1.3"] == sorted(tag for tag in tags if not tag.startswith("fp-"))
    assert 2 == len([tag for tag in tags if tag.startswith("fp-")])
    assert fingerprint_tag(images[-1].fingerprint) in tags
    assert [layer_tar({"a": b"0"})] == pusher.layer_tars(images[0].repository, "1.0")


def test_each_step_with_a_large_layer_is_told(pusher: Pusher, make_image: MakeImage) -> None:
    pusher("1.0", make_image("app", {"a": bytes(140_000_000)}))
    steps = [event.text for event in pusher.events if isinstance(event, Step)]
    assert ["the engine gives its layers out", "compress a layer of 140 MB", "send it"] == steps
    assert any(isinstance(event, Transferred) and event.total >= 140_000_000 for event in pusher.events)


def test_an_interrupt_stops_what_is_being_sent(pusher: Pusher, make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image("app", {"a": os.urandom(8_000_000)})
    told: list[int] = []

    def report(event: Event) -> None:
        if isinstance(event, Transferred):
            if not told:
                # Reaches the main thread, which waits for this one, as the signal of a terminal would.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            told.append(event.done)

    request = PushRequest((image,), Version.parse("1.0"), {VERSION: "1.0"})
    with pytest.raises(KeyboardInterrupt):
        push(request, pusher.engine, pusher.registry, pusher.cache, report=report)
    assert [] == pusher.registry.tags(image.repository)


def test_an_image_that_was_built_on_another_build_of_its_parent_is_asked_for(
    pusher: Pusher, make_image: MakeImage
) -> None:
    base = make_image("base", {"a": b"1"})
    app = make_image("app", {"a": b"1"}, {"b": b"2"}, parents=(base.repository,))
    pusher("1.0", base, app)
    new_base = make_image("base", {"a": b"new"}, fingerprint=base.fingerprint)
    new_app = make_image("app", {"a": b"new"}, {"b": b"2"}, fingerprint=app.fingerprint, parents=(base.repository,))
    asked: list[str] = []

    def provide(images: Sequence[ImageToPush], stored: Mapping[str, StoredImage], _: object) -> Sequence[ImageToPush]:
        asked.extend(image.name for image in images)
        return images

    # The registry's base is too old, as after a time of rebuild_after; its app is as young as need be.
    young = replace(new_base, built_since=time.time())
    pushed = pusher("1.1", young, new_app, provide=provide)
    assert ["base", "app"] == asked
    assert [PushRoute.DIRECT] * 2 == [image.route for image in pushed]
    tars = [layer_tar({"a": b"new"}), layer_tar({"b": b"2"})]
    assert tars[:1] == pusher.layer_tars(base.repository, "1.1")
    assert tars == pusher.layer_tars(app.repository, "1.1")
    assert tars == pusher.layer_tars(app.repository, fingerprint_tag(app.fingerprint))


def test_what_was_built_on_a_parent_that_another_agent_stored_meanwhile_is_built_again(
    pusher: Pusher, make_image: MakeImage
) -> None:
    theirs = make_image("base", {"a": b"theirs"})
    their_app = make_image("app", {"a": b"theirs"}, {"b": b"2"}, parents=(theirs.repository,))
    ours = make_image("base", {"a": b"ours"}, fingerprint=theirs.fingerprint)
    our_app = make_image("app", {"a": b"ours"}, {"b": b"2"}, parents=(theirs.repository,))
    their_layers = (pusher.engine.inspect(theirs.image_id) or {})["RootFS"]["Layers"]
    asked: list[list[str]] = []

    def provide(images: Sequence[ImageToPush], stored: Mapping[str, StoredImage], _: object) -> Sequence[ImageToPush]:
        asked.append([image.name for image in images])
        if len(asked) == 1:
            pusher("0.9", theirs)
            return images
        # Now it is to be built on theirs.
        assert their_layers == diff_ids_of(stored["base"].config)
        return [replace(our_app, image_id=their_app.image_id)]

    pusher("1.0", ours, our_app, provide=provide)
    assert [["base", "app"], ["app"]] == asked
    tars = [layer_tar({"a": b"theirs"}), layer_tar({"b": b"2"})]
    assert tars[:1] == pusher.layer_tars(theirs.repository, "1.0")
    assert tars == pusher.layer_tars(our_app.repository, "1.0")


def test_a_version_is_made_although_other_agents_store_parents_twice(pusher: Pusher, make_image: MakeImage) -> None:
    fingerprints = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("base", "app", "top")}

    def make(name: str, *layers: dict[str, bytes], parents: tuple[ImageToPush, ...] = ()) -> ImageToPush:
        repositories = tuple(parent.repository for parent in parents)
        return make_image(name, *layers, fingerprint=fingerprints[name], parents=repositories)

    # An image's parents are those that were made before it.
    theirs = make("base", {"a": b"theirs"})
    their_app = make("app", {"a": b"theirs"}, {"b": b"theirs"}, parents=(theirs,))
    last_top = make("top", {"a": b"theirs"}, {"b": b"theirs"}, {"c": b"3"}, parents=(theirs, their_app))
    second_app = make("app", {"a": b"theirs"}, {"b": b"ours"}, parents=(theirs,))
    second_top = make("top", {"a": b"theirs"}, {"b": b"ours"}, {"c": b"3"}, parents=(theirs, second_app))
    ours = make("base", {"a": b"ours"})
    app = make("app", {"a": b"ours"}, {"b": b"ours"}, parents=(ours,))
    top = make("top", {"a": b"ours"}, {"b": b"ours"}, {"c": b"3"}, parents=(ours, app))
    asked: list[list[str]] = []

    def provide(images: Sequence[ImageToPush], stored: Mapping[str, StoredImage], _: object) -> Sequence[ImageToPush]:
        asked.append([image.name for image in images])
        if len(asked) == 1:
            pusher("0.8", theirs)
            return images
        if len(asked) == 2:
            pusher("0.9", theirs, their_app)
            return [second_app, second_top]
        return [last_top]

    pusher("1.0", ours, app, top, provide=provide)
    assert [["base", "app", "top"], ["app", "top"], ["top"]] == asked
    expected = [layer_tar(files) for files in ({"a": b"theirs"}, {"b": b"theirs"}, {"c": b"3"})]
    assert expected == pusher.layer_tars(top.repository, "1.0")
