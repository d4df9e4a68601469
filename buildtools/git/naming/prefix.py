"""Tags that look like versions but do not count, because of ``tag_prefix`` or because they are lightweight."""

from __future__ import annotations

import re

from buildtools.frozen import frozen
from buildtools.git.naming.names import peeled
from buildtools.git.repository import Repository

_TAGS = b"refs/tags/"
# A single number is a version only after a v: `vendor-drop-7` and `build-17` are not versions.
_VERSION_NAME = re.compile(r"(?P<prefix>(?:.*?[^0-9.])??)(?:\d+(?:\.\d+){1,2}|(?<=[vV])\d+)(?:[-+].*)?", re.DOTALL)


@frozen
class IgnoredTag:
    """A tag that looks like a version. ``prefix`` is the part of its name before the version."""

    name: str
    prefix: str
    is_annotated: bool


def has_prefix(name: str, prefix: str) -> bool:
    """Whether a tag counts with this ``tag_prefix``: a digit must follow, so ``v`` does not match ``vendor-drop-7``."""
    return not prefix or (name.startswith(prefix) and "0" <= name[len(prefix) : len(prefix) + 1] <= "9")


def ignored_tag(repository: Repository, prefix: str) -> IgnoredTag | None:
    """The tag that best explains why no tag counts with this ``tag_prefix``: an annotated one, the greatest version."""
    tags = []
    for ref in repository.refs.under(_TAGS):
        name = ref.name.removeprefix(_TAGS).decode("utf-8", "surrogateescape")
        match = _VERSION_NAME.fullmatch(name)
        if match and ref.oid:
            target = ref.peeled or peeled(repository.objects, ref.oid)
            tag = IgnoredTag(name, match["prefix"], is_annotated=target != ref.oid)
            if not tag.is_annotated or tag.prefix != prefix:
                tags.append(tag)
    return max(tags, key=lambda tag: (tag.is_annotated, _numbers(tag.name.removeprefix(tag.prefix))), default=None)


def _numbers(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", version)]


def prefix_remedy(tag: IgnoredTag) -> str:
    """How to make an annotated tag with another prefix count."""
    return f'set tag_prefix = "{tag.prefix}" under [tool.buildtools]'
