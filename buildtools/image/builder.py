"""What assembly needs of whatever builds images and keeps them under names.

:class:`Builder` is the seam. The adapters are ``engine.engine_builder``, which keeps images in an engine,
``builders.registry_builder``, which has them pushed into a registry and keeps them there, and ``builders.pool``, which
is several of the second kind. The contract:

* **Names** are full references, ``REPOSITORY:TAG``. A name points to one image; to give it to another takes it away
  from the first. An image without a name may be gone at any time.
* **Retries.** None but those that are said: an engine is next to us, and one that does not answer has a reason that
  passes by itself only when somebody restarts it. A build is tried again where builds got in each other's way.
* **Idempotent** are ``image``, ``tag``, ``untag`` and ``pull``. ``build`` makes an image each time; it may be the same
  one, where the builder remembers every step.
* **Ids** are a builder's own: an engine's name images in its store, those in a registry are ``HOST/REPOSITORY@DIGEST``.
* **Final** is ``BuildFailed``: the same build fails again. ``Unreachable`` is worth another run. ``Cancelled`` is
  raised soon after the event was set, and leaves nothing running.
* Events about a build (its start, steps, output, bytes sent, end) go to the ``report`` that it was given, from any
  thread, and none comes after the call has returned.

A builder is safe to share between threads.
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

    ``secrets`` maps an id to the path of a file or to ``env:NAME``; ``cache_from`` are caches that the build may read,
    ``cache_to`` those that it writes. ``attestations`` are what BuildKit is to attest about the build, by kind, in the
    words of ``docker build --attest``. ``pull`` asks the registry for base images the engine has.
    ``content`` is built instead of what the Dockerfile holds; errors still name that file. ``directories`` is a digest
    of the modes of the context's directories: the engine, which does not look for a change of these in the copy it
    keeps, gets a new copy when it changes. ``selection`` is what the build may take of the context; without it the
    engine reads the ignore file, as a tree of its own, and then chooses. ``repository`` is where a builder that keeps
    images in a registry puts this one, as ``HOST/REPOSITORY``, without any tag. ``native`` is the platform of
    who builds it, as the fingerprint has it, and the image's own where ``platform`` is empty. ``parents`` are what the
    Dockerfile calls the images that it is built on, as far as the builder named them.
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
    """Builds images and keeps them; the module's text is the contract."""

    @property
    def keeps_content(self) -> bool:
        """Whether images are kept as the content that a registry has.

        Who keeps only unpacked layers has no place for attestations, and exports no cache but in the image itself.
        """

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """What is known of the image with this name or id, as the engine's API has it; None where there is none."""

    def build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        """Builds an image, which then has all of the request's tags, or lies in its repository; its id.

        :raises BuildFailed: it could not be built.
        :raises Cancelled: ``cancelled`` was set.
        :raises Refused: the request names something that is not there.
        :raises Unreachable: the builder went away.
        """

    def pull(self, reference: str, layer_arrived: Callable[[str, int, int], object]) -> str:
        """Fetches an image from its registry; its id. Its other names stay.

        ``layer_arrived`` is told of a layer how many bytes of how many have come.

        :raises BuildToolsError: the registry does not have it, or does not give it away.
        """

    def tag(self, image_id: str, reference: str) -> None:
        """Gives an image one more name."""

    def keep(self, image_id: str, reference: str, *, anew: bool) -> str:
        """Gives an image the name by which later runs know it; the id of the image that then has the name.

        Where others may have given it meanwhile, an image of theirs that is as good has it, unless the name is to mean
        what was built ``anew``.
        """

    def mention(self, image_id: str, reference: str) -> str:
        """What a Dockerfile calls an image that was kept under this name, or that a registry has under it.

        It is the name itself where the builder's ids mean nothing in a Dockerfile.
        """

    def untag(self, reference: str) -> None:
        """Takes a name away; nothing where there is no such name."""
