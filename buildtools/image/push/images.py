"""One version of many images, from engine and registry into the registry.

Each image lies there once, as it was built, under the tag of its fingerprint. A version is that same image with labels
written into its configuration: its layers are neither built nor sent again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from buildtools import BuildToolsError, Conflict, Failures, Refused
from buildtools.events import Finished, Outcome, Report, Started, Warned, unheard
from buildtools.frozen import frozen
from buildtools.image.engine.client import Engine
from buildtools.image.push.layer_uploader import LayerUploader, PushRoute, find_stored
from buildtools.image.push.plan import ImageToPush
from buildtools.image.reference import Reference
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import Seen, StoredImage, digest_of, is_whole, prune_fingerprints, read_image
from buildtools.image.registry.manifest import (
    DOCKER_LAYER,
    FINGERPRINT_LABEL,
    OCI_LAYER,
    SOURCE_LABEL,
    Damaged,
    Descriptor,
    diff_ids_of,
    stamp,
)
from buildtools.image.registry.manifest import digest_of as digest_of_bytes
from buildtools.schedule import all_ended
from buildtools.version import Version

__all__ = ["ImageToPush", "Provide", "PushRoute", "PushedImage", "foresee", "push"]

Value = TypeVar("Value")
Provide = Callable[[Sequence[ImageToPush]], Sequence[ImageToPush]]

_JOBS = 8
# For so many seconds a tag that was not there counts as not there, where nothing was built or sent meanwhile. Nobody
# can set one on the condition that it is not there, so there is always such a time; publish has its claim for that.
_LOOK_LASTS = 0.5


@frozen
class PushedImage:
    """An image in the registry, as that confirmed it. ``size`` is that of its compressed layers in bytes."""

    name: str
    reference: str
    fingerprint: str
    digest: str
    size: int
    route: PushRoute

    @property
    def is_new(self) -> bool:
        """Whether the registry did not have this fingerprint before."""
        return self.route in (PushRoute.DIRECT, PushRoute.ENGINE)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads to work with; what they have not begun is dropped when the work ends with an error."""
    pool = ThreadPoolExecutor(max_workers=_JOBS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def push(
    engine: Engine | None,
    registry: Registry,
    images: Sequence[ImageToPush],
    *,
    version: Version,
    labels: Mapping[str, str],
    cache: Cache,
    report: Report = unheard,
    fingerprints_kept: int = 0,
    bases: Sequence[Reference] = (),
    provide: Provide = list,
    stored: Callable[[], object] | None = None,
    cancelled: threading.Event | None = None,
) -> list[PushedImage]:
    """Push one version of several images; what each became, in their order.

    ``labels`` are stamped into every image. Nothing is sent before all images were found to be free of conflicts, and
    no tag of the version is set before all layers of all images are there. Without an engine, only what the registry
    has by its fingerprint can be pushed. ``provide`` is asked once for those images that the registry lacks, and gives
    them back with their ids: so nothing is built that is there already. ``stored`` is called once all layers are there,
    before the first tag of the version is set; it may raise. Where something new was stored, at most
    ``fingerprints_kept`` fingerprints stay in its repository; 0 keeps all. Layers of those ``bases`` that the registry
    has are not sent. When ``cancelled`` is set, or the calling thread is interrupted, no layer is sent any further.

    :raises Conflict: the version exists with other content; a dirty version is overwritten, with a warning.
    :raises Unreachable: the registry or the engine does not answer.
    :raises BuildToolsError: an image could not be pushed.
    """
    with _workers() as pool:
        run = _Push(engine, registry, version, labels, cache, report, pool, cancelled or threading.Event())
        pushed = run.run(images, bases, provide, stored)
        if fingerprints_kept:
            run.prune([image for image, done in zip(images, pushed, strict=True) if done.is_new], fingerprints_kept)
        return pushed


def foresee(
    registry: Registry,
    images: Sequence[ImageToPush],
    *,
    version: Version,
    labels: Mapping[str, str],
    cache: Cache,
) -> list[PushRoute | None]:
    """The way each image would take; None for one that the registry does not have. Nothing is sent.

    :raises Conflict: the version exists with other content.
    :raises Unreachable: the registry does not answer.
    """
    with _workers() as pool:
        return _Push(None, registry, version, labels, cache, unheard, pool, threading.Event()).foresee(images)


class _Push:
    def __init__(
        self,
        engine: Engine | None,
        registry: Registry,
        version: Version,
        labels: Mapping[str, str],
        cache: Cache,
        report: Report,
        pool: ThreadPoolExecutor,
        cancelled: threading.Event,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._version = version
        self._tag = version.image_tag
        self._labels = labels
        self._cache = cache
        self._report = report
        self._pool = pool
        self._cancelled = cancelled
        self._began = time.monotonic()
        self._looked = float("-inf")
        self._seen = Seen()

    def run(
        self,
        images: Sequence[ImageToPush],
        bases: Sequence[Reference],
        provide: Provide,
        when_stored: Callable[[], object] | None,
    ) -> list[PushedImage]:
        for image in images:
            self._report(Started(image.name, "push"))
        there, stored = self._look(images)
        ready = {image: (found, PushRoute.STAMPED) for image, found in stored.items() if found}
        if new := [image for image in stored if image not in ready]:
            present = [(image.repository, found) for image, found in {**there, **stored}.items() if found]
            ready |= zip(new, self._store(provide(new), [*self._look_up(bases), *present]), strict=True)
            self._looked = float("-inf")
        if self._cancelled.is_set():
            raise BuildToolsError(f"the push of {self._version} was cancelled", "run the same again")
        if when_stored:
            when_stored()
            self._looked = float("-inf")
        made = self._each(lambda image: self._stamp(image, *ready[image]), stored)
        made |= {image: self._pushed(image, found, PushRoute.ALREADY_THERE) for image, found in there.items() if found}
        return [self._finished(image, made[image]) for image in images]

    def foresee(self, images: Sequence[ImageToPush]) -> list[PushRoute | None]:
        there, stored = self._look(images)
        return [
            PushRoute.ALREADY_THERE if there[image] else PushRoute.STAMPED if stored[image] else None
            for image in images
        ]

    def prune(self, images: Sequence[ImageToPush], most: int) -> None:
        """Take away fingerprints above the bound; not being allowed to is no failure of the push."""

        def prune_one(image: ImageToPush) -> None:
            try:
                prune_fingerprints(self._registry, image.repository, [image.fingerprint], most, self._cache)
            except BuildToolsError as error:
                self._report(Warned(image.name, f"old fingerprints stay in the registry: {error.fact}"))

        self._each(prune_one, images)

    def _look(
        self, images: Sequence[ImageToPush]
    ) -> tuple[dict[ImageToPush, StoredImage | None], dict[ImageToPush, StoredImage | None]]:
        """What the registry has of this version, and, of what it does not have, what is there by its fingerprint."""
        # One question to a registry that is out of reach, rather than as many as there are images.
        self._registry.ping()
        there = self._each(self._published, images)
        self._looked = time.monotonic()
        missing = [image for image in images if there[image] is None]
        return there, self._each(lambda image: find_stored(self._registry, image, self._cache, self._seen), missing)

    def _published(self, image: ImageToPush) -> StoredImage | None:
        """The version as the registry has it, or None where it is to be made."""
        found = read_image(self._registry, image.repository, self._tag, self._cache)
        if found is None:
            return None
        if self._is_same(found, image):
            return found if is_whole(self._registry, image.repository, found.manifest, self._seen) else None
        if self._version.dirty:
            self._report(Warned(image.name, f"{self._reference(image)} has other content and is overwritten"))
            return None
        raise self._conflict(image, found.digest)

    def _look_up(self, bases: Sequence[Reference]) -> Iterator[tuple[str, StoredImage]]:
        for base in bases:
            if base.registry != self._registry.host:
                continue
            # Whoever may not read there, or finds it damaged, sends the layers.
            with suppress(Damaged, Refused):
                found = read_image(self._registry, base.repository, base.target, self._cache)
                if found and is_whole(self._registry, base.repository, found.manifest, self._seen):
                    yield base.repository, found

    def _store(
        self, images: Sequence[ImageToPush], present: Iterable[tuple[str, StoredImage]]
    ) -> list[tuple[StoredImage, PushRoute]]:
        if self._engine is None or not all(image.image_id for image in images):
            names = ", ".join(image.name for image in images if self._engine is None or not image.image_id)
            raise BuildToolsError(f"not built, and not in the registry: {names}", "build first: invoke build")
        known: dict[str, tuple[Descriptor, str]] = {}
        for repository, found in present:
            for diff_id, layer in zip(diff_ids_of(found.config), found.manifest.layers, strict=False):
                if layer.media_type in (DOCKER_LAYER, OCI_LAYER):
                    known[diff_id] = replace(layer, media_type=DOCKER_LAYER), repository
        storing = LayerUploader(
            self._engine, self._registry, self._cache, self._pool, self._report, known, self._cancelled
        )
        return storing.store(images)

    def _stamp(self, image: ImageToPush, stored: StoredImage, route: PushRoute) -> PushedImage:
        """Make the version out of the stored image."""
        config = stamp(stored.config, self._labels)
        descriptor = replace(stored.manifest.config, digest=digest_of_bytes(config), size=len(config))
        made = StoredImage(stored.manifest.with_config(descriptor), config)
        self._registry.put_blob(image.repository, config)
        self._cache.remember_config(config)
        # Another agent may have made the version since we looked, or make it now, unless we looked a moment ago.
        just_looked = time.monotonic() - self._looked < _LOOK_LASTS
        if just_looked or self._version.dirty or self._published(image) is None:
            self._registry.put_manifest(image.repository, self._tag, made.manifest)
        if not just_looked and digest_of(self._registry, image.repository, self._tag) != made.digest:
            found = read_image(self._registry, image.repository, self._tag, self._cache)
            if found is None or not self._is_same(found, image):
                raise self._conflict(image, found.digest if found else "none")
            made = found
        return self._pushed(image, made, route)

    def _is_same(self, found: StoredImage, image: ImageToPush) -> bool:
        wanted = {**self._labels, FINGERPRINT_LABEL: image.fingerprint}
        # Clones of one repository may call it by different URLs.
        wanted.pop(SOURCE_LABEL, None)
        return all(found.labels.get(key) == value for key, value in wanted.items())

    def _pushed(self, image: ImageToPush, found: StoredImage, route: PushRoute) -> PushedImage:
        size = sum(layer.size for layer in found.manifest.layers)
        return PushedImage(image.name, self._reference(image), image.fingerprint, found.digest, size, route)

    def _finished(self, image: ImageToPush, pushed: PushedImage) -> PushedImage:
        outcome = Outcome.UP_TO_DATE if pushed.route is PushRoute.ALREADY_THERE else Outcome.DONE
        seconds = time.monotonic() - self._began
        self._report(Finished(image.name, "push", outcome, seconds, f"{pushed.route.value}, {pushed.digest}"))
        return pushed

    def _reference(self, image: ImageToPush) -> str:
        return f"{self._registry.host}/{image.repository}:{self._tag}"

    def _conflict(self, image: ImageToPush, digest: str) -> Conflict:
        return Conflict(
            f"{self._reference(image)} exists with other content, {digest}",
            "a version is made once: commit and tag anew, or delete that tag in the registry",
        )

    def _each(self, work: Callable[[ImageToPush], Value], images: Iterable[ImageToPush]) -> dict[ImageToPush, Value]:
        """What ``work`` gives for every image, at the same time; an error is raised once all are through."""
        running = {image: self._pool.submit(work, image) for image in images}
        all_ended(running.values())
        errors = [error for future in running.values() if (error := future.exception())]
        expected = [error for error in errors if isinstance(error, BuildToolsError)]
        if len(expected) != len(errors):
            raise next(error for error in errors if error not in expected)
        if expected:
            raise _together(expected)
        return {image: future.result() for image, future in running.items()}


def _together(errors: Sequence[BuildToolsError]) -> BuildToolsError:
    """One error that says what each of several says."""
    failures = Failures(errors)
    return failures.combined(f"{len(failures.errors)} images could not be pushed", "fix the errors above and run again")
