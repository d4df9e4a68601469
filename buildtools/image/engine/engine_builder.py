"""A builder that builds with a Docker engine and keeps images in its store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from buildtools.events import Report
from buildtools.image.builder import BuildRequest
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine import documents
from buildtools.image.engine.sessions import Sessions
from buildtools.image.reference import Reference

if TYPE_CHECKING:
    from buildtools.image.engine.client import Engine


class EngineBuilder:
    """A :class:`~buildtools.image.builder.Builder`. ``environment`` has the variables for secrets and the SSH agent."""

    def __init__(self, engine: Engine, credentials: Credentials, environment: Mapping[str, str]) -> None:
        self._engine = engine
        self._credentials = credentials
        self._environment = environment
        self._sessions = Sessions()
        # The names that images got with their builds, by id.
        self._names: dict[str, tuple[str, ...]] = {}

    @property
    def keeps_content(self) -> bool:
        """See the protocol."""
        return self._engine.containerd_store

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """See the protocol."""
        image = self._engine.inspect(reference)
        if image and not image.get("Architecture") and self.keeps_content:
            from buildtools.image.engine.buildkit.content import ContentStore, NoContent

            # Engine 28 says nothing of what it has pulled without the layers whose files it had.
            with closing(ContentStore(self._engine)) as content, suppress(NoContent, ValueError):
                image |= documents.configuration(content.document, str(image["Id"]))
        return image

    def build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        """See the protocol."""
        # Imported late: this is most of the code, and most runs build nothing.
        from buildtools.image.engine.build import build

        image = build(
            self._engine,
            request,
            credentials=self._credentials,
            environment=self._environment,
            report=report,
            cancel=cancelled,
            sessions=self._sessions,
        )
        self._names[image.image_id] = image.tags
        return image.image_id

    def pull(self, reference: str, layer_arrived: Callable[[str, int, int], object]) -> str:
        """See the protocol."""
        image_id = self._engine.pull(reference, self._credentials.for_image(reference), layer_arrived)
        name = Reference.parse(reference)
        if name.tag and name.digest and self.keeps_content:
            # The name under which a build can fetch the missing blobs, see :meth:`mention`.
            self._engine.tag(image_id, f"{name.name}:{name.tag}")
        return image_id

    def tag(self, image_id: str, reference: str) -> None:
        """See the protocol."""
        self._engine.tag(image_id, reference)

    def keep(self, image_id: str, reference: str, *, anew: bool) -> str:
        """See the protocol."""
        del anew
        if reference not in self._names.get(image_id, ()):
            self._engine.tag(image_id, reference)
        return image_id

    def mention(self, image_id: str, reference: str) -> str:
        """See the protocol. A Dockerfile cannot refer to an image by id.

        containerd's store does not fetch a layer if it has the same files from another blob. A build that needs the
        blob itself fetches it later, from where the image's name says. So a pulled image goes by its registry's name.
        """
        image = self._engine.inspect(image_id) if self.keeps_content else None
        names = (image or {}).get("RepoTags") or ()
        return next((name for name in names if name.endswith(f"/{reference}")), reference)

    def untag(self, reference: str) -> None:
        """See the protocol."""
        self._engine.untag(reference)
