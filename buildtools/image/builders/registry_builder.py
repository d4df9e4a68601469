"""The adapter for builders without an image store: what they build goes straight into a registry, and is kept there.

A BuildKit daemon forgets an image as soon as it is built. So the registry does what an engine's store does otherwise:
it has the images, and their names are its tags. Where an engine takes ``FROM`` another image of the project out of its
store, such a builder takes it out of the registry, by its digest, which no other run can move.

An image is pushed by its digest alone and gets the tag of its fingerprint once it was found to be what it should be. It
has no tag of a version before all images are there; what is never tagged is collected by the registry some day.
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
from buildtools.image.registry.lookup import Seen, StoredImage, is_whole, move_tag, read_image
from buildtools.image.registry.manifest import FINGERPRINT_LABEL, Damaged, diff_ids_of
from buildtools.schedule import awaited

# Builds an image and pushes it into the repository that the request names, without a tag; its digest.
PushBuild = Callable[[BuildRequest, Report, threading.Event], str]


class RegistryBuilder:
    """A :class:`~buildtools.image.builder.Builder` whose images lie in a registry, where ``push_build`` puts them.

    ``has_content`` is whether all that it may choose for that have a place for attestations and caches, and
    ``place_of`` which of several it chose for an image; empty where there is no choice. What is built for ``commit`` is
    written down beside the images; see :mod:`~buildtools.image.registry.build_records`.
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
        self._cache = cache
        self._push_build = push_build
        self._has_content = has_content
        self._place_of = place_of
        self._records = BuildRecords(registry, commit)
        # Of what was built here, by its id: the image's name, and the seconds that it took.
        self._builds: dict[str, tuple[str, float]] = {}
        # Builds on one base share most of what they are made of.
        self._parts = Seen()
        # What a digest means never changes.
        self._images: dict[str, StoredImage] = {}

    @property
    def keeps_content(self) -> bool:
        """See the protocol."""
        return self._has_content()

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """See the protocol. It has what assembly asks for of what an engine would tell."""
        image = self._stored(reference)
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
            # What a builder says of its push is not believed.
            image = awaited(lambda: self._stored(image_id))
            repository = Reference.parse(image_id).repository
            if image is None or not is_whole(self._registry, repository, image, self._parts):
                raise BuildToolsError(f"{request.name} was pushed as {image_id} and is not there", "run again")
            self._builds[image_id] = request.name, time.monotonic() - began
            return image_id

        def detail(image_id: str) -> str:
            place = self._place_of(request.name)
            return f"{Reference.parse(image_id).digest}{f', on {place}' if place else ''}"

        return timed(report, request.name, "build", work, detail)

    def pull(self, reference: str, layer_arrived: Callable[[str, int, int], object]) -> str:
        """See the protocol. There is nothing to fetch: the image is where it is to be."""
        del layer_arrived
        image = self.image(reference)
        if image is None:
            raise BuildToolsError(f"{self._registry.host} does not have {reference}", "run again")
        return str(image["Id"])

    def tag(self, image_id: str, reference: str) -> None:
        """See the protocol."""
        name = Reference.parse(reference)
        move_tag(self._registry, name.repository, name.target, Reference.parse(image_id).digest)

    def keep(self, image_id: str, reference: str, *, anew: bool) -> str:
        """See the protocol."""
        ours, theirs = self._stored(image_id), None if anew else self._stored(reference)
        name = Reference.parse(reference)
        is_there = theirs and is_whole(self._registry, name.repository, theirs, self._parts)
        if ours and theirs and is_there and _is_as_good(theirs, ours):
            return f"{name.name}@{theirs.digest}"
        if ours is None:
            raise BuildToolsError(f"{image_id} is gone from {self._registry.host}", "run again")
        if image_id in self._builds:
            image_name, seconds = self._builds[image_id]
            fingerprint = ours.labels.get(FINGERPRINT_LABEL, "")
            # Before the image is there: who sees it is to see for which commit it was built.
            self._records.add(name.repository, ours.manifest, image_name, fingerprint, seconds)
        self._registry.put_manifest(name.repository, name.target, ours.index or ours.manifest)
        return image_id

    def mention(self, image_id: str, reference: str) -> str:
        """See the protocol."""
        del reference
        return image_id

    def untag(self, reference: str) -> None:
        """See the protocol. Registries that delete, delete an image with all of its tags; so nothing is deleted."""

    def _stored(self, reference: str) -> StoredImage | None:
        if reference in self._images:
            return self._images[reference]
        name = Reference.parse(reference)
        try:
            image = read_image(self._registry, name.repository, name.target, self._cache)
        except Damaged:
            return None
        except Refused:
            # Some registries deny access to what is absent; the write will tell.
            return None
        if image and name.digest:
            self._images[reference] = image
        return image


def _is_as_good(theirs: StoredImage, ours: StoredImage) -> bool:
    """Whether an image was made from the same inputs, and on the same builds of its parents."""
    return all(theirs.labels.get(label) == ours.labels.get(label) for label in (FINGERPRINT_LABEL, PARENTS_LABEL))
