"""Where BuildKit's API is reached: an engine, which has it among other things, or a daemon that has nothing else."""

from __future__ import annotations

import socket
from typing import Protocol

from buildtools import BuildToolsError


class BuildkitHost(Protocol):
    """Somebody to connect to for builds; safe for threads.

    ``missing_routes`` are the paths of an engine's HTTP API that it was seen not to have. With neither ``/grpc`` nor
    ``/session`` BuildKit's own API is spoken on the socket that :meth:`dial` gives.
    """

    missing_routes: set[str]

    @property
    def address(self) -> str:
        """What the user calls it."""

    @property
    def title(self) -> str:
        """What a message calls it: what kind it is of, and its address."""

    @property
    def api_version(self) -> str:
        """The version of the engine's API, as ``1.41``."""

    def dial(self) -> socket.socket:
        """A new connection without a time limit.

        :raises Unreachable: nobody answers.
        """

    def without_buildkit(self) -> BuildToolsError:
        """The error for one whose API turns out not to be BuildKit's."""
