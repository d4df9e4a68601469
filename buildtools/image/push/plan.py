"""What to do for each image that a registry lacks, and which images are best handled together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import takewhile

from buildtools.frozen import frozen
from buildtools.image.registry.image_to_push import ImageToPush
from buildtools.image.registry.lookup import StoredImage
from buildtools.image.registry.manifest import Descriptor

# How many bytes of one layer may be sent, or exported by an engine, unnecessarily: avoiding that would cost more.
LITTLE = 16 * 1024 * 1024
# An engine exports whole images, including every layer below; its own push sends single layers, but slowly, and only if
# it knows the digests of the layers below in the registry. That is worth a try above this many bytes of compressed base
# layers, in total and per image.
_LARGE_BASE = 32 * 1024 * 1024
_LARGE_FOR_EACH = 8 * 1024 * 1024
# Above this many bytes a step takes seconds, so it is reported.
LONG = 128 * 1024 * 1024
# An engine packs each archive in one thread; more archives than it has processors are no faster.
_MOST_GROUPS = 4


@frozen
class LayerPlan:
    """An image, the digests of its layers' uncompressed bytes, and those layers that its repository has.

    ``size`` is the uncompressed size of all layers in bytes. ``content`` is the image in a content store that can be
    read.
    """

    image: ImageToPush
    size: int
    diff_ids: tuple[str, ...]
    repository_layers: Mapping[str, Descriptor] = field(hash=False)
    content: StoredImage | None = field(default=None, hash=False)

    @property
    def missing(self) -> list[str]:
        """The layers to send."""
        return [diff_id for diff_id in dict.fromkeys(self.diff_ids) if diff_id not in self.repository_layers]

    @property
    def base(self) -> tuple[str, ...]:
        """The lowest layers that the repository has, up to the last large one."""
        base = list(takewhile(self.repository_layers.__contains__, self.diff_ids))
        while base and self.repository_layers[base[-1]].size <= LITTLE:
            base.pop()
        return tuple(base)


def by_large_base(plans: Sequence[LayerPlan]) -> dict[tuple[str, ...], list[LayerPlan]]:
    """The images, by base, whose base takes longer to export than the engine takes to push them."""
    above: dict[tuple[str, ...], list[LayerPlan]] = {}
    for plan in plans:
        above.setdefault(plan.base, []).append(plan)

    def is_large(base: Sequence[str], images: Sequence[LayerPlan]) -> bool:
        size = sum(images[0].repository_layers[diff_id].size for diff_id in base)
        return size >= max(_LARGE_BASE, _LARGE_FOR_EACH * len(images))

    return {base: images for base, images in above.items() if is_large(base, images)}


def group_disjoint(plans: Sequence[LayerPlan]) -> list[list[LayerPlan]]:
    """The images in groups that share no layer that is to be sent.

    An engine exports an archive in one thread, and several archives in parallel. Layers that the registry already has
    are exported with every group; unless those are small, there is only one group.
    """
    sizes = {layer.digest: layer.size for plan in plans for layer in plan.repository_layers.values()}
    if sum(sizes.values()) > LITTLE:
        return [list(plans)]
    families: list[tuple[set[str], list[LayerPlan]]] = []
    for plan in plans:
        layers, members = set(plan.missing), [plan]
        relatives = [family for family in families if not layers.isdisjoint(family[0])]
        families = [family for family in families if family not in relatives]
        for others in relatives:
            layers |= others[0]
            members = others[1] + members
        families.append((layers, members))
    groups: list[list[LayerPlan]] = [[] for _ in range(min(_MOST_GROUPS, len(families)))]
    for _, members in sorted(families, key=lambda family: len(family[0]), reverse=True):
        min(groups, key=len).extend(members)
    return groups
