"""Images from the engine to the registry: what is there is not sent, what is the same is not built twice.

Each image is stored once, as it was built, under the tag ``fp-FINGERPRINT``. A version is that same image with labels
written into its configuration; the layers are untouched and not sent again.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TypeVar

from buildtools import BuildToolsError, Conflict
from buildtools.events import Report, Transferred, Warned, unheard
from buildtools.image.cache import Cache
from buildtools.image.engine import Engine
from buildtools.image.layers import compress, export
from buildtools.image.lookup import StoredImage, fingerprint_tag, is_intact, read_image
from buildtools.image.manifest import DOCKER_CONFIG, FINGERPRINT_LABEL, Descriptor, Manifest, digest_of, stamp
from buildtools.image.registry import Registry
from buildtools.version import Version

Item = TypeVar("Item")
Value = TypeVar("Value")

_JOBS = 8


class Route(Enum):
    """The way an image took into the registry."""

    ALREADY_THERE = "already there"
    STAMPED = "stamped"
    DIRECT = "direct"
    ENGINE = "engine"


@dataclass(frozen=True)
class ImageToPush:
    """One image of a version. ``image_id`` may be empty where the registry has the fingerprint.

    ``parents`` are the repositories whose layers it may share.
    """

    name: str
    repository: str
    fingerprint: str
    image_id: str = ""
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class PushedImage:
    """An image in the registry, as read back. ``size`` is that of its compressed layers in bytes."""

    name: str
    reference: str
    digest: str
    size: int
    route: Route


def push(
    engine: Engine | None,
    registry: Registry,
    images: Sequence[ImageToPush],
    *,
    version: Version,
    labels: Mapping[str, str],
    cache: Cache,
    report: Report = unheard,
    provide: Callable[[Sequence[ImageToPush]], Sequence[ImageToPush]] = list,
) -> list[PushedImage]:
    """Push one version of several images; what each became, in their order.

    ``labels`` are stamped into every image. Nothing is sent before every image was found to be free of conflicts.
    ``provide`` is asked once for the images that the registry does not have, and gives them back with their ids: so
    nothing is built that is there already.

    :raises Conflict: the version exists with other content; a dirty version is overwritten, with a warning.
    :raises Unreachable: the registry or the engine does not answer.
    :raises BuildToolsError: an image could not be pushed.
    """
    run = _Push(engine, registry, version.image_tag, version.dirty, labels, cache, report)
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        return run.all(images, pool, provide)


class _Push:
    def __init__(
        self,
        engine: Engine | None,
        registry: Registry,
        tag: str,
        may_overwrite: bool,
        labels: Mapping[str, str],
        cache: Cache,
        report: Report,
    ) -> None:
        self.engine = engine
        self.registry = registry
        self.tag = tag
        self.may_overwrite = may_overwrite
        self.labels = labels
        self.cache = cache
        self.report = report

    def all(
        self,
        images: Sequence[ImageToPush],
        pool: ThreadPoolExecutor,
        provide: Callable[[Sequence[ImageToPush]], Sequence[ImageToPush]],
    ) -> list[PushedImage]:
        there = dict(zip(images, _each(pool, self.published, images), strict=True))
        missing = [image for image in images if there[image] is None]
        stored = dict(zip(missing, _each(pool, self.built_before, missing), strict=True))
        new = [image for image in missing if stored[image] is None]
        if new:
            provided = provide(new)
            kept = self.store(provided, pool)
            stored |= {image: kept[given] for image, given in zip(new, provided, strict=True)}
        stamped = dict(zip(missing, _each(pool, lambda image: self.stamp(image, stored[image]), missing), strict=True))
        routes = {image: Route.DIRECT if image in new else Route.STAMPED for image in missing}
        return [
            self.pushed(image, there[image], Route.ALREADY_THERE)
            if there[image]
            else self.pushed(image, stamped[image], routes[image])
            for image in images
        ]

    def published(self, image: ImageToPush) -> StoredImage | None:
        """The version as it is in the registry already."""
        found = read_image(self.registry, image.repository, self.tag, self.cache)
        if found is None or self.same(found, image):
            return found
        reference = f"{self.registry.host}/{image.repository}:{self.tag}"
        if self.may_overwrite:
            self.report(Warned(image.name, f"{reference} exists with other content and is overwritten"))
            return None
        raise Conflict(
            f"{reference} exists with other content (digest {found.manifest.digest})",
            "a version is made once: commit and tag anew, or delete that tag in the registry",
        )

    def same(self, found: StoredImage, image: ImageToPush) -> bool:
        wanted = {**self.labels, FINGERPRINT_LABEL: image.fingerprint}
        return all(found.labels.get(key) == value for key, value in wanted.items())

    def built_before(self, image: ImageToPush) -> StoredImage | None:
        """The image as it was stored under its fingerprint, if all of it is still there."""
        found = read_image(self.registry, image.repository, fingerprint_tag(image.fingerprint), self.cache)
        return found if found and is_intact(self.registry, image.repository, found.manifest) else None

    def stamp(self, image: ImageToPush, stored: StoredImage | None) -> StoredImage:
        """Make the version out of the stored image, and read it back."""
        assert stored is not None
        config = stamp(stored.config, self.labels)
        self.registry.put_blob(image.repository, config)
        self.cache.remember_config(config)
        descriptor = replace(stored.manifest.config, digest=digest_of(config), size=len(config))
        manifest = stored.manifest.with_config(descriptor)
        self.registry.put_manifest(image.repository, self.tag, manifest)
        return StoredImage(manifest, config)

    def pushed(self, image: ImageToPush, made: StoredImage | None, route: Route) -> PushedImage:
        assert made is not None
        reference = f"{self.registry.host}/{image.repository}:{self.tag}"
        there = self.registry.head_manifest(image.repository, self.tag)
        if there is None or there.digest != made.manifest.digest:
            raise Conflict(
                f"{reference} was changed by someone else while it was pushed (it is {there and there.digest}, "
                f"we made {made.manifest.digest})",
                "run the same again",
            )
        size = sum(layer.size for layer in made.manifest.layers)
        return PushedImage(image.name, reference, there.digest, size, route)

    def store(self, images: Sequence[ImageToPush], pool: ThreadPoolExecutor) -> dict[ImageToPush, StoredImage | None]:
        """Bring images out of the engine into the registry, each under its fingerprint."""
        if self.engine is None or not all(image.image_id for image in images):
            names = ", ".join(image.name for image in images if self.engine is None or not image.image_id)
            raise BuildToolsError(f"not built, and not in the registry: {names}", "run `invoke build`")
        store = _Store(self.engine, self.registry, self.cache, self.report, pool)
        return store.all(images)


class _Store:
    """Stores images that the registry does not have. A layer that several share is compressed and sent once."""

    def __init__(
        self, engine: Engine, registry: Registry, cache: Cache, report: Report, pool: ThreadPoolExecutor
    ) -> None:
        self.engine = engine
        self.registry = registry
        self.cache = cache
        self.report = report
        self.pool = pool
        self.lock = threading.Lock()
        self.held: dict[str, set[str]] = {}

    def all(self, images: Sequence[ImageToPush]) -> dict[ImageToPush, StoredImage | None]:
        diff_ids = {image: self.diff_ids(image) for image in images}
        pairs = [(image, diff_id) for image in images for diff_id in dict.fromkeys(diff_ids[image])]
        known = dict(zip(pairs, self.pool.map(lambda pair: self.place_known(*pair), pairs), strict=True))
        missing: dict[str, list[ImageToPush]] = {}
        for (image, diff_id), layer in known.items():
            if layer is None:
                missing.setdefault(diff_id, []).append(image)
        sent: dict[str, Future[Descriptor]] = {}
        with tempfile.TemporaryDirectory(prefix="buildtools-layers-") as folder:

            def found(diff_id: str, path: Path) -> None:
                sent[diff_id] = self.pool.submit(self.send, diff_id, path, missing[diff_id])

            configs = export(self.engine, [image.image_id for image in images], missing, Path(folder), found)
            placed = {diff_id: future.result() for diff_id, future in sent.items()}

        def finish(image: ImageToPush) -> StoredImage:
            layers = [known[image, one] or placed[one] for one in diff_ids[image]]
            return self.finish(image, configs[image.image_id], layers)

        return dict(zip(images, self.pool.map(finish, images), strict=True))

    def diff_ids(self, image: ImageToPush) -> list[str]:
        found = self.engine.inspect(image.image_id)
        if found is None:
            raise BuildToolsError(f"the engine has no image {image.image_id} ({image.name})", "run `invoke build`")
        return list(found["RootFS"].get("Layers") or ())

    def place_known(self, image: ImageToPush, diff_id: str) -> Descriptor | None:
        """A layer that was compressed before, if it is in the image's repository or can be mounted into it."""
        layer = self.cache.layer(diff_id)
        if layer and (
            self.registry.blob_size(image.repository, layer.digest) == layer.size or self.mount(image, layer)
        ):
            self.note(layer, image.repository)
            return layer
        return None

    def send(self, diff_id: str, path: Path, images: Sequence[ImageToPush]) -> Descriptor:
        """Compress a layer and put it into the repositories of all images that have it."""
        packed = path.with_suffix(".gz")
        layer = compress(path, packed)
        path.unlink()
        self.cache.remember_layer(diff_id, layer)
        for image in images:
            if not self.mount(image, layer):
                self.registry.upload_blob(
                    image.repository, layer.digest, layer.size, lambda: packed.open("rb"), self.tell(image, layer)
                )
            self.note(layer, image.repository)
        packed.unlink()
        return layer

    def tell(self, image: ImageToPush, layer: Descriptor) -> Callable[[int], None]:
        return lambda done: self.report(Transferred(image.name, done, layer.size))

    def mount(self, image: ImageToPush, layer: Descriptor) -> bool:
        with self.lock:
            sources = dict.fromkeys([*self.held.get(layer.digest, ()), *image.parents])
        return any(
            self.registry.mount_blob(image.repository, layer.digest, source)
            for source in sources
            if source != image.repository
        )

    def note(self, layer: Descriptor, repository: str) -> None:
        with self.lock:
            self.held.setdefault(layer.digest, set()).add(repository)

    def finish(self, image: ImageToPush, config: bytes, layers: list[Descriptor]) -> StoredImage:
        """Put configuration and manifest of an image whose layers are all there."""
        self.registry.put_blob(image.repository, config)
        self.cache.remember_config(config)
        manifest = Manifest.make(Descriptor(DOCKER_CONFIG, digest_of(config), len(config)), layers)
        self.registry.put_manifest(image.repository, fingerprint_tag(image.fingerprint), manifest)
        return StoredImage(manifest, config)


def _each(pool: ThreadPoolExecutor, work: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
    return list(pool.map(work, items))
