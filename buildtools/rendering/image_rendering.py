"""Images: listed, built and pushed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from buildtools import printable
from buildtools.console import table
from buildtools.image.assembly import BuildOutcome, LocalImage
from buildtools.image.registry.image_to_push import PushedImage, PushRoute
from buildtools.image.survey import BuildState, ImageStatus
from buildtools.rendering.json_rendering import DOCUMENT_SCHEMA
from buildtools.rendering.words import images_text, short_digest, states_sentence, states_text
from buildtools.workboard import size

if TYPE_CHECKING:
    from buildtools.pipeline import Listing


def listing_document(listing: Listing) -> Any:
    """The image folders as ``list --json`` prints them."""
    rows = [
        {
            "name": each.name,
            "platform": str(each.folder.platform),
            "parents": list(each.folder.parents),
            "bases": list(each.folder.bases),
            "reference": reference,
            "state": each.state.value,
            "fingerprint": each.fingerprint.value,
            "image_id": each.image_id,
            "why": list(each.why),
        }
        for each, reference in zip(listing.statuses, listing.references, strict=True)
    ]
    return {"schema": DOCUMENT_SCHEMA, "items": rows}


def listing_table(listing: Listing) -> str:
    """The image folders in build order."""
    rows = [
        (each.name, ", ".join(each.folder.parents) or "-", each.state.value, reference, "; ".join(each.why))
        for each, reference in zip(listing.statuses, listing.references, strict=True)
    ]
    return table(("IMAGE", "PARENTS", "STATE", "REFERENCE", "WHY"), rows)


def listing_summary(listing: Listing) -> str:
    """How many image folders are in which state."""
    states = states_text([each.state for each in listing.statuses], BuildState)
    return f"listed {images_text([each.name for each in listing.statuses])}: {states}"


def explanation(status: ImageStatus) -> str:
    """Everything that went into one image's fingerprint, and why it is or is not up to date."""
    head = f"{status.name} is {status.state.value}" + (f": {'; '.join(status.why)}" if status.why else "")
    if status.image_id:
        head += f": {status.image_id} has this fingerprint"
        if status.tags:
            head += f", as {', '.join(status.tags)}; labels of a version are stamped when it is pushed"
    inputs = [(printable(name), printable(value)) for name, value in sorted(status.fingerprint.inputs.items())]
    return f"{head}\n\nfingerprint {status.fingerprint.value}\n{table(('INPUT', 'VALUE'), inputs)}"


def local_table(images: Sequence[LocalImage]) -> str:
    """The images that are now in the engine or the registry."""
    rows = [
        (image.references[-1], short_digest(image.image_id), image.outcome.value, "; ".join(image.why))
        for image in images
    ]
    return table(("REFERENCE", "ID", "STATE", "WHY"), rows)


def local_summary(images: Sequence[LocalImage], word: str) -> str:
    """The result of ``build`` or ``tag``."""
    outcomes = states_text([image.outcome for image in images], BuildOutcome)
    return f"{word} {images_text([image.name for image in images])}: {outcomes}"


def pushed_table(images: Sequence[PushedImage]) -> str:
    """The images that are now in the registry, as read back."""
    rows = [(image.reference, image.digest, size(image.size), image.route.value) for image in images]
    return table(("REFERENCE", "DIGEST", "SIZE", "ROUTE"), rows)


def pushed_summary(images: Sequence[PushedImage]) -> str:
    """The result of ``push``; only a share can be empty."""
    if not images:
        return "this share is empty: nothing to push"
    return states_sentence("pushed", [image.route for image in images], PushRoute)
