"""A builder without an image store: what it builds goes straight into a registry, and is kept there.

A BuildKit daemon forgets an image as soon as it is built. So the registry takes the role of an engine's store: it has
the images, and their names are its tags. For ``FROM`` another image of the project, an engine uses its store; such a
builder pulls the image from the registry by digest, which no other run can move.

An image is first pushed by digest only, and gets the tag of its fingerprint after it was verified. No image gets a tag
of a version before all images are there. The registry's garbage collection deletes what is never tagged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from buildtools import BuildToolsError, Refused
from buildtools.events import Report, timed
from buildtools.image.builder import BuildRequest
from buildtools.image.generation import PARENTS_LABEL
from buildtools.image.reference import Reference
from buildtools.image.registry.build_records import BuildRecords
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import ImageLookup, KnownParts, StoredImage, move_tag
from buildtools.image.registry.manifest import FINGERPRINT_LABEL, Damaged, diff_ids_of
from buildtools.schedule import awaited

# Builds an image and pushes it into the request's repository, without a tag; returns its digest.
PushBuild = Callable[[BuildRequest, Report, threading.Event], str]


class RegistryBuilder:
    """A :class:`~buildtools.image.builder.Builder` whose images are in a registry, where ``push_build`` puts them.

    ``has_content`` returns whether all available builders can store attestations and caches. ``place_of`` returns which
    of several builders an image went to; empty if there is only one. Builds for ``commit`` are recorded beside the
    images; see :mod:`~buildtools.image.registry.build_records`.
    """

    def __init__(
        self,
        registry: Registry,
        cache: Cache,
        push_build: PushBuild,
        has_content: Callable[[], bool] = lambda: True,
        place_of: Callable[[str], str] = lambda _: "",
        commit: str = "",
    ) -> None:
        self._registry = registry
        self._push_build = push_build
        self._has_content = has_content
        self._place_of = place_of
        self._records = BuildRecords(registry, commit)
        # By the id of an image that was built here: its name, and the seconds that it took.
        self._builds: dict[str, tuple[str, float]] = {}
        # Builds on one base share most of their layers.
        self._lookup = ImageLookup(registry, cache, KnownParts())
        # The content of a digest never changes.
        self._images: dict[str, StoredImage] = {}

    @property
    def keeps_content(self) -> bool:
        """See the protocol."""
        return self._has_content()

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """See the protocol. It has only the fields that assembly reads."""
        image = self.stored(reference)
        if image is None:
            return None
        return {
            "Id": f"{Reference.parse(reference).name}@{image.digest}",
            "RootFS": {"Layers": diff_ids_of(image.config)},
            "Config": {"Labels": dict(image.labels)},
        }

    def build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        """See the protocol."""

        def work() -> str:
            began = time.monotonic()
            image_id = f"{request.repository}@{self._push_build(request, report, cancelled)}"
            # A builder's report of its push is not trusted.
            image = awaited(lambda: self.stored(image_id))
            repository = Reference.parse(image_id).repository
            # A registry on a file system hides a layer for the moment in which another push brings it too.
            if image is None or not awaited(lambda: self._lookup.is_whole(repository, image) or None):
                raise BuildToolsError(
                    f"{request.name} was pushed as {image_id} and is not there", "run the same command again"
                )
            self._builds[image_id] = request.name, time.monotonic() - began
            return image_id

        def detail(image_id: str) -> str:
            place = self._place_of(request.name)
            return f"{Reference.parse(image_id).digest}{f', on {place}' if place else ''}"

        return timed(report, request.name, "build", work, detail)

    def pull(self, reference: str, layer_arrived: Callable[[str, int, int], object]) -> str:
        """See the protocol. There is nothing to pull: the image is already in place."""
        del layer_arrived
        image = self.image(reference)
        if image is None:
            raise BuildToolsError(f"{self._registry.host} does not have {reference}", "run the same command again")
        return str(image["Id"])

    def tag(self, image_id: str, reference: str) -> None:
        """See the protocol."""
        name = Reference.parse(reference)
        move_tag(self._registry, name.repository, name.target, Reference.parse(image_id).digest)

    def keep(self, image_id: str, reference: str, *, anew: bool) -> str:
        """See the protocol."""
        ours, theirs = self.stored(image_id), None if anew else self.stored(reference)
        name = Reference.parse(reference)
        is_there = theirs and self._lookup.is_whole(name.repository, theirs)
        if ours and theirs and is_there and _is_as_good(theirs, ours):
            return f"{name.name}@{theirs.digest}"
        if ours is None:
            raise BuildToolsError(f"{image_id} is gone from {self._registry.host}", "run the same command again")
        if image_id in self._builds:
            image_name, seconds = self._builds[image_id]
            fingerprint = ours.labels.get(FINGERPRINT_LABEL, "")
            # Before the image appears, so that whoever sees the image also sees for which commit it was built.
            self._records.add(name.repository, ours.manifest, {(image_name, fingerprint): seconds})
        self._registry.put_manifest(name.repository, name.target, ours.index or ours.manifest)
        return image_id

    def mention(self, image_id: str, reference: str) -> str:
        """See the protocol."""
        del reference
        return image_id

    def untag(self, reference: str) -> None:
        """See the protocol. Deleting a tag would delete the image with all of its tags, so this does nothing."""

    def stored(self, reference: str) -> StoredImage | None:
        """The image with a name or id; None if there is none. An id is read from the registry once."""
        if reference in self._images:
            return self._images[reference]
        name = Reference.parse(reference)
        try:
            image = self._lookup.read(name.repository, name.target)
        except Damaged:
            return None
        except Refused:
            # Some registries deny access to what does not exist; the write will show.
            return None
        if image and name.digest:
            self._images[reference] = image
        return image


def _is_as_good(theirs: StoredImage, ours: StoredImage) -> bool:
    """Whether an image was made from the same inputs and from the same builds of its parents."""
    return all(theirs.labels.get(label) == ours.labels.get(label) for label in (FINGERPRINT_LABEL, PARENTS_LABEL))
