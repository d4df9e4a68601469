"""A builder that builds with a Docker engine and keeps images in its store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from buildtools.events import Report
from buildtools.image.builder import BuildRequest
from buildtools.image.docker.credentials import Credentials

if TYPE_CHECKING:
    from buildtools.image.engine.client import Engine


class EngineBuilder:
    """A :class:`~buildtools.image.builder.Builder`. ``environment`` has the variables for secrets and the SSH agent."""

    def __init__(self, engine: Engine, credentials: Credentials, environment: Mapping[str, str]) -> None:
        self._engine = engine
        self._credentials = credentials
        self._environment = environment

    @property
    def keeps_content(self) -> bool:
        """See the protocol."""
        return self._engine.containerd_store

    def image(self, reference: str) -> Mapping[str, Any] | None:
        """See the protocol."""
        return self._engine.inspect(reference)

    def build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        """See the protocol."""
        # Imported late: this is most of the code, and most runs build nothing.
        from buildtools.image.engine.build import build

        return build(
            self._engine,
            request,
            credentials=self._credentials,
            environment=self._environment,
            report=report,
            cancel=cancelled,
        ).image_id

    def pull(self, reference: str, layer_arrived: Callable[[str, int, int], object]) -> str:
        """See the protocol."""
        return self._engine.pull(reference, self._credentials.for_image(reference), layer_arrived)

    def tag(self, image_id: str, reference: str) -> None:
        """See the protocol."""
        self._engine.tag(image_id, reference)

    def keep(self, image_id: str, reference: str, *, anew: bool) -> str:
        """See the protocol."""
        del anew
        self._engine.tag(image_id, reference)
        return image_id

    def mention(self, image_id: str, reference: str) -> str:
        """See the protocol. A Dockerfile cannot refer to an image by id."""
        del image_id
        return reference

    def untag(self, reference: str) -> None:
        """See the protocol."""
        self._engine.untag(reference)
