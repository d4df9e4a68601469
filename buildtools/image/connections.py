"""Kept-alive HTTP connections to one server, by what Python brings along.

A run asks for little and often, and is over in less time than it takes to import a library that can do more.
"""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from string import punctuation
from urllib.parse import quote


@dataclass(frozen=True)
class Answer:
    """What a server answered, read to its end."""

    status: int
    headers: Message
    data: bytes


class Connections:
    """Connections that ``make`` makes, as many as threads ask at once, each kept for the next question.

    ``seconds`` is how long a server that is connected may be silent.
    """

    def __init__(self, make: Callable[[], http.client.HTTPConnection], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._aborted = False

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def abort(self) -> None:
        """End the connections in use, and those that are being made: their threads get an :class:`OSError`."""
        self._aborted = True
        for sock in [connection.sock for connection in list(self._busy)]:
            if sock:
                with suppress(OSError):
                    # Not that of a socket with TLS, which is not for two threads.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None = None
    ) -> Answer:
        """Ask for ``target``, a path and perhaps a query. A body that is no ``bytes`` needs a ``Content-Length``.

        :raises OSError: no connection, or it broke.
        :raises http.client.HTTPException: the answer is no HTTP, or is cut off.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._make()
        self._busy.add(connection)
        try:
            if connection.sock and _has_ended(connection):
                connection.close()
            if not connection.sock:
                connection.connect()
                connection.sock.settimeout(self._seconds)
            if self._aborted:
                raise ConnectionAbortedError
            # A server that has seen enough of a body answers and hangs up: the answer tells more.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, quote(target, safe=punctuation), body=body, headers=dict(headers))
            answer = connection.getresponse()
            data = answer.read()
        except BaseException:
            connection.close()
            raise
        finally:
            self._busy.discard(connection)
        self._idle.append(connection)
        return Answer(answer.status, answer.headers, data)


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    # Nothing was asked, so all that there can be to read is the end.
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
