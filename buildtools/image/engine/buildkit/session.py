"""A session: the services that we offer the engine while one build runs.

A build needs things that only the client has: files, secrets, the SSH agent, credentials. For these BuildKit reverses
the roles. The client opens a *session*, a gRPC connection in which it is the **server**, and lists in the header which
methods it serves. The build names the session by its id and calls them when a step needs something:

======================================  ==========================================================
``moby.filesync.v1.FileSync``           lists and sends the files of the build context, the Dockerfile
``moby.filesync.v1.Auth``               credentials and tokens for the registries of base images
``moby.buildkit.secrets.v1.Secrets``    the values of ``RUN --mount=type=secret`` ``moby.sshforward.v1.SSH``
a tunnel to the SSH agent, for ``RUN --mount=type=ssh``
======================================  ==========================================================

There are two ways to open one. If the engine has the route, ``POST /session`` with ``Upgrade: h2c`` reverses that
connection. From API 1.53 on the route is deprecated; an engine that answers 404 gets the session as the bidirectional
call ``Control/Session`` on its socket, whose messages carry the bytes of the inner connection (``tunnel``). What runs
inside is the same.

The order. The session must exist before the build is requested, because the first step may call at once; a build that
names an unknown session waits for it for a few seconds and fails. It must outlive the last step, and ends with the
build. Each session serves one build only: the engine caches what it has read in a session, by the session's shared key,
and would not notice that a file has changed since.

Failures. A failure on our side during a call (an unreadable file, a missing secret) is returned as a gRPC status, from
which BuildKit makes a build error in its own words. The first such failure is kept in :attr:`Session.failure`, because
our own message explains it better.

Source: https://github.com/moby/buildkit, ``session/`` and ``api/services/control/control.proto``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from buildtools.image.engine.buildkit.control import connect_control
from buildtools.image.engine.buildkit.grpc import ByteChannel, Connection, Handler
from buildtools.image.engine.buildkit.host import BuildkitHost
from buildtools.image.engine.buildkit.tunnel import Tunnel
from buildtools.image.engine.buildkit.upgrade import RouteMissing, upgrade


class Session:
    """An open session. A build refers to it by ``id``.

    It must not outlive one build: the engine reads each tree once in a session and would not notice later changes.
    """

    def __init__(self, session_id: str, connection: Connection) -> None:
        self.id = session_id
        self._connection = connection

    @property
    def failure(self) -> Exception | None:
        """The first failure on our side; None if there was none."""
        return self._connection.failure


@contextmanager
def open_session(host: BuildkitHost, handlers: Mapping[str, Handler], *, shared_key: str) -> Iterator[Session]:
    """A session that serves ``handlers`` until the block ends. Trees sent under the same ``shared_key`` are compared.

    :raises EngineError: if the engine declines.
    :raises Unreachable: if it does not answer.
    """
    session_id = secrets.token_hex(16)
    headers = [
        ("X-Docker-Expose-Session-Uuid", session_id),
        ("X-Docker-Expose-Session-Name", "buildtools"),
        ("X-Docker-Expose-Session-Sharedkey", shared_key),
        *(("X-Docker-Expose-Session-Grpc-Method", path) for path in handlers),
    ]
    connection = Connection(*_connect(host, headers), handlers)
    try:
        yield Session(session_id, connection)
    finally:
        connection.close()


def _connect(host: BuildkitHost, headers: Sequence[tuple[str, str]]) -> tuple[ByteChannel, bytes]:
    """The session's channel, and the bytes that have already arrived on it."""
    with suppress(RouteMissing):
        return upgrade(host, "/session", headers)
    return Tunnel(connect_control(host), headers), b""
