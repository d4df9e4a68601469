"""A server that sends bytes, whatever they are, in answer to requests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from hypothesis import strategies as st


class RawServer:
    """Sends one response after the other, each on a connection of its own, and then the last again."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._script: list[bytes] = []
        self.host = f"127.0.0.1:{server.getsockname()[1]}"

    def play(self, script: Sequence[bytes]) -> None:
        """Begin with these responses."""
        self._script = list(script)

    def serve(self) -> None:
        """Answer until the socket is shut down."""
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(1)
                request = connection.recv(65536)
                # What does not look like a request is a client that tries TLS.
                if request[:1].isupper():
                    connection.sendall(self._script.pop(0) if len(self._script) > 1 else self._script[0])


def json_documents(names: Sequence[str]) -> st.SearchStrategy[bytes]:
    """JSON of any shape, whose objects have these names."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=5),
        max_leaves=10,
    )
    return values.map(lambda value: json.dumps(value).encode())


@st.composite
def responses(
    draw: st.DrawFn,
    statuses: st.SearchStrategy[int],
    fields: st.SearchStrategy[tuple[str, str]],
    bodies: st.SearchStrategy[bytes],
) -> bytes:
    """A response, right or wrong, whole or cut off."""
    body = draw(bodies)
    head_fields = draw(st.lists(fields, max_size=4))
    if draw(st.integers(0, 3)):
        head_fields.append(("Content-Length", str(len(body))))
    head = [f"HTTP/1.1 {draw(statuses)} Some", *(f"{name}: {value}" for name, value in head_fields), "", ""]
    whole = "\r\n".join(head).encode() + body
    return whole if draw(st.integers(0, 3)) else whole[: draw(st.integers(0, len(whole)))]


@contextmanager
def raw_server() -> Iterator[RawServer]:
    """A server for as long as the context lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = RawServer(listener)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
