"""Image references: ``registry/repository:tag@digest``, parsed once and passed on as a value."""

from __future__ import annotations

import re

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.settings import COMPONENT, HOST

# https://github.com/distribution/reference/blob/main/reference.go has the grammar.
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 255

DOCKER_HUB = "docker.io"


def variant_name(image: str, platform: object) -> str:
    """The name of an image's variant for one of several platforms:

    ``app@linux/arm64``. No image name contains an ``@``.
    """
    return f"{image}@{platform}"


def image_name(name: str) -> str:
    """The image that a name refers to, which may be the name of a variant."""
    return name.partition("@")[0]


@frozen
class Reference:
    """An image in a registry. ``tag`` and ``digest`` are empty if the text had none.

    ``registry`` is ``HOST`` or ``HOST:PORT``. A text without one means Docker Hub, as usual, where a single word means
    ``library/WORD``.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference that ``text`` spells.

        :raises Refused: if it is not a reference, with the invalid part.
        """
        rest, has_digest, digest = text.partition("@")
        if has_digest and not _DIGEST.fullmatch(digest):
            raise _refusal(text, f"{digest!r} is not a digest")
        head, has_tag, tag = rest.rpartition(":")
        if not has_tag or "/" in tag:
            head, tag = rest, ""
        elif not _TAG.fullmatch(tag):
            raise _refusal(text, f"{tag!r} is not a tag")
        first, slash, path = head.partition("/")
        # The first word is a host only if it has what no repository's name has; capitals alone are a mistake.
        if slash and (first == "localhost" or re.search(r"[.:\[]", first)):
            registry, repository = first, path
        else:
            registry, repository = DOCKER_HUB, head
        if registry in (DOCKER_HUB, f"index.{DOCKER_HUB}"):
            registry = DOCKER_HUB
            repository = repository if "/" in repository else f"library/{repository}"
        if not HOST.fullmatch(registry):
            raise _refusal(text, f"{registry!r} is not a registry's host")
        for part in repository.split("/"):
            if not COMPONENT.fullmatch(part):
                raise _refusal(text, f"{part!r} is not a lower-case name")
        if _IMAGE_ID.fullmatch(head):
            raise _refusal(text, "64 hexadecimal digits are an image's id, not a name")
        if len(registry) + 1 + len(repository) > _LONGEST_NAME:
            raise _refusal(text, f"a name has at most {_LONGEST_NAME} characters")
        return cls(registry, repository, tag, digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """``registry/repository``, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What to ask a registry for: the digest, else the tag, else ``latest``."""
        return self.digest or self.tag or "latest"


def _refusal(text: str, fact: str) -> Refused:
    return Refused(f"{text!r} is not an image reference ({fact})", "write [REGISTRY/]NAME[:TAG][@sha256:DIGEST]")
