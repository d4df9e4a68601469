"""Pushes of single images, and what the registry then has."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

from buildtools.events import Event
from buildtools.image.engine.client import Engine
from buildtools.image.push.routes import Provide, PushRequest, push
from buildtools.image.reference import Reference
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.image_to_push import ImageToPush, PushedImage
from buildtools.image.registry.lookup import ImageLookup, StoredImage
from buildtools.settings import MediaTypes
from buildtools.version import Version

VERSION = "org.opencontainers.image.version"
REVISION = "org.opencontainers.image.revision"


class Pusher:
    """Pushes versions the way the pipeline does."""

    def __init__(self, engine: Engine, registry: Registry, cache: Cache) -> None:
        self.engine = engine
        self.registry = registry
        self.cache = cache
        self.media_types = MediaTypes.DOCKER
        self.events: list[Event] = []

    def __call__(
        self,
        version: str,
        *images: ImageToPush,
        engine: bool = True,
        revision: str = "1",
        bases: Sequence[Reference] = (),
        provide: Provide = lambda images, *_: images,
    ) -> list[PushedImage]:
        labels = {VERSION: version, REVISION: revision}
        request = PushRequest(
            images,
            Version.parse(version),
            labels,
            bases=tuple(bases),
            media_types=self.media_types,
            provide=provide,
        )
        return push(request, self.engine if engine else None, self.registry, self.cache, report=self.events.append)

    def stored(self, repository: str, tag: str) -> StoredImage:
        found = ImageLookup(self.registry, self.cache).read(repository, tag)
        assert found is not None
        return found

    def layer_tars(self, repository: str, tag: str) -> list[bytes]:
        blobs = [self.registry.get_blob(repository, one.digest) for one in self.stored(repository, tag).manifest.layers]
        return [gzip.decompress(blob) for blob in blobs if blob is not None]
