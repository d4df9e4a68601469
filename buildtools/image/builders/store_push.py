"""Build in an engine whose BuildKit cannot push: in its own store, and from there into the registry layer by layer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from buildtools import Refused, Unreachable
from buildtools.events import Report
from buildtools.image.builder import BuildRequest
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.build import build_in_store
from buildtools.image.engine.buildkit.failure import BuildFailed
from buildtools.image.engine.client import Engine
from buildtools.image.push.layer_sender import LayerSender
from buildtools.image.push.layer_uploader import LayerUploader, StoreOptions
from buildtools.image.push.routes import known_layers
from buildtools.image.reference import Reference, image_name
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.image_to_push import ImageToPush
from buildtools.image.registry.lookup import ImageLookup, StoredImage
from buildtools.image.registry.manifest import Damaged
from buildtools.image.registry.push import workers
from buildtools.platform import Platform


def push_from_store(
    engine: Engine,
    registry: Registry,
    cache: Cache,
    request: BuildRequest,
    *,
    credentials: Credentials,
    environment: Mapping[str, str],
    report: Report,
    cancelled: threading.Event,
) -> str:
    """Build an image and upload it to the request's repository, without a tag; returns its digest.

    :raises BuildFailed: if it could not be built.
    :raises Cancelled: if ``cancelled`` was set.
    :raises Refused: if attestations are requested.
    :raises BuildToolsError: if the engine does not export it, or the registry does not accept it.
    """
    if request.attestations:
        raise Refused(
            f"{engine.title} has no place for the attestations of {request.name}",
            "switch on its containerd image store, or name another builder",
        )
    # It stays in the store under the usual name of a build, and is deleted when `clean` removes that name.
    tags = tuple(f"{image_name(request.name)}:{Reference.parse(tag).tag}" for tag in request.tags)
    request = replace(request, tags=tags)
    image = build_in_store(
        engine, request, credentials=credentials, environment=environment, report=report, cancel=cancelled
    )
    repository = Reference.parse(request.repository).repository
    try:
        layers = known_layers(_images_below(registry, cache, request))
        sender = LayerSender(registry, cache, report, cancelled, layers)
        options = StoreOptions(request.media_types, tagged=False)
        with workers() as pool, LayerUploader(engine, sender, pool, options) as uploader:
            ((stored, _),) = uploader.store([ImageToPush(request.name, repository, "", image.image_id)])
    except Unreachable as error:
        # If the engine still answers, the registry is the problem, which no other builder can solve.
        engine.inspect(image.image_id)
        raise BuildFailed(
            request.name, request.dockerfile, error.fact, error.remedy, exit_code=error.exit_code
        ) from None
    return stored.digest


def _images_below(registry: Registry, cache: Cache, request: BuildRequest) -> Iterator[tuple[str, StoredImage]]:
    """The images that it was built on and their repositories, as far as the same registry has them."""
    platform = Platform.parse(request.platform or request.native)
    lookup = ImageLookup(registry, cache)
    for name in map(Reference.parse, request.parents):
        if name.registry == registry.host:
            # If access is denied, or the image is damaged, the layers are uploaded.
            with suppress(Damaged, Refused):
                image = lookup.read(name.repository, name.target, platform)
                if image:
                    yield name.repository, image
