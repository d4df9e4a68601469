"""A wire that a test can cut, damage or make forgetful: a TCP proxy on loopback."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Wire:
    """Carries bytes between clients and one server. ``sent`` sees what clients send, ``answered`` what comes back.

    Either may give other bytes to pass on, or None to cut the connection. ``cut()`` ends all, for good.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._cut = threading.Event()
        self._threads: list[threading.Thread] = []
        self.sent: Callable[[bytes], bytes | None] = lambda data: data
        self.answered: Callable[[bytes], bytes | None] = lambda data: data

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def cut(self) -> None:
        """From now on nothing is carried and nobody is let in."""
        self._cut.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def accept(self) -> None:
        """Serves until it is cut."""
        while not self._cut.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                break
            thread = threading.Thread(target=self._carry, args=(client,))
            thread.start()
            self._threads.append(thread)
        for thread in self._threads:
            thread.join()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server, selectors.DefaultSelector() as readable:
            readable.register(client, selectors.EVENT_READ, (server, lambda data: self.sent(data)))
            readable.register(server, selectors.EVENT_READ, (client, lambda data: self.answered(data)))
            while not self._cut.is_set():
                for key, _ in readable.select(0.1):
                    other, through = key.data
                    try:
                        data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]  # only sockets are registered
                        passed = through(data) if data else None
                        if not passed:
                            return
                        other.sendall(passed)
                    except OSError:
                        return


@contextmanager
def wire_to(server: str) -> Iterator[Wire]:
    """A wire to ``HOST:PORT`` that is cut in the end."""
    wire = Wire(server)
    thread = threading.Thread(target=wire.accept)
    thread.start()
    try:
        yield wire
    finally:
        wire.cut()
        thread.join()
