"""What the stages need of the place where the images of a task are built and kept until they have a version.

:class:`ImageStore` is the seam: an engine (``engine_store``), or, for builders that keep no images, the registry itself
(``registry_store``). The contract:

* An image of a store has the fingerprint that it was built for. What a store says of it may be outdated in the next
  moment, for other runs build as well; so a push looks at the registry again, and only its answer counts.
* ``require`` comes first in what cannot do without the store. The others give what they can where it does not answer.
* Nothing here gives an image the tag of a version in the registry.
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
    """Builds the images of a task, and knows which it has; the module's text is the contract."""

    @property
    def engine(self) -> Engine | None:
        """The engine whose own images builds take for their bases; None where there is none."""

    def require(self, *, registry_names: bool = False) -> None:
        """Nothing, where images can be kept here; with ``registry_names`` also under their names in the registry.

        :raises Refused: they cannot.
        :raises Unreachable: the store does not answer.
        """

    def own_names(self) -> Collection[str]:
        """The names that the images of the task get here, and that base images may have as well."""

    def refresh(self, references: Sequence[str]) -> None:
        """Fetches these base images anew; one that cannot be had stays as it is, with a warning."""

    def fetch(self, bases: Sequence[BaseImage]) -> Mapping[str, BuildToolsError]:
        """Fetches base images that nobody knows; what keeps one from being had, by its reference."""

    def with_places(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """Where each image stands here; as they were where nobody answers."""

    def with_notes(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """The same statuses, with what else a list of images should say of their place."""

    def with_stored(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """The same statuses, with what is to be taken from the registry rather than built."""

    def build(self, statuses: tuple[ImageStatus, ...], *, registry_names: bool) -> tuple[LocalImage, ...]:
        """Builds or takes whatever is not up to date; every image, in their order."""

    def to_push(self, request: PushRequest, statuses: Sequence[ImageStatus]) -> PushRequest:
        """A request to push images, with how those come about that the registry lacks."""
