"""A session: what the engine may ask of us while one build runs, ``POST /session``."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from buildtools.image.engine.buildkit.control import connect_control
from buildtools.image.engine.buildkit.grpc import ByteChannel, Connection, Handler
from buildtools.image.engine.buildkit.tunnel import Tunnel
from buildtools.image.engine.buildkit.upgrade import RouteMissing, upgrade
from buildtools.image.engine.client import Engine


class Session:
    """An open session. ``id`` is how a build refers to it; ``failure`` is the first thing that went wrong on our side.

    It must not outlive one build: the engine reads each tree once in a session and would not see later changes.
    """

    def __init__(self, session_id: str, connection: Connection) -> None:
        self.id = session_id
        self._connection = connection

    @property
    def failure(self) -> Exception | None:
        """The first thing that went wrong on our side; None where nothing did."""
        return self._connection.failure


@contextmanager
def open_session(engine: Engine, handlers: Mapping[str, Handler], *, shared_key: str) -> Iterator[Session]:
    """A session that serves ``handlers`` until the context ends. Trees sent under the same ``shared_key`` are compared.

    :raises EngineError: the engine declines.
    :raises Unreachable: it does not answer.
    """
    session_id = secrets.token_hex(16)
    headers = [
        ("X-Docker-Expose-Session-Uuid", session_id),
        ("X-Docker-Expose-Session-Name", "buildtools"),
        ("X-Docker-Expose-Session-Sharedkey", shared_key),
        *(("X-Docker-Expose-Session-Grpc-Method", path) for path in handlers),
    ]
    connection = Connection(*_connect(engine, headers), handlers)
    try:
        yield Session(session_id, connection)
    finally:
        connection.close()


def _connect(engine: Engine, headers: Sequence[tuple[str, str]]) -> tuple[ByteChannel, bytes]:
    """What the session's connection is made on, and what already came there."""
    try:
        return upgrade(engine, "/session", headers)
    except RouteMissing:
        return Tunnel(connect_control(engine), headers), b""
