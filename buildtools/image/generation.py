"""Which build of its parents an image was made from.

Two builds with one fingerprint may have different bytes, because what a ``RUN`` downloads changes from day to day. So a
parent that is rebuilt, because of ``rebuild_after`` or ``--no-cache``, is another parent, although its fingerprint is
the same.

The generation of an image is a digest of its layers' uncompressed bytes: it is the same in every engine and every
registry, and if a build gives the same bytes again, the generation is the same too. An image has the generations of its
parents in a label. It is up to date only if these match the parents in its version, so that no version contains two
builds of one parent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

PARENTS_LABEL = "lockstep.parents"


def generation_of(diff_ids: Iterable[str]) -> str:
    """The generation of an image whose uncompressed layers have these digests, lowest layer first."""
    return hashlib.sha256(" ".join(diff_ids).encode()).hexdigest()


def parents_label(generations: Mapping[str, str]) -> str:
    """The label's value for an image whose parents, by name, have these generations."""
    return " ".join(f"{name}={generations[name]}" for name in sorted(generations))


def other_parents(labels: Mapping[str, str], generations: Mapping[str, str]) -> list[str]:
    """The parents whose generation in an image's labels differs from the given one.

    An empty generation means an image that is yet to be built, and never matches.
    """
    parents = dict(part.partition("=")[::2] for part in labels.get(PARENTS_LABEL, "").split())
    return [name for name, each in generations.items() if not each or parents.get(name) != each]
