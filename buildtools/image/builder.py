"""What assembly needs from a builder, which builds images and keeps them under names.

The implementations of :class:`Builder` are ``engine.engine_builder``, which keeps images in an engine,
``builders.registry_builder``, which has them pushed into a registry and keeps them there, and ``builders.pool``, which
combines several of the second kind. The contract:

* **Names** are full references, ``REPOSITORY:TAG``. A name points to one image; giving it to another image takes it
  away from the first. An image without a name may be deleted at any time.
* **Retries.** Only those described here. An engine is local; if it does not answer, somebody has to restart it. A
  build is retried if concurrent builds got in each other's way.
* **Idempotent** are ``image``, ``tag``, ``untag`` and ``pull``. ``build`` makes an image each time; it may be the same
  one, if the builder has cached every step.
* **Ids** belong to the builder: an engine's identify images in its store, those in a registry are
  ``HOST/REPOSITORY@DIGEST``.
* **Errors.** ``BuildFailed`` is final: the same build fails again. ``Unreachable`` is worth another run. ``Cancelled``
  is raised soon after the event was set, and leaves nothing running.
* **Events** about a build (its start, steps, output, bytes sent, end) go to its ``report``, from any thread, and none
  comes after the call has returned.

A builder may be shared between threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Protocol

from buildtools.build_cache import BuildCache
from buildtools.events import Report
from buildtools.frozen import frozen
from buildtools.image.folder.context import Selection
from buildtools.settings import MediaTypes


@frozen
class BuildRequest:
    """What to build. ``name`` is the image's name in events and errors, ``tags`` are full references.

    ``secrets`` maps an id to the path of a file or to ``env:NAME``. ``cache_from`` are caches that the build may read,
    ``cache_to`` those that it writes. ``attestations`` are what BuildKit is to attest about the build, by kind, in the
    syntax of ``docker build --attest``. ``pull`` asks the registry even for base images that the engine has.

    ``content`` is built instead of the Dockerfile's content; errors still name that file. ``directories`` is a digest
    of the modes of the context's directories: the engine does not notice when these change in the copy it keeps, so it
    gets a new copy when the digest changes. ``selection`` is what the build may take from the context; without it the
    engine reads the ignore file, as a tree of its own, and then chooses. ``repository`` is where a builder that keeps
    images in a registry puts this one, as ``HOST/REPOSITORY``, without a tag. ``native`` is the builder's platform, as
    the fingerprint has it, and the image's own if ``platform`` is empty. ``parents`` are the Dockerfile's names for the
    images it is built on, as far as the builder named them.
    """

    name: str
    context: Path
    dockerfile: Path
    tags: tuple[str, ...]
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platform: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    ssh: bool = False
    cache_from: tuple[BuildCache, ...] = ()
    cache_to: tuple[BuildCache, ...] = ()
    attestations: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    content: bytes | None = None
    directories: str = ""
    media_types: MediaTypes = MediaTypes.DOCKER
    selection: Selection | None = None
    repository: str = ""
    native: str = ""
    parents: tuple[str, ...] = ()


class Builder(Protocol):
    """Builds images and keeps them; the module's docstring is the contract."""

    @property
    def keeps_content(self) -> bool:
        """Whether images are kept as the content that a registry has.

        A builder that keeps only unpacked layers cannot store attestations, and exports no cache except inline.
        """

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """The image with this name or id, in the form of the engine's API; None if there is none."""

    def build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        """Build an image, which then has all tags of the request, or is in its repository; returns its id.

        :raises BuildFailed: if it could not be built.
        :raises Cancelled: if ``cancelled`` was set.
        :raises Refused: if the request names something that does not exist.
        :raises Unreachable: if the connection to the builder was lost.
        """

    def pull(self, reference: str, layer_arrived: Callable[[str, int, int], object]) -> str:
        """Pull an image from its registry; returns its id. Its other names stay.

        ``layer_arrived`` is called with a layer's digest, the bytes so far, and the total.

        :raises BuildToolsError: if the registry does not have it, or denies access.
        """

    def tag(self, image_id: str, reference: str) -> None:
        """Give an image another name."""

    def keep(self, image_id: str, reference: str, *, anew: bool) -> str:
        """Give an image the name by which later runs find it; returns the id of the image that then has the name.

        If another run has named an equally good image meanwhile, that image keeps the name, unless the name must mean
        what was built ``anew``.
        """

    def mention(self, image_id: str, reference: str) -> str:
        """The Dockerfile's name for an image that was kept under ``reference``, or that a registry has under it.

        It is ``reference`` itself if a Dockerfile cannot use the builder's ids.
        """

    def untag(self, reference: str) -> None:
        """Remove a name; do nothing if there is no such name."""
