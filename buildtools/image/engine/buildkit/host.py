"""Where BuildKit's API is: in an engine, among other things, or in a separate daemon."""

from __future__ import annotations

from typing import Protocol

from buildtools import BuildToolsError
from buildtools.image.engine.buildkit.grpc import ByteChannel


class BuildkitHost(Protocol):
    """A server for builds; it may be shared between threads.

    ``missing_routes`` are the paths that an engine's HTTP API turned out to lack. If it has neither ``/grpc`` nor
    ``/session``, the socket from :meth:`dial` speaks BuildKit's own API.
    """

    missing_routes: set[str]

    @property
    def address(self) -> str:
        """The user's name for it."""

    @property
    def title(self) -> str:
        """Its name in messages: its kind and its address."""

    @property
    def api_version(self) -> str:
        """The version of the engine's API, such as ``1.41``."""

    def dial(self) -> ByteChannel:
        """A new connection without a timeout.

        :raises Unreachable: if nothing answers.
        """

    def without_buildkit(self) -> BuildToolsError:
        """The error if its API turns out not to be BuildKit's."""
