"""Small services for the engine during a build: credentials, secrets, the SSH agent, a heartbeat.

They are defined below https://github.com/moby/buildkit/tree/master/session: ``auth``, ``secrets`` and ``sshforward``;
and in https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from buildtools.image.engine.buildkit.grpc import NOT_FOUND, Gone, Handler, Status, Stream
from buildtools.image.engine.buildkit.protobuf import Message, bytes_field, int_field, string_field

_SERVING = 1


class RegistryLogin(Protocol):
    """The credentials for one registry."""

    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def identity_token(self) -> str: ...


class LoginSource(Protocol):
    """A source of credentials."""

    def for_host(self, host: str) -> RegistryLogin | None:
        """The credential for a registry's ``HOST[:PORT]``; None means anonymous access."""


def _answering(answer: Callable[[Message], bytes]) -> Handler:
    def handle(stream: Stream) -> None:
        stream.send(answer(Message(stream.receive() or b"")))

    return handle


class Heartbeat:
    """The engine checks in every session that we are alive, every second or every five; so we know that it is, too.

    An engine of 2020 gives up a session after one check without a response; we are more patient.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Record a sign of life now."""
        self._last = time.monotonic()

    def silence(self) -> float:
        """The seconds since its last check."""
        return time.monotonic() - self._last

    def handlers(self) -> dict[str, Handler]:
        """The service that answers the checks."""

        def answer(_: Message) -> bytes:
            self.begin()
            return int_field(1, _SERVING)

        return {"/grpc.health.v1.Health/Check": _answering(answer)}


def auth(credentials: LoginSource) -> dict[str, Handler]:
    """Credentials for private base images. The engine gets tokens itself, because we offer no service for that."""

    def answer(request: Message) -> bytes:
        credential = credentials.for_host(request.text(1))
        if credential is None:
            return b""
        if credential.identity_token:
            return string_field(2, credential.identity_token)
        return string_field(1, credential.username) + string_field(2, credential.password)

    return {"/moby.filesync.v1.Auth/Credentials": _answering(answer)}


def secrets(values: Mapping[str, bytes]) -> dict[str, Handler]:
    """The secrets for ``RUN --mount=type=secret``, by id."""

    def answer(request: Message) -> bytes:
        name = request.text(1)
        if name not in values:
            raise Status(NOT_FOUND, f"secret {name}: not found")
        return bytes_field(1, values[name])

    return {"/moby.buildkit.secrets.v1.Secrets/GetSecret": _answering(answer)}


def ssh(agent: str) -> dict[str, Handler]:
    """The SSH agent at the socket ``agent``, for ``RUN --mount=type=ssh``."""

    def check(request: Message) -> bytes:
        if request.text(1) not in ("", "default"):
            raise Status(NOT_FOUND, f"no SSH agent is called {request.text(1)}: there is only the default one")
        return b""

    def forward(stream: Stream) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(agent)
            answers = threading.Thread(target=_pass_on, args=(sock, stream), name="buildkit-ssh", daemon=True)
            answers.start()
            try:
                while (message := stream.receive()) is not None:
                    sock.sendall(Message(message).blob(1))
                sock.shutdown(socket.SHUT_WR)
            except (Gone, OSError):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            answers.join()

    return {"/moby.sshforward.v1.SSH/CheckAgent": _answering(check), "/moby.sshforward.v1.SSH/ForwardAgent": forward}


def _pass_on(sock: socket.socket, stream: Stream) -> None:
    with contextlib.suppress(Gone, OSError):
        while data := sock.recv(32 * 1024):
            stream.send(bytes_field(1, data))
