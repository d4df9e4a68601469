"""What the stages need from the place where images are built and kept until they have a version.

:class:`ImageStore` is implemented by an engine (``engine_store``) and, for builders that keep no images, by the
registry (``registry_store``). The contract:

* An image in a store has the fingerprint that it was built for. What a store reports may be outdated a moment later,
  because other runs build as well. So a push looks at the registry again, and only its answer counts.
* A caller that cannot do without the store calls ``require`` first. The other methods do what they can if the store
  does not answer.
* Nothing here sets a version's tag in the registry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from buildtools import BuildToolsError
from buildtools.image.assembly import LocalImage
from buildtools.image.bases import BaseImage
from buildtools.image.engine.client import Engine
from buildtools.image.push.routes import PushRequest
from buildtools.image.survey import ImageStatus


class ImageStore(Protocol):
    """Builds the images of a task and knows which ones exist; the module's docstring is the contract."""

    @property
    def engine(self) -> Engine | None:
        """The engine whose own images serve as base images of builds; None if there is none."""

    def require(self, *, registry_names: bool = False) -> None:
        """Check that images can be kept here; with ``registry_names``, also under their names in the registry.

        :raises Refused: if they cannot.
        :raises Unreachable: if the store does not answer.
        """

    def own_names(self) -> Collection[str]:
        """The names that the images of the task get here; a base image may have the same name."""

    def refresh(self, references: Sequence[str]) -> None:
        """Fetch these base images again. If one cannot be fetched, the old one stays, with a warning."""

    def fetch(self, bases: Sequence[BaseImage]) -> Mapping[str, BuildToolsError]:
        """Fetch base images that have no digest yet; returns the errors by reference."""

    def with_places(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """The statuses with the state of each image in this store; unchanged if it does not answer."""

    def with_notes(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """The statuses with notes about each image's place, for a list of images."""

    def with_stored(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """The statuses with images marked that are to be taken from the registry rather than built."""

    def build(self, statuses: tuple[ImageStatus, ...], *, registry_names: bool) -> tuple[LocalImage, ...]:
        """Build or pull every image that is not up to date; returns all images, in order."""

    def to_push(self, request: PushRequest, statuses: Sequence[ImageStatus]) -> PushRequest:
        """The request to push images, extended with how to make those that the registry lacks."""
