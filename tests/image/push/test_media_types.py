"""What an image is called in a registry is the user's choice, not that of the engine which built or pushed it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from buildtools.image.registry.image_to_push import ImageToPush, PushRoute
from buildtools.image.registry.lookup import fingerprint_tag
from buildtools.image.registry.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    FINGERPRINT_LABEL,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    digest_of,
    encode,
)
from buildtools.settings import MediaTypes
from tests.image.conftest import MakeImage
from tests.image.push.pusher import Pusher

NAMES = {
    MediaTypes.DOCKER: (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER),
    MediaTypes.OCI: (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER),
}


def names(pusher: Pusher, repository: str, tag: str) -> tuple[str, ...]:
    manifest = pusher.stored(repository, tag).manifest
    return manifest.media_type, *dict.fromkeys(part.media_type for part in (manifest.config, *manifest.layers))


@pytest.mark.parametrize("media_types", MediaTypes)
def test_a_new_image_has_the_media_types_that_are_asked_for(
    pusher: Pusher, make_image: MakeImage, media_types: MediaTypes
) -> None:
    pusher.media_types = media_types
    image = make_image("app", {"a": b"1"}, {"b": b"2"})
    pusher("1.0", image)
    for tag in ("1.0", fingerprint_tag(image.fingerprint)):
        assert NAMES[media_types] == names(pusher, image.repository, tag)


def test_a_stored_image_is_stamped_with_other_media_types_and_the_same_layers(
    pusher: Pusher, make_image: MakeImage
) -> None:
    image = make_image("app", {"a": b"1"})
    pusher("1.0", image)
    pusher.media_types = MediaTypes.OCI
    (again,) = pusher("1.0", image)
    (stamped,) = pusher("1.1", replace(image, image_id=""), engine=False)
    assert [PushRoute.ALREADY_THERE, PushRoute.STAMPED] == [again.route, stamped.route]
    assert [DOCKER_MANIFEST, OCI_MANIFEST] == [names(pusher, image.repository, tag)[0] for tag in ("1.0", "1.1")]
    one, two = (pusher.stored(image.repository, tag).manifest.layers for tag in ("1.0", "1.1"))
    assert [layer.digest for layer in one] == [layer.digest for layer in two]


@pytest.mark.parametrize("media_types", MediaTypes)
def test_a_version_is_the_same_manifest_however_an_engine_has_written_the_image(
    pusher: Pusher, namespace: str, media_types: MediaTypes
) -> None:
    layer = b"a layer"
    config = {
        "os": "linux",
        "config": {"Labels": {FINGERPRINT_LABEL: "f" * 64}},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
    }
    pusher.media_types = media_types
    digests = set()
    for written_by, own in ((MediaTypes.DOCKER, {"OnBuild": None}), (MediaTypes.OCI, {})):
        image = ImageToPush("app", f"{namespace}/{written_by.value}", "f" * 64)
        body = json.dumps({**config, "config": {**config["config"], **own}}).encode()  # type: ignore[dict-item]
        for blob in (layer, body):
            pusher.registry.put_blob(image.repository, blob)
        manifest_type, config_type, layer_type = NAMES[written_by]
        parts = [Descriptor(config_type, digest_of(body), len(body)), Descriptor(layer_type, digest_of(layer), 7)]
        first, *rest = ({"digest": part.digest, "size": part.size, "mediaType": part.media_type} for part in parts)
        document = {"mediaType": manifest_type, "annotations": {"a": "b"}, "layers": rest, "config": first}
        stored = Manifest(manifest_type, encode({**document, "schemaVersion": 2}))
        pusher.registry.put_manifest(image.repository, fingerprint_tag(image.fingerprint), stored)
        (pushed,) = pusher("1.0", image, engine=False)
        digests.add(pushed.digest)
        assert NAMES[media_types] == names(pusher, image.repository, "1.0")
    assert 1 == len(digests)
