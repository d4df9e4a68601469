"""An image of a version: what is to be pushed, by which route it gets into the registry, and what is there then."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from buildtools.frozen import frozen
from buildtools.image.reference import image_name, variant_name
from buildtools.platform import Platform


class PushRoute(Enum):
    """How an image got into the registry."""

    ALREADY_THERE = "already there"
    STAMPED = "stamped"
    DIRECT = "direct"
    ENGINE = "engine"
    BUILDER = "builder"


@frozen
class ImageToPush:
    """One image of a version.

    ``image_id`` may be empty if the registry has the fingerprint. ``parents`` are the places of the images whose layers
    this one may share. An image in the registry is not used if it was built before ``built_since``, in seconds since
    1970. ``platform`` is set for each variant of an image for several platforms: they share the repository and the
    version's tag, which points to their index. ``build_seconds`` is how long its build took, 0 if unknown. An image
    is incomplete without everything that is to be ``attested`` about it. One that is stored ``as_built`` keeps the
    digest that it has in containerd's store.
    """

    name: str
    repository: str
    fingerprint: str
    image_id: str = ""
    parents: tuple[str, ...] = ()
    built_since: float = 0.0
    platform: Platform | None = None
    build_seconds: float = 0.0
    attested: frozenset[str] = frozenset()
    as_built: bool = False

    @property
    def place(self) -> str:
        """Its repository, and its variant there."""
        return variant_name(self.repository, self.platform) if self.platform else self.repository

    @property
    def parent_repositories(self) -> tuple[str, ...]:
        """The repositories of its parents."""
        return tuple(map(image_name, self.parents))


@frozen
class PushedImage:
    """An image in the registry, as the registry confirmed it. ``size`` is that of its compressed layers in bytes.

    For an image for several platforms these are the digest of the index, a digest of all fingerprints, and the size of
    all variants. With attestations, too, the digest is that of the index.
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
    """The images grouped by repository, in order of each one's first variant."""
    variants: dict[str, list[ImageToPush]] = {}
    for image in images:
        variants.setdefault(image.repository, []).append(image)
    return list(variants.values())
