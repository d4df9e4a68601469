from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from buildtools.image.http.connections import Connections
from tests.servers import Quiet, serving

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


class Clients(Quiet, BaseHTTPRequestHandler):
    """Tells which of its clients asked for what."""

    def do_GET(self) -> None:
        self._answer(f"{self.client_address[1]} {self.path}".encode())

    def do_PUT(self) -> None:
        self.close_connection = True
        self._answer(b"seen enough")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def connections() -> Iterator[Connections]:
    with serving(Clients) as address, connecting(address) as made:
        yield made


@contextmanager
def connecting(address: str) -> Iterator[Connections]:
    host, _, port = address.partition(":")
    with closing(Connections(lambda: socket.create_connection((host, port)), address, 30)) as made:
        yield made


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def hanging_up(server: socket.socket, answer: bytes) -> Iterator[None]:
    """Gives one connection an answer, and has closed it when the context ends."""

    def serve() -> None:
        accepted, _ = server.accept()
        with accepted:
            accepted.recv(65536)
            accepted.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join()


def test_a_connection_is_used_again(connections: Connections) -> None:
    clients = {connections.request("GET", "/", {}).data for _ in range(3)}
    assert 1 == len(clients)


def test_a_server_that_hung_up_since_is_connected_to_again() -> None:
    with listening() as server, connecting(address_of(server)) as connections:
        for body in (b"some", b"more"):
            with hanging_up(server, ANSWER + body):
                assert body == connections.request("POST", "/", {}).data


def test_what_a_path_may_not_hold_is_escaped_and_the_rest_is_left_alone(connections: Connections) -> None:
    answer = connections.request("GET", "/a b/é?c=%2F&d=/", {})
    assert b"/a%20b/%C3%A9?c=%2F&d=/" == answer.data.partition(b" ")[2]


def test_an_answer_that_comes_before_all_of_a_body_is_heard(connections: Connections) -> None:
    blocks = (bytes(1 << 20) for _ in range(16))
    answer = connections.request("PUT", "/", {"Content-Length": str(16 << 20)}, blocks)
    assert b"seen enough" == answer.data


def test_an_answer_that_is_cut_off_is_an_error() -> None:
    with (
        listening() as server,
        hanging_up(server, ANSWER + b"no"),
        connecting(address_of(server)) as connections,
        pytest.raises(http.client.IncompleteRead),
    ):
        connections.request("GET", "/", {})


def test_who_waits_for_an_answer_is_told_when_that_is_given_up() -> None:
    with listening() as server, connecting(address_of(server)) as connections, ThreadPoolExecutor() as pool:
        asked = pool.submit(connections.request, "GET", "/", {})
        accepted, _ = server.accept()
        with accepted:
            accepted.recv(65536)
            connections.abort()
            with pytest.raises((OSError, http.client.HTTPException)):
                asked.result()
        with pytest.raises(ConnectionAbortedError):
            connections.request("GET", "/", {})
