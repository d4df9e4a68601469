from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping

import pytest

from buildtools.image.engine.buildkit.grpc import (
    NOT_FOUND,
    UNIMPLEMENTED,
    UNKNOWN,
    Connection,
    Gone,
    Handler,
    Status,
    Stream,
    framed,
)


@contextlib.contextmanager
def connected(handlers: Mapping[str, Handler]) -> Iterator[tuple[Connection, Connection]]:
    """A client and a server of ours, at the two ends of one connection."""
    near, far = socket.socketpair()
    server = Connection(far, b"", handlers)
    client = Connection(near)
    try:
        yield client, server
    finally:
        client.close()
        server.close()


def echo(stream: Stream) -> None:
    while (message := stream.receive()) is not None:
        stream.send(message)


def test_messages_of_any_size_pass_both_ways() -> None:
    big = bytes(range(256)) * 40_000  # larger than a window, so that both sides have to wait for room
    with connected({"/echo": echo}) as (client, _):
        for message in (b"", b"one", big):
            assert [message] == list(client.call("/echo", message))


def test_messages_that_are_written_together_arrive_apart() -> None:
    def three(stream: Stream) -> None:
        stream.receive()
        whole = framed(b"one") + framed(b"") + framed(b"three" * 30_000)
        for piece in (whole[:3], whole[3:20], whole[20:]):
            stream.write(piece)

    with connected({"/three": three}) as (client, _):
        assert [b"one", b"", b"three" * 30_000] == list(client.call("/three", b""))


def test_many_calls_share_a_connection() -> None:
    answers: dict[int, list[bytes]] = {}
    with connected({"/echo": echo}) as (client, _):

        def ask(number: int) -> None:
            answers[number] = list(client.call("/echo", bytes([number]) * 300_000))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {number: [bytes([number]) * 300_000] for number in range(20)} == answers


def test_a_refusal_carries_its_code_and_words() -> None:
    def refuse(stream: Stream) -> None:
        raise Status(NOT_FOUND, "no 'thing' here: 100 % gone, señor\n")

    with connected({"/refuse": refuse}) as (client, server):
        with pytest.raises(Status) as caught:
            list(client.call("/refuse", b""))
        assert (NOT_FOUND, "no 'thing' here: 100 % gone, señor\n") == (caught.value.code, caught.value.message)
        assert server.failure is None


def test_a_method_that_is_not_served_says_so() -> None:
    with connected({}) as (client, _):
        with pytest.raises(Status) as caught:
            list(client.call("/nothing", b""))
        assert UNIMPLEMENTED == caught.value.code


def test_a_failure_is_kept_for_who_waits_for_the_result() -> None:
    error = OSError("the disk is gone")

    def fail(stream: Stream) -> None:
        raise error

    with connected({"/fail": fail}) as (client, server):
        with pytest.raises(Status) as caught:
            list(client.call("/fail", b""))
        assert (UNKNOWN, "the disk is gone") == (caught.value.code, caught.value.message)
        assert error is server.failure


def test_the_end_of_a_connection_ends_calls_on_both_sides() -> None:
    received = threading.Event()
    ended: list[Exception] = []

    def wait(stream: Stream) -> None:
        stream.receive()
        received.set()
        try:
            while True:
                stream.send(bytes(100_000))
        except Gone as error:
            ended.append(error)
            raise

    before = threading.active_count()
    with connected({"/wait": wait}) as (client, _):
        answers = client.call("/wait", b"")
        received.wait()
        client.close()
        with pytest.raises(Gone):
            list(answers)
        with pytest.raises(Gone):
            client.call("/wait", b"")
    assert 1 == len(ended)
    assert before == threading.active_count()


def test_bytes_that_are_not_http_2_end_the_connection() -> None:
    near, far = socket.socketpair()
    with near:
        client = Connection(far)
        near.sendall(bytes(9))  # DATA on stream 0, which there cannot be
        with pytest.raises(Gone):
            list(client.call("/anything", b""))
        client.close()
