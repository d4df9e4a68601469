"""Bring layers into the repositories of a registry: mounted where it has them already, otherwise sent, each once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from buildtools import BuildToolsError, Cancelled, Refused
from buildtools.events import Report, Step, Transferred
from buildtools.image.push.plan import LONG
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.image_to_push import ImageToPush
from buildtools.image.registry.manifest import Descriptor
from buildtools.schedule import awaited

if TYPE_CHECKING:
    from buildtools.image.push.spools import Spool

# A registry seldom truncates two forms of one layer; one that damages everything must not be tried forever.
_VARIANTS = 3


class LayerSender:
    """Knows which repositories of a registry have which layers, and sends what is missing. Thread-safe.

    ``layers`` maps the digest of a layer's uncompressed bytes to its descriptor in the registry, and a repository that
    has it.
    """

    def __init__(
        self,
        registry: Registry,
        cache: Cache,
        report: Report,
        cancelled: threading.Event,
        layers: Mapping[str, tuple[Descriptor, str]],
    ) -> None:
        self.registry = registry
        self.cache = cache
        self.report = report
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._layers = {diff_id: layer for diff_id, (layer, _) in layers.items()}
        self._holders: dict[str, list[str]] = {}
        for layer, repository in layers.values():
            self._note(layer, repository)

    def stop(self) -> None:
        """Send no more; what is being sent ends with :class:`Cancelled`."""
        self._stop.set()

    def descriptor(self, diff_id: str) -> Descriptor | None:
        """The compressed form that a layer has in the registry or had when this machine sent it; None if unknown."""
        return self._layers.get(diff_id) or self.cache.layer(diff_id)

    def place(self, image: ImageToPush, layer: Descriptor, others: Sequence[str] = ()) -> bool:
        """Whether the image's repository has a layer, after mounting it from another one if needed and possible."""
        with self._lock:
            holders = list(self._holders.get(layer.digest, ()))
        if image.repository in holders:
            return True

        def mount_from(holder: str) -> bool:
            return self.registry.mount_blob(image.repository, layer.digest, holder)

        # The holder's layer is known to be complete, so no further checks are needed.
        is_there = (
            any(mount_from(holder) for holder in holders[:1])
            or self._has(image, layer)
            or any(mount_from(other) and self._has(image, layer) for other in others if other != image.repository)
        )
        if is_there:
            self._note(layer, image.repository)
        return is_there

    def _has(self, image: ImageToPush, layer: Descriptor) -> bool:
        try:
            return self.registry.blob_size(image.repository, layer.digest) == layer.size
        except Refused:
            # Some registries deny access to what does not exist; the write will show.
            return False

    def _note(self, layer: Descriptor, repository: str) -> None:
        with self._lock:
            self._holders.setdefault(layer.digest, []).append(repository)

    def send(self, diff_id: str, raw: Spool, target: Spool, images: Sequence[ImageToPush]) -> Descriptor:
        """Compress a layer into ``target`` and upload it to the repositories of all images that have it."""
        from buildtools.image.push.layers import compress

        self.go_on(images[0])
        name = images[0].name
        is_long = raw.size >= LONG

        def tell(done: int) -> None:
            self.go_on(images[0])
            if is_long:
                self.report(Transferred(name, done, raw.size))

        # A registry keeps the blob that it has, even a truncated one, and accepts no other for its digest. The same
        # layer under another digest repairs that.
        for variant in range(_VARIANTS):
            if is_long:
                self.report(Step(name, f"compress a layer of {raw.size // 1_000_000} MB"))
            layer = compress(raw, target, variant, tell)
            if is_long:
                self.report(Step(name, "send it"))
            if all(self._bring(image, layer, target) for image in images):
                self.cache.remember_layer(diff_id, layer)
                raw.delete()
                target.delete()
                return layer
        raise self._damaged(layer, images[0])

    def send_blob(self, diff_id: str, layer: Descriptor, blob: Spool, images: Sequence[ImageToPush]) -> Descriptor:
        """Upload a compressed layer to the repositories of all images that have it."""
        if not all(self._bring(image, layer, blob) for image in images):
            raise self._damaged(layer, images[0])
        self._layers[diff_id] = layer
        blob.delete()
        return layer

    def _damaged(self, layer: Descriptor, image: ImageToPush) -> BuildToolsError:
        return BuildToolsError(
            f"{self.registry.host} keeps damaged copies of a layer of {image.repository}",
            f"ask its administrator to delete the blob {layer.digest}",
        )

    def _bring(self, image: ImageToPush, layer: Descriptor, target: Spool) -> bool:
        if self.place(image, layer):
            return True
        self.registry.upload_blob(
            image.repository, layer.digest, layer.size, target.open, partial(self._tell, image, layer)
        )
        # A registry of several servers may show it with a delay; if it has another size, it is damaged.
        is_there = awaited(lambda: self.registry.blob_size(image.repository, layer.digest)) == layer.size
        if is_there:
            self._note(layer, image.repository)
        return is_there

    def _tell(self, image: ImageToPush, layer: Descriptor, sent_bytes: int) -> None:
        self.go_on(image)
        self.report(Transferred(image.name, sent_bytes, layer.size))

    def go_on(self, image: ImageToPush) -> None:
        """Raise :class:`Cancelled` once the run is cancelled or the sender stopped."""
        if self._stop.is_set() or self._cancelled.is_set():
            raise Cancelled(f"the push of {image.name} was cancelled", "run the same command again")
