"""Which build of its parents an image was made from.

Two builds of one fingerprint need not give the same bytes: what a ``RUN`` fetches changes from day to day. So a parent
that is built anew, for ``rebuild_after`` or ``--no-cache``, is another parent, though its fingerprint stays the same.

The generation of an image is a digest of its layers, of their uncompressed bytes: it is the same in every engine and
every registry, and where a build gives the same bytes again, so is its generation. An image carries the generations of
its parents in a label. It counts as up to date only where these are the generations of the parents that its version
has, so that no version holds two builds of one parent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

PARENTS_LABEL = "lockstep.parents"


def generation_of(diff_ids: Iterable[str]) -> str:
    """The generation of an image whose uncompressed layers have these digests, the lowest first."""
    return hashlib.sha256(" ".join(diff_ids).encode()).hexdigest()


def parents_label(generations: Mapping[str, str]) -> str:
    """The value of the label for an image whose parents, by name, have these generations."""
    return " ".join(f"{name}={generations[name]}" for name in sorted(generations))


def other_parents(labels: Mapping[str, str], generations: Mapping[str, str]) -> list[str]:
    """The parents of which an image with these labels was made from another generation than the given one.

    An empty generation is that of an image that is yet to be built, and equals none.
    """
    parents = dict(part.partition("=")[::2] for part in labels.get(PARENTS_LABEL, "").split())
    return [name for name, each in generations.items() if not each or parents.get(name) != each]
