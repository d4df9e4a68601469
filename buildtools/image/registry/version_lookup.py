"""What a registry has of one version of many images: which of them are there, and which have to be made.

Nothing is written. A registry has no conditional write, so what is there is looked at again right before a tag is set,
and right after; :mod:`buildtools.image.registry.version_tagger` does that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from buildtools import Conflict, Refused
from buildtools.events import Report, Warned
from buildtools.image.generation import PARENTS_LABEL, generation_of, other_parents
from buildtools.image.reference import Reference
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.image_to_push import ImageToPush, variants_by_repository
from buildtools.image.registry.lookup import ImageLookup, KnownParts, StoredImage, tag_digest
from buildtools.image.registry.manifest import (
    FINGERPRINT_LABEL,
    SOURCE_LABEL,
    Damaged,
    Manifest,
    OtherPlatforms,
    diff_ids_of,
)
from buildtools.image.registry.push import each_image
from buildtools.schedule import awaited
from buildtools.version import Version

_Value = TypeVar("_Value")

# For how many seconds a tag that did not exist counts as missing, if nothing was built or sent since. There is
# always some time between the check and the write; a release has its claim for that.
_LOOK_LASTS = 0.5


class Overtaken(Exception):
    """Another agent has pushed another build of an image, which does not match what was built on ours."""


Images = dict[ImageToPush, StoredImage | None]


class VersionLookup:
    """Looks up one version of many images in one registry, several at once with the threads of ``pool``.

    ``labels`` are those that every image of the version has. ``tag_digests`` is what the version's tag pointed to in
    each repository at the last look.
    """

    def __init__(
        self,
        registry: Registry,
        version: Version,
        labels: Mapping[str, str],
        cache: Cache,
        report: Report,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.registry = registry
        self.version = version
        self.tag = version.image_tag
        self.labels = labels
        self.cache = cache
        self.tag_digests: dict[str, str] = {}
        self._images = ImageLookup(registry, cache, KnownParts())
        self._report = report
        self._pool = pool
        self._looked_at = float("-inf")

    def look_up(self, images: Sequence[ImageToPush]) -> tuple[Images, Images]:
        """The images of this version in the registry; and, for missing ones, the images with their fingerprints.

        :raises Conflict: if the version exists with other content.
        :raises Unreachable: if the registry does not answer.
        """
        # Ask a registry that may be unreachable once, rather than once per image.
        self.registry.ping()
        published_images = self._published(images)
        self._looked_at = time.monotonic()
        self._refuse_other_platforms(images, published_images)
        missing = [image for image in images if published_images[image] is None]
        stored_images = self.each(self._stored_image, missing)
        for image in self.other_builds(images, published_images, stored_images):
            stored_images[image] = None
        return published_images, stored_images

    def unbuilt(self, images: Sequence[ImageToPush]) -> list[ImageToPush]:
        """The images that a push would have to build, with one request for each that is there.

        It does not check whether all parts of the others are there; a push does.

        :raises Conflict: if the version exists with other content.
        :raises Unreachable: if the registry does not answer.
        """
        self.registry.ping()
        known_images = self.each(self._known_image, images)
        # An image that is never up to date, or too old by now, is not rebuilt for a version that has it.
        versions = self._published(image for image in images if known_images[image] is None)
        others = set(self.other_builds(images, versions, known_images))
        return [image for image in images if image in others or not (known_images[image] or versions[image])]

    def other_builds(
        self, images: Sequence[ImageToPush], published_images: Images, stored_images: Images
    ) -> list[ImageToPush]:
        """The stored images, parents first, that were built on other parents than the version has.

        :raises Conflict: if a published one was.
        """
        names = {image.place: image.name for image in images}
        generations: dict[str, str] = {}
        others = []
        for image in images:
            source = published_images.get(image) or stored_images.get(image)
            if source is None:
                continue
            generations_of_parents = {names[each]: generations.get(each, "") for each in image.parents if each in names}
            parents = other_parents(source.labels, generations_of_parents)
            if parents and not published_images.get(image):
                others.append(image)
                continue
            generations[image.place] = generation_of(diff_ids_of(source.config))
            # Images that were pushed before this label existed stay as they are.
            if parents and all(generations_of_parents.values()) and PARENTS_LABEL in source.labels:
                raise Conflict(
                    f"{self.reference(image)} was built on other builds of {', '.join(parents)} than the version has",
                    "a version never changes: cut a new version",
                )
        return others

    @property
    def is_fresh(self) -> bool:
        """Whether the last look was just now, so that its answer still counts."""
        return time.monotonic() - self._looked_at < _LOOK_LASTS

    def forget_look(self) -> None:
        """Make sure that a tag is read again before it is set, because time has passed or something was sent."""
        self._looked_at = float("-inf")

    def base_images(self, bases: Iterable[Reference]) -> Iterator[tuple[str, StoredImage]]:
        """The base images that are complete in the same registry, with their repositories."""
        for base in bases:
            if base.registry != self.registry.host:
                continue
            # If access is denied, or the image is damaged, the layers are sent.
            with suppress(Damaged, Refused):
                image = self._images.read(base.repository, base.target)
                if image and self._images.is_whole(base.repository, image):
                    yield base.repository, image

    def is_published(self, images: Sequence[ImageToPush]) -> bool:
        """Whether the version has all of these variants of one image now."""
        manifest = self._version_manifest(images[0])
        return all(self._published_image(image, manifest) for image in images)

    def theirs(self, image: ImageToPush, ours: StoredImage) -> StoredImage:
        """The image that another agent has made for the same version; it is as good as ours."""
        manifest = self._version_manifest(image)
        theirs = self._image_at(image, manifest) if manifest else None
        if theirs is None or not self._is_same(theirs, image):
            raise self._conflict(image, theirs.digest if theirs else "none")
        if diff_ids_of(theirs.config) != diff_ids_of(ours.config):
            raise Overtaken(image.name)
        return theirs

    def shows(self, image: ImageToPush, digest: str) -> bool:
        """Whether the version's tag points to what was just put there; a replicated registry may take a moment."""

        def look() -> bool | None:
            current = tag_digest(self.registry, image.repository, self.tag)
            return None if current is None else current == digest

        return awaited(look) or False

    def each(self, work: Callable[[ImageToPush], _Value], images: Iterable[ImageToPush]) -> dict[ImageToPush, _Value]:
        """The results of ``work`` for every image, in parallel; errors are raised once all have ended."""
        return each_image(self._pool, work, images)

    def _published(self, images: Iterable[ImageToPush]) -> Images:
        """The version's images in the registry; None for those that have to be made."""
        variants = {each[0]: each for each in variants_by_repository(images)}
        manifests = self.each(self._version_manifest, variants)
        pairs = {image: manifests[first] for first, each in variants.items() for image in each}
        return self.each(lambda image: self._published_image(image, pairs[image]), pairs)

    def _version_manifest(self, image: ImageToPush) -> Manifest | None:
        """What the version's tag points to in the repository of an image; None if there is nothing."""
        manifest = self._unless_hidden(image, lambda: self.registry.get_manifest(image.repository, self.tag))
        self.tag_digests[image.repository] = manifest.digest if manifest else ""
        return manifest

    def _published_image(self, image: ImageToPush, manifest: Manifest | None) -> StoredImage | None:
        """The version's image in what its tag points to, or None if it has to be made."""
        if manifest is None:
            return None
        try:
            published = self._unless_hidden(image, lambda: self._image_at(image, manifest))
        except OtherPlatforms:
            self._refuse_other(image, manifest.digest)
            return None
        if published is None:
            return None
        if self._is_same(published, image):
            return published if self._images.is_whole(image.repository, published) else None
        self._refuse_other(image, published.digest)
        return None

    def _stored_image(self, image: ImageToPush) -> StoredImage | None:
        """The image with its fingerprint in the registry, if it is recent enough; see :meth:`ImageLookup.to_stamp`."""
        image_at_tag = self._unless_hidden(image, lambda: self._images.to_stamp(image.repository, image.fingerprint))
        if image_at_tag is None or image_at_tag.created < image.built_since:
            return None
        return image_at_tag if image_at_tag.attested >= image.attested else None

    def _image_at(self, image: ImageToPush, manifest: Manifest) -> StoredImage | None:
        """The image in what the version's tag points to; attestations that somebody added are ignored."""
        present = self._images.image_of(image.repository, manifest, image.platform)
        return present if present is None or image.attested else replace(present, attestations=(), index=None)

    def _known_image(self, image: ImageToPush) -> StoredImage | None:
        """Like :meth:`_stored_image`, but parts may be missing."""
        image_at_tag = self._unless_hidden(
            image, lambda: self._images.with_fingerprint(image.repository, image.fingerprint)
        )
        return image_at_tag if image_at_tag and image_at_tag.created >= image.built_since else None

    def _unless_hidden(self, image: ImageToPush, look_up: Callable[[], _Value]) -> _Value | None:
        """The result of ``look_up``. Some registries deny access to what does not exist, even to those who may push.

        :raises Refused: if we may not push there either.
        """
        try:
            return look_up()
        except Refused:
            self.registry.check_push_access(image.repository)
            return None

    def _is_same(self, source: StoredImage, image: ImageToPush) -> bool:
        labels = {**self.labels, FINGERPRINT_LABEL: image.fingerprint}
        # Clones of one repository may have different URLs for it.
        labels.pop(SOURCE_LABEL, None)
        if not source.attested >= image.attested:
            return False
        return all(source.labels.get(key) == value for key, value in labels.items())

    def reference(self, image: ImageToPush) -> str:
        """The reference of the version's image."""
        return f"{self.registry.host}/{image.repository}:{self.tag}"

    def _refuse_other(self, image: ImageToPush, digest: str) -> None:
        """Raise :class:`Conflict`, because a version never changes, unless it is dirty."""
        if not self.version.dirty:
            raise self._conflict(image, digest)
        self._report(Warned(image.name, f"{self.reference(image)} has other content and is overwritten"))

    def _refuse_other_platforms(self, images: Sequence[ImageToPush], published_images: Images) -> None:
        """Raise :class:`Conflict` if a version has every variant, and others too."""
        for variants in variants_by_repository(images):
            present = {image: each for image in variants if image.platform and (each := published_images[image])}
            if len(present) == len(variants):
                digest = self.tag_digests[variants[0].repository]
                if digest != variants_index(present).digest:
                    self._refuse_other(variants[0], digest)

    def _conflict(self, image: ImageToPush, digest: str) -> Conflict:
        return Conflict(
            f"{self.reference(image)} exists with other content, {digest}",
            "a version never changes: commit and cut a new version, or delete that tag in the registry",
        )


def variants_index(variants: Mapping[ImageToPush, StoredImage]) -> Manifest:
    """The index of the variants of one image."""
    images = {image.platform: each for image, each in variants.items() if image.platform}
    return Manifest.index(
        {platform: each.manifest for platform, each in images.items()},
        {platform: each.attestations for platform, each in images.items()},
    )
