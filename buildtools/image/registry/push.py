"""What a push asks of the registry alone: which version is there, and a version made out of a stored image.

Each image lies in its repository once, as it was built, under the tag of its fingerprint. A version is that same image
with labels written into its configuration: its layers are neither built nor sent again. So a new version of an
unchanged image needs no engine, and costs two writes: the configuration, and the manifest under the version's tag.

A registry has no conditional write. Whoever sets a tag last has it, so the tag is looked at right before it is set, and
read back right after. Two agents that make one version of one commit then agree on the image that is read back; an
agent of another commit finds labels that are not its own, and stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum
from typing import TypeVar

from buildtools import BuildToolsError, Conflict, Failures, Refused, expected_failures
from buildtools.events import Report, Warned
from buildtools.frozen import frozen
from buildtools.image.generation import PARENTS_LABEL, generation_of, other_parents
from buildtools.image.reference import Reference, image_name, variant_name
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import (
    Seen,
    StoredImage,
    find_to_stamp,
    is_whole,
    prune_fingerprints,
    read_fingerprinted,
    read_image,
    tag_digest,
)
from buildtools.image.registry.manifest import (
    FINGERPRINT_LABEL,
    SOURCE_LABEL,
    Damaged,
    Manifest,
    OtherPlatforms,
    diff_ids_of,
    digest_of,
)
from buildtools.image.registry.stamping import stamped_image
from buildtools.platform import Platform
from buildtools.schedule import all_ended, awaited
from buildtools.settings import MediaTypes
from buildtools.version import Version

_Value = TypeVar("_Value")

# A registry answers 8 questions at once about as fast as one; with more it makes the others wait.
_JOBS = 8
# For so many seconds a tag that was absent counts as absent, where nothing was built or sent meanwhile. There is always
# such a time between the look and the write; a release has its claim for that.
_LOOK_LASTS = 0.5


class PushRoute(Enum):
    """The way an image took into the registry."""

    ALREADY_THERE = "already there"
    STAMPED = "stamped"
    DIRECT = "direct"
    ENGINE = "engine"
    BUILDER = "builder"


@frozen
class ImageToPush:
    """One image of a version.

    ``image_id`` may be empty where the registry has the fingerprint. ``parents`` are the places of the images whose
    layers this one may share. What the registry has is not used if it was built before ``built_since``, in seconds
    since 1970. ``platform`` is set for each variant of an image for several platforms: they share the repository and
    the version's tag, which points to their index. ``build_seconds`` is what its build took, 0 where nobody knows.
    One that is to be ``attested`` is nothing without its attestations.
    """

    name: str
    repository: str
    fingerprint: str
    image_id: str = ""
    parents: tuple[str, ...] = ()
    built_since: float = 0.0
    platform: Platform | None = None
    build_seconds: float = 0.0
    attested: bool = False

    @property
    def place(self) -> str:
        """Its repository, and which of the variants there it is."""
        return variant_name(self.repository, self.platform) if self.platform else self.repository

    @property
    def parent_repositories(self) -> tuple[str, ...]:
        """The repositories of its parents."""
        return tuple(map(image_name, self.parents))


@frozen
class PushedImage:
    """An image in the registry, as that confirmed it. ``size`` is that of its compressed layers in bytes.

    Of an image for several platforms these are the digest of the index, a digest of all fingerprints, and the size of
    all variants. That of one with attestations is the digest of the index, too.
    """

    name: str
    reference: str
    fingerprint: str
    digest: str
    size: int
    route: PushRoute

    @property
    def is_new(self) -> bool:
        """Whether the registry did not have this fingerprint before."""
        return self.route in (PushRoute.DIRECT, PushRoute.ENGINE, PushRoute.BUILDER)


def variants_by_repository(images: Iterable[ImageToPush]) -> list[list[ImageToPush]]:
    """The images, in their order, with all variants of one where its first stands."""
    variants: dict[str, list[ImageToPush]] = {}
    for image in images:
        variants.setdefault(image.repository, []).append(image)
    return list(variants.values())


class Overtaken(Exception):
    """Another agent has pushed another build of an image meanwhile, and what was built on ours does not fit it."""


Images = dict[ImageToPush, StoredImage | None]


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Threads to work with; what they have not begun is dropped when the work ends with an error."""
    pool = ThreadPoolExecutor(max_workers=_JOBS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class VersionTagger:
    """Finds and makes one version of many images in one registry, several at once with the threads of ``pool``.

    ``labels`` are stamped into every image, and its manifest is written with ``media_types``.
    """

    def __init__(
        self,
        registry: Registry,
        version: Version,
        labels: Mapping[str, str],
        cache: Cache,
        report: Report,
        pool: ThreadPoolExecutor,
        media_types: MediaTypes = MediaTypes.DOCKER,
    ) -> None:
        self._registry = registry
        self._version = version
        self._tag = version.image_tag
        self._labels = labels
        self._cache = cache
        self._report = report
        self._pool = pool
        self._media_types = media_types
        self._looked_at = float("-inf")
        self._versions: dict[ImageToPush, StoredImage] = {}
        self.parts = Seen()

    def look_up(self, images: Sequence[ImageToPush]) -> tuple[Images, Images]:
        """What the registry has of this version; and, of what it lacks, what is there under its fingerprint.

        :raises Conflict: the version exists with other content.
        :raises Unreachable: the registry does not answer.
        """
        # One question to a registry that is out of reach, rather than as many as there are images.
        self._registry.ping()
        published = self.each(self._published_image, images)
        self._looked_at = time.monotonic()
        self._refuse_other_platforms(images, published)
        missing = [image for image in images if published[image] is None]
        stored = self.each(self._stored_image, missing)
        for image in self.other_builds(images, published, stored):
            stored[image] = None
        return published, stored

    def unbuilt(self, images: Sequence[ImageToPush]) -> list[ImageToPush]:
        """Those that a push would have to build, by one question for each that is there.

        Whether all parts of the others are there is not asked: a push finds that out.

        :raises Conflict: the version exists with other content.
        :raises Unreachable: the registry does not answer.
        """
        self._registry.ping()
        known_images = self.each(self._known_image, images)
        # What is never up to date, or too old by now, is not built again for a version that has it.
        versions = self.each(self._published_image, [image for image in images if known_images[image] is None])
        others = set(self.other_builds(images, versions, known_images))
        return [image for image in images if image in others or not (known_images[image] or versions[image])]

    def other_builds(self, images: Sequence[ImageToPush], published: Images, stored: Images) -> list[ImageToPush]:
        """The stored ones of a version's images, parents first, that were built on other parents than the version has.

        :raises Conflict: one that is published was.
        """
        names = {image.place: image.name for image in images}
        generations: dict[str, str] = {}
        others = []
        for image in images:
            source = published.get(image) or stored.get(image)
            if source is None:
                continue
            generations_of_parents = {names[each]: generations.get(each, "") for each in image.parents if each in names}
            parents = other_parents(source.labels, generations_of_parents)
            if parents and not published.get(image):
                others.append(image)
                continue
            generations[image.place] = generation_of(diff_ids_of(source.config))
            # What was pushed before images carried this label stays as it is.
            if parents and all(generations_of_parents.values()) and PARENTS_LABEL in source.labels:
                raise Conflict(
                    f"{self._reference(image)} was built on other builds of {', '.join(parents)} than the version has",
                    "a version never changes: cut a new version",
                )
        return others

    def forget_look(self) -> None:
        """From here on time has passed, or something was sent: a tag must be looked at again before it is set."""
        self._looked_at = float("-inf")

    def base_images(self, bases: Iterable[Reference]) -> Iterator[tuple[str, StoredImage]]:
        """Those base images that lie in the same registry, whole, with their repositories."""
        for base in bases:
            if base.registry != self._registry.host:
                continue
            # Whoever may not read there, or finds it damaged, sends the layers.
            with suppress(Damaged, Refused):
                image = read_image(self._registry, base.repository, base.target, self._cache)
                if image and is_whole(self._registry, base.repository, image, self.parts):
                    yield base.repository, image

    def stamp(self, image: ImageToPush, source: StoredImage, route: PushRoute) -> PushedImage:
        """Make the version out of a stored image, and read it back.

        :raises Conflict: another commit has made it meanwhile.
        :raises Overtaken: another agent has, out of another build of this commit.
        """
        version = Reference(self._registry.host, image.repository, self._tag)
        media_types = MediaTypes.OCI if image.platform else self._media_types
        source = source if image.attested else replace(source, attestations=())
        stamped = stamped_image(source, self._labels, media_types, version, self._registry)
        self._registry.put_blob(image.repository, stamped.config)
        self._cache.remember_config(stamped.config)
        for each in stamped.attestations:
            self._registry.put_manifest(image.repository, each.digest, each)
        if image.platform or stamped.index:
            self._registry.put_manifest(image.repository, stamped.manifest.digest, stamped.manifest)
        if image.platform:
            stamped = replace(stamped, index=None)
        elif not self._set_tag([image], stamped.index or stamped.manifest):
            stamped = self._theirs(image, stamped)
        return self.pushed_image(image, stamped, route)

    def join(self, images: Sequence[ImageToPush], members: Sequence[PushedImage]) -> PushedImage:
        """The version of an image for several platforms, whose variants are all there: their index gets the tag.

        :raises Conflict: another commit has made it meanwhile.
        :raises Overtaken: another agent has, out of another build of this commit.
        """
        first = images[0]
        index = _index({image: self._versions[image] for image in images})
        current = tag_digest(self._registry, first.repository, self._tag)
        if current != index.digest and not self._set_tag(images, index):
            index = _index({image: self._theirs(image, self._versions[image]) for image in images})
        fingerprints = sorted(f"{image.platform} {image.fingerprint}" for image in images)
        routes = {member.route for member in members}
        return PushedImage(
            image_name(first.name),
            self._reference(first),
            digest_of("\n".join(fingerprints).encode()).removeprefix("sha256:"),
            index.digest,
            sum(member.size for member in members),
            next(route for route in reversed(PushRoute) if route in routes),
        )

    def _set_tag(self, images: Sequence[ImageToPush], manifest: Manifest) -> bool:
        """Point the version's tag to one of these images, or to the index of all; whether it does then.

        Another agent may have made the version since we looked, or make it now, unless we looked a moment ago.
        """
        just_looked = time.monotonic() - self._looked_at < _LOOK_LASTS
        if just_looked or self._version.dirty or any(self._published_image(image) is None for image in images):
            self._registry.put_manifest(images[0].repository, self._tag, manifest)
        return just_looked or self._shows(images[0], manifest.digest)

    def _theirs(self, image: ImageToPush, ours: StoredImage) -> StoredImage:
        """The image of the version that another agent has made where we made ours; it is as good."""
        theirs = self._at_tag(image)
        if theirs is None or not self._is_same(theirs, image):
            raise self._conflict(image, theirs.digest if theirs else "none")
        if diff_ids_of(theirs.config) != diff_ids_of(ours.config):
            raise Overtaken(image.name)
        return theirs

    def _shows(self, image: ImageToPush, digest: str) -> bool:
        """Whether the version's tag points to what was just put there, as a replicated registry may show late."""

        def look() -> bool | None:
            current = tag_digest(self._registry, image.repository, self._tag)
            return None if current is None else current == digest

        return awaited(look) or False

    def pushed_image(self, image: ImageToPush, source: StoredImage, route: PushRoute) -> PushedImage:
        """An image of the version, as the registry has it."""
        self._versions[image] = source
        size = sum(layer.size for layer in source.manifest.layers)
        return PushedImage(image.name, self._reference(image), image.fingerprint, source.digest, size, route)

    def prune(self, images: Iterable[ImageToPush], most: int) -> None:
        """Delete fingerprints above the bound; not being allowed to does not fail the push."""
        kept = [image.fingerprint for image in self._versions]

        def prune_one(image: ImageToPush) -> None:
            try:
                prune_fingerprints(self._registry, image.repository, kept, most, self._cache)
            except BuildToolsError as error:
                self._report(Warned(image.name, f"old fingerprints stay in the registry: {error.fact}"))

        self.each(prune_one, images)

    def each(self, work: Callable[[ImageToPush], _Value], images: Iterable[ImageToPush]) -> dict[ImageToPush, _Value]:
        """What ``work`` returns for every image, at the same time; errors are raised once all are through."""
        running = {image: self._pool.submit(work, image) for image in images}
        all_ended(running.values())
        errors = expected_failures(error for future in running.values() if (error := future.exception()))
        if errors:
            raise _together(errors)
        return {image: future.result() for image, future in running.items()}

    def _published_image(self, image: ImageToPush) -> StoredImage | None:
        """The version as the registry has it, or None where it is to be made."""
        try:
            published = self._unless_hidden(image, lambda: self._at_tag(image))
        except OtherPlatforms:
            self._refuse_other(image, tag_digest(self._registry, image.repository, self._tag) or "none")
            return None
        if published is None:
            return None
        if self._is_same(published, image):
            whole = is_whole(self._registry, image.repository, published, self.parts)
            return published if whole else None
        self._refuse_other(image, published.digest)
        return None

    def _stored_image(self, image: ImageToPush) -> StoredImage | None:
        """The image as the registry has it under its fingerprint, young enough; see :func:`find_to_stamp`."""
        image_at_tag = self._unless_hidden(
            image,
            lambda: find_to_stamp(self._registry, image.repository, image.fingerprint, self._cache, self.parts),
        )
        if image_at_tag is None or image_at_tag.created < image.built_since:
            return None
        return None if image.attested and not image_at_tag.attestations else image_at_tag

    def _at_tag(self, image: ImageToPush) -> StoredImage | None:
        """What the version's tag points to; attestations that somebody has added are not ours to mind."""
        present = read_image(self._registry, image.repository, self._tag, self._cache, platform=image.platform)
        return present if present is None or image.attested else replace(present, attestations=(), index=None)

    def _known_image(self, image: ImageToPush) -> StoredImage | None:
        """As :meth:`_stored_image`, of which parts may be missing."""
        image_at_tag = self._unless_hidden(
            image, lambda: read_fingerprinted(self._registry, image.repository, image.fingerprint, self._cache)
        )
        return image_at_tag if image_at_tag and image_at_tag.created >= image.built_since else None

    def _unless_hidden(self, image: ImageToPush, look_up: Callable[[], StoredImage | None]) -> StoredImage | None:
        """What ``look_up`` finds. Some registries deny access to what is absent, to those who may push too.

        :raises Refused: we may not push there either.
        """
        try:
            return look_up()
        except Refused:
            self._registry.check_push_access(image.repository)
            return None

    def _is_same(self, source: StoredImage, image: ImageToPush) -> bool:
        labels = {**self._labels, FINGERPRINT_LABEL: image.fingerprint}
        # Clones of one repository may call it by different URLs.
        labels.pop(SOURCE_LABEL, None)
        if image.attested and not source.attestations:
            return False
        return all(source.labels.get(key) == value for key, value in labels.items())

    def _reference(self, image: ImageToPush) -> str:
        return f"{self._registry.host}/{image.repository}:{self._tag}"

    def _refuse_other(self, image: ImageToPush, digest: str) -> None:
        """A version never changes, except a dirty one."""
        if not self._version.dirty:
            raise self._conflict(image, digest)
        self._report(Warned(image.name, f"{self._reference(image)} has other content and is overwritten"))

    def _refuse_other_platforms(self, images: Sequence[ImageToPush], published: Images) -> None:
        """A version that has every variant, and more of them, is another one."""
        for variants in variants_by_repository(images):
            present = {image: each for image in variants if image.platform and (each := published[image])}
            if len(present) == len(variants):
                digest = tag_digest(self._registry, variants[0].repository, self._tag)
                if digest != _index(present).digest:
                    self._refuse_other(variants[0], digest or "none")

    def _conflict(self, image: ImageToPush, digest: str) -> Conflict:
        return Conflict(
            f"{self._reference(image)} exists with other content, {digest}",
            "a version never changes: commit and cut a new version, or delete that tag in the registry",
        )


def _index(variants: Mapping[ImageToPush, StoredImage]) -> Manifest:
    images = {image.platform: each for image, each in variants.items() if image.platform}
    return Manifest.index(
        {platform: each.manifest for platform, each in images.items()},
        {platform: each.attestations for platform, each in images.items()},
    )


def _together(errors: Sequence[BuildToolsError]) -> BuildToolsError:
    """One error that says what each of several says."""
    failures = Failures(errors)
    return failures.combined(f"{len(failures.errors)} images could not be pushed", "fix the errors above and run again")
