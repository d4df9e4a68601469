"""Builds in an engine whose BuildKit cannot push: in its own store, and from there into the registry layer by layer."""

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
from buildtools.image.push.layer_uploader import LayerUploader
from buildtools.image.push.routes import known_layers
from buildtools.image.reference import Reference, image_name
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import StoredImage, read_image
from buildtools.image.registry.manifest import Damaged
from buildtools.image.registry.push import ImageToPush, workers
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
    """Build an image and bring it into the repository that the request names, without a tag; its digest.

    :raises BuildFailed: it could not be built.
    :raises Cancelled: ``cancelled`` was set.
    :raises Refused: it is to be attested.
    :raises BuildToolsError: the engine does not give it out, or the registry does not take it.
    """
    if request.attestations:
        raise Refused(
            f"{engine.title} has no place for the attestations of {request.name}",
            "switch on its containerd image store, or name another builder",
        )
    # It stays in the store under the name that any build gives it, and goes when `clean` takes that.
    tags = tuple(f"{image_name(request.name)}:{Reference.parse(tag).tag}" for tag in request.tags)
    request = replace(request, tags=tags)
    image = build_in_store(
        engine, request, credentials=credentials, environment=environment, report=report, cancel=cancelled
    )
    repository = Reference.parse(request.repository).repository
    try:
        layers = known_layers(_images_below(registry, cache, request))
        with workers() as pool:
            uploader = LayerUploader(
                engine, registry, cache, pool, report, layers, cancelled, request.media_types, tagged=False
            )
            ((stored, _),) = uploader.store([ImageToPush(request.name, repository, "", image.image_id)])
    except Unreachable as error:
        # Where the engine still answers it is the registry that does not, which no other builder mends.
        engine.inspect(image.image_id)
        raise BuildFailed(
            request.name, request.dockerfile, error.fact, error.remedy, exit_code=error.exit_code
        ) from None
    return stored.digest


def _images_below(registry: Registry, cache: Cache, request: BuildRequest) -> Iterator[tuple[str, StoredImage]]:
    """What it was built on, as far as the same registry has it, with its repository."""
    platform = Platform.parse(request.platform or request.native)
    for name in map(Reference.parse, request.parents):
        if name.registry == registry.host:
            # Whoever may not read there, or finds it damaged, sends the layers.
            with suppress(Damaged, Refused):
                image = read_image(registry, name.repository, name.target, cache, platform=platform)
                if image:
                    yield name.repository, image
