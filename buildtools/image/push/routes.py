"""Push one version of many images, from engine and registry into the registry.

Theory of operation. For each image the first possible one of these routes is taken:

==============  ====================================================  ==================================================
route           taken when                                            what is sent
==============  ====================================================  ==================================================
already there   the tag of the version has our labels and             nothing
                fingerprint, and all of its parts are there
stamped         the tag of the fingerprint has an image, all of       a configuration with the version's labels, and a
                its layers are there, and it is recent enough         manifest that names the same layers
engine          the image has attestations, or has a cache and comes  what the engine's own push sends; then as stamped
                from containerd's store; or small layers are on top
                of a large base that the registry has, and the
                engine, without containerd's store, knows the
                base's digests there; or there is no layer at all,
                and the store is not containerd's
builder         the builder has no image store of its own             nothing by us: the builder has already pushed
                                                                      them; then as stamped
direct          otherwise                                             the layers that the registry lacks, exported from
                                                                      the engine and compressed here; then as stamped
==============  ====================================================  ==================================================

The first two need no engine, and are decided for all images before anything is sent: so no tag of a version is set
while one of its images is in conflict. Only the remaining images are requested (``provide``), and built; meanwhile the
others get their configurations, and layers of images that are there already are sent if the engine gives them out one
by one. Nothing names these yet. All layers of all images are stored before the first tag of
the version is set.

An image is used only if it was built on the builds of its parents that the version has (see ``generation.py``). Another
agent may push the same commit at the same time, from builds of its own. The first agent to store an image under its
fingerprint wins, and so does the first to set the version's tag; the other notices that when it reads back, and starts
again with what is there. Parents are tagged before their children, so a child that has its tag matches them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from buildtools import BuildToolsError, Cancelled
from buildtools.events import Finished, Outcome, Report, Started, unheard
from buildtools.frozen import frozen
from buildtools.image.engine.client import Engine
from buildtools.image.push.layer_sender import LayerSender
from buildtools.image.push.layer_uploader import LayerUploader, StoreOptions
from buildtools.image.reference import Reference
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.image_to_push import ImageToPush, PushedImage, PushRoute, variants_by_repository
from buildtools.image.registry.lookup import StoredImage
from buildtools.image.registry.manifest import DOCKER_LAYER, OCI_LAYER, Descriptor, diff_ids_of
from buildtools.image.registry.push import workers
from buildtools.image.registry.version_lookup import Images, Overtaken, VersionLookup
from buildtools.image.registry.version_tagger import VersionTagger
from buildtools.settings import MediaTypes
from buildtools.version import Version

Begin = Callable[[ImageToPush], object]
Provide = Callable[[Sequence[ImageToPush], Mapping[str, StoredImage], Begin], Sequence[ImageToPush]]
KnownLayers = Mapping[str, tuple[Descriptor, str]]
Make = Callable[[Sequence[ImageToPush], Mapping[str, StoredImage]], Sequence[tuple[StoredImage, PushRoute]]]
StoreImages = Callable[
    [Sequence[ImageToPush], Mapping[str, StoredImage], KnownLayers], Sequence[tuple[StoredImage, PushRoute]]
]

# How often another agent may interfere, with another build of the same commit, before we give up.
_ATTEMPTS = 3


def _as_they_are(
    images: Sequence[ImageToPush], _stored_images: Mapping[str, StoredImage], _begin: Begin
) -> Sequence[ImageToPush]:
    return images


@frozen
class PushRequest:
    """What to push: one version of several images.

    ``labels`` are stamped into every image, and its manifest is written with ``media_types``. ``provide`` is called for
    the images that the registry lacks, and returns them with their ids, so nothing is built that is already there. It
    gets the images that the version already has, by name, because what it builds must be based on these; and what to
    call with each image as soon as it is there, so that its layers go while others are built. ``make``
    replaces it if the builder also stores images in the registry; it returns the stored images. ``before_tags`` is
    called once all layers are there, before the first tag of the version is set; it may raise. If something new was
    stored, at most ``fingerprints_kept`` fingerprints stay in its repository; 0 keeps all. Layers of those ``bases``
    that the registry has are not sent.
    """

    images: tuple[ImageToPush, ...]
    version: Version
    labels: Mapping[str, str]
    bases: tuple[Reference, ...] = ()
    fingerprints_kept: int = 0
    media_types: MediaTypes = MediaTypes.DOCKER
    provide: Provide = _as_they_are
    make: Make | None = None
    before_tags: Callable[[], object] | None = None


def push(
    request: PushRequest,
    engine: Engine | None,
    registry: Registry,
    cache: Cache,
    *,
    report: Report = unheard,
    cancelled: threading.Event | None = None,
) -> list[PushedImage]:
    """Push one version of several images; returns the result for each, in order.

    Nothing is sent before all images were checked for conflicts, and no tag of the version is set before all layers of
    all images are there. Without an engine, only images whose fingerprint is in the registry can be pushed. When
    ``cancelled`` is set, or the calling thread is interrupted, no further layer is sent.

    :raises Conflict: if the version exists with other content; a dirty version is overwritten, with a warning.
    :raises Unreachable: if the registry or the engine does not answer.
    :raises BuildToolsError: if an image could not be pushed.
    """
    cancelled = cancelled or threading.Event()
    began = time.monotonic()
    for image in request.images:
        report(Started(image.name, "push"))
    with workers() as pool:
        media_types = request.media_types
        lookup = VersionLookup(registry, request.version, request.labels, cache, report, pool)
        tagger = VersionTagger(lookup, media_types, report, pool)

        def store(
            missing: Sequence[ImageToPush], present: Mapping[str, StoredImage], layers: KnownLayers
        ) -> list[tuple[StoredImage, PushRoute]]:
            if engine is None:
                raise _not_built(request.provide(missing, present, lambda _: None))
            sender = LayerSender(registry, cache, report, cancelled, layers)
            options = StoreOptions(media_types, request.version.commit)
            with LayerUploader(engine, sender, pool, options) as uploader:
                images = request.provide(missing, present, uploader.begin)
                if unbuilt := [image for image in images if not image.image_id]:
                    raise _not_built(unbuilt)
                return uploader.store(images)

        results, pushed = _make_version(request, lookup, tagger, store, cancelled)
        for image in request.images:
            outcome = Outcome.UP_TO_DATE if results[image].route is PushRoute.ALREADY_THERE else Outcome.DONE
            detail = f"{results[image].route.value}, {results[image].digest}"
            report(Finished(image.name, "push", outcome, time.monotonic() - began, detail))
        if request.fingerprints_kept:
            new = [image for image in request.images if results[image].is_new]
            tagger.prune(new, request.fingerprints_kept)
    if any(result.route is not PushRoute.ALREADY_THERE for result in results.values()):
        cache.trim()
    return pushed


def _make_version(
    request: PushRequest, lookup: VersionLookup, tagger: VersionTagger, store: StoreImages, cancelled: threading.Event
) -> tuple[dict[ImageToPush, PushedImage], list[PushedImage]]:
    """The result for each image, and the version's images, in order; begun again if another agent has come first."""
    before_tags = request.before_tags
    for _ in range(_ATTEMPTS):
        published_images, stored_images = lookup.look_up(request.images)
        routes = _routes(request, lookup, tagger, published_images, stored_images, store)
        if cancelled.is_set():
            raise Cancelled(f"the push of {request.version} was cancelled", "run the same command again")
        if before_tags:
            before_tags()
            before_tags = None
            lookup.forget_look()
        try:
            results = _stamp(request, lookup, tagger, published_images, routes)
            return results, _joined(request, tagger, results)
        except Overtaken as error:
            overtaken = error
    raise BuildToolsError(f"other agents keep pushing other builds of {overtaken}", "run the same command again later")


def _routes(
    request: PushRequest,
    lookup: VersionLookup,
    tagger: VersionTagger,
    published_images: Images,
    stored_images: Images,
    store: StoreImages,
) -> dict[ImageToPush, tuple[StoredImage, PushRoute]]:
    """What to make each unpublished image of the version from; all of their layers are in the registry.

    Another agent may store an image while we build on our own. Both then use the one that is there, and what was built
    on the other is rebuilt.
    """
    routes = {image: (source, PushRoute.STAMPED) for image, source in stored_images.items() if source}
    new = [image for image in stored_images if image not in routes]
    attempts = 0
    while new:
        if attempts == _ATTEMPTS:
            names = ", ".join(image.name for image in new)
            raise BuildToolsError(
                f"other agents keep storing other builds of the parents of {names}", "run the same command again"
            )
        attempts += 1
        present = {image: each for image, each in published_images.items() if each}
        present |= {image: source for image, (source, _) in routes.items() if image not in new}
        present_by_name = {image.name: source for image, source in present.items()}
        # Half of the work of a version, for which there is time while something else is built.
        tagger.put_configs({image: source for image, (source, _) in routes.items() if image not in new})
        if request.make:
            results = request.make(new, present_by_name)
        else:
            bases = lookup.base_images(request.bases)
            layers = known_layers([*bases, *((image.repository, source) for image, source in present.items())])
            results = store(new, present_by_name, layers)
        routes |= zip(new, results, strict=True)
        _refuse_unattested({image: source for image, (source, _) in routes.items()})
        lookup.forget_look()
        sources: Images = {image: source for image, (source, _) in routes.items()}
        new = lookup.other_builds(request.images, published_images, sources)
    return routes


def _refuse_unattested(sources: Mapping[ImageToPush, StoredImage]) -> None:
    """Raise unless everything is attested that should be: without a list, BuildKit leaves a scanner's SBOM out."""
    for image, source in sources.items():
        if missing := sorted(image.attested - source.attested):
            raise BuildToolsError(
                f"{image.name} was built without the {' and the '.join(missing)} that it should have",
                "see what its scanner writes, and build it with --no-cache",
            )


def _stamp(
    request: PushRequest,
    lookup: VersionLookup,
    tagger: VersionTagger,
    published_images: Images,
    routes: Mapping[ImageToPush, tuple[StoredImage, PushRoute]],
) -> dict[ImageToPush, PushedImage]:
    """Make the version, parents before children.

    :raises Overtaken: if another agent has made it from another build of an image.
    """
    results = {
        image: tagger.pushed_image(image, each, PushRoute.ALREADY_THERE)
        for image, each in published_images.items()
        if each
    }
    waiting = [image for image in request.images if image not in results]
    while waiting:
        places = {image.place for image in waiting}
        ready = [image for image in waiting if places.isdisjoint(image.parents)]
        results |= lookup.each(lambda image: tagger.stamp(image, *routes[image]), ready)
        waiting = [image for image in waiting if image not in results]
    return results


def _joined(
    request: PushRequest, tagger: VersionTagger, results: Mapping[ImageToPush, PushedImage]
) -> list[PushedImage]:
    """The version's images, in order, with the variants of each joined into one.

    :raises Overtaken: if another agent has made one from another build.
    """
    return [
        tagger.join(images, [results[image] for image in images]) if images[0].platform else results[images[0]]
        for images in variants_by_repository(request.images)
    ]


def foreseen_routes(request: PushRequest, registry: Registry, cache: Cache) -> list[PushRoute | None]:
    """The route each image would take; None for one that the registry does not have. Nothing is sent.

    :raises Conflict: if the version exists with other content.
    :raises Unreachable: if the registry does not answer.
    """
    with workers() as pool:
        lookup = VersionLookup(registry, request.version, request.labels, cache, unheard, pool)
        published_images, stored_images = lookup.look_up(request.images)
    return [
        PushRoute.ALREADY_THERE if published_images[image] else PushRoute.STAMPED if stored_images[image] else None
        for image in request.images
    ]


def unbuilt_images(request: PushRequest, registry: Registry, cache: Cache) -> list[str]:
    """The names of the images that a push would have to build, judged by the registry's tags.

    :raises Conflict: if the version exists with other content.
    :raises Unreachable: if the registry does not answer.
    """
    with workers() as pool:
        lookup = VersionLookup(registry, request.version, request.labels, cache, unheard, pool)
        return [image.name for image in lookup.unbuilt(request.images)]


def _not_built(images: Sequence[ImageToPush]) -> BuildToolsError:
    names = ", ".join(image.name for image in images)
    return BuildToolsError(f"not built, and not in the registry: {names}", "build them first: `invoke build`")


def known_layers(images: Iterable[tuple[str, StoredImage]]) -> dict[str, tuple[Descriptor, str]]:
    """The layers in the registry by the digests of their uncompressed bytes, each with a repository that has it."""
    layers: dict[str, tuple[Descriptor, str]] = {}
    for repository, image in images:
        for diff_id, layer in zip(diff_ids_of(image.config), image.manifest.layers, strict=False):
            if layer.media_type in (DOCKER_LAYER, OCI_LAYER):
                layers[diff_id] = replace(layer, media_type=DOCKER_LAYER), repository
    return layers
