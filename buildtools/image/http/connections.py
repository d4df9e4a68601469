"""Keep-alive HTTP connections to one server, with the standard library only.

A run makes few, small requests, and is over in less time than it takes to import a library with more features.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from string import punctuation
from urllib.parse import quote

from buildtools.image.http.responses import Destination, Response, read_response
from buildtools.request_log import Stopwatch


class Connections:
    """Connections that ``dial`` makes, one for each concurrent request, each kept for the next one.

    ``host`` is the server's name in requests; ``seconds`` is how long a connected server may be silent. ``service`` and
    ``origin``, a URL without a path, are its names in a log.
    """

    def __init__(
        self, dial: Callable[[], socket.socket], host: str, seconds: float, *, service: str = "http", origin: str = ""
    ) -> None:
        self._service = service
        self._origin = origin
        self._dial = dial
        self._host = host
        self._seconds = seconds
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._aborted = False

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def abort(self) -> None:
        """End the connections in use and those being made: their threads get an :class:`OSError`."""
        self._aborted = True
        for connection in list(self._busy):
            with suppress(OSError):
                # Not the method of a TLS socket, which two threads must not use at once.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] = b"",
        *,
        attempt: int = 1,
        seconds: float = 0.0,
        keep: bool = True,
        destination: Destination | None = None,
    ) -> Response:
        """Send a request for ``target``, a path with an optional query; ``attempt`` is for the log.

        ``seconds``, if given, is how long the server may be silent during this request. Unless ``keep``, the body of
        the response is only measured; a body with a ``destination`` goes there. A request body that is not ``bytes``
        needs a ``Content-Length``.

        :raises OSError: if there is no connection, or it broke.
        :raises http.client.HTTPException: if the response is not HTTP, is truncated or too large.
        :raises ValueError: if a header field contains a line ending.
        """
        head = self._head(method, target, headers, body)
        stopwatch = Stopwatch(attempt)
        size = len(body) if isinstance(body, bytes) else int(headers.get("Content-Length", "0"))
        try:
            read = partial(read_response, method=method, keep=keep, destination=destination)
            response = self._exchange(head, body, seconds or self._seconds, read)
        except (OSError, HTTPException) as error:
            stopwatch.log(self._service, method, f"{self._origin}{target}", f"failed ({error})", sent=size)
            raise
        url = f"{self._origin}{target}"
        stopwatch.log(self._service, method, url, response.status, sent=size, received=response.size)
        return response

    def _exchange(
        self, head: bytes, body: bytes | Iterable[bytes], seconds: float, read: Callable[[socket.socket], Response]
    ) -> Response:
        connection = self._connected()
        connection.sock.settimeout(seconds)
        self._busy.add(connection)
        try:
            if self._aborted:
                raise ConnectionAbortedError
            # A server may answer before the end of the body and close the connection; its response says more.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.send(head, body)
            response = read(connection.sock)
        except BaseException:
            connection.close()
            raise
        finally:
            self._busy.discard(connection)
        if response.is_last:
            connection.close()
        else:
            self._idle.append(connection)
        return response

    def _connected(self) -> _Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.has_ended():
                return connection
            connection.close()
        return _Connection(self._dial())

    def _head(self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterable[bytes]) -> bytes:
        fields = {"Host": self._host, "Accept-Encoding": "identity", **headers}
        if isinstance(body, bytes) and (body or method not in ("GET", "HEAD", "DELETE")):
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {quote(target, safe=punctuation)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header field with a line end in it")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def close(self) -> None:
        self.sock.close()

    def has_ended(self) -> bool:
        # No request is pending, so anything readable must be the end.
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def send(self, head: bytes, body: bytes | Iterable[bytes]) -> None:
        if isinstance(body, bytes):
            self.sock.sendall(head + body)
            return
        self.sock.sendall(head)
        for block in body:
            self.sock.sendall(block)
