"""The Docker engine: one that is already running, or else one started here.

Only a few requests are needed, so they are sent over its socket directly, without the SDK:
https://docs.docker.com/engine/api/v1.41/
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from buildtools import Refused, Unreachable
from buildtools.frozen import frozen
from buildtools.image.docker.configuration import chosen_engine
from buildtools.sandbox import process

NAME = "engine"
DEFAULT_HOST = "unix:///var/run/docker.sock"
# Each program and its Debian package.
PROGRAMS = (("dockerd", "docker.io"), ("iptables", "iptables"))


@frozen
class EngineAddress:
    """An engine's address, in the syntax of ``DOCKER_HOST``."""

    host: str = DEFAULT_HOST

    @classmethod
    def named(cls, environment: Mapping[str, str]) -> EngineAddress:
        """The engine that the user has chosen, else the machine's own.

        :raises Refused: if the choice is invalid.
        """
        return cls(chosen_engine(environment).get("DOCKER_HOST") or DEFAULT_HOST)

    def answers(self) -> bool:
        """Whether there is an engine that grants us access."""
        try:
            return self._request("GET", "/_ping")[0] == 200
        except Unreachable:
            return False

    def has(self, image: str) -> bool:
        """Whether the engine has an image with this name.

        :raises Unreachable: if no engine answers.
        """
        return self._request("GET", f"/images/{quote(image)}/json")[0] == 200

    def import_image(self, image: str, tar: Path) -> None:
        """Create an image with one layer from a tar of a root file system.

        :raises Unreachable: if no engine answers, or it does not accept the tar.
        """
        repository, _, tag = image.rpartition(":")
        with tar.open("rb") as stream:
            query = f"fromSrc=-&repo={quote(repository)}&tag={quote(tag)}"
            status, body = self._request("POST", f"/images/create?{query}", iter(lambda: stream.read(1 << 20), b""))
        if status != 200 or b'"error"' in body:
            raise Unreachable(f"the engine did not import {image}", body.decode(errors="replace").strip())

    def forget(self, prefix: str) -> None:
        """Remove every image name that begins with ``prefix``; images with another name, or in use, stay.

        :raises Unreachable: if no engine answers.
        """
        for image in json.loads(self._request("GET", "/images/json")[1]):
            for name in (*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())):
                if name.startswith(prefix):
                    self._request("DELETE", f"/images/{quote(name)}")

    def _request(self, method: str, path: str, body: Iterable[bytes] | None = None) -> tuple[int, bytes]:
        connection = _connection(self.host)
        try:
            connection.request(method, path, body, {"Content-Type": "application/x-tar"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            fact = f"no Docker engine answers at {self.host} ({error})"
            raise Unreachable(fact, "start it, or set DOCKER_HOST") from None
        finally:
            connection.close()


def start(directory: Path, *, environment: Mapping[str, str], name: str = NAME) -> EngineAddress:
    """Start an engine at the machine's default socket, with its usual store, which keeps what was built before.

    :func:`refuse_start` checks whether that is possible; the programs are :data:`PROGRAMS`.

    :raises Unreachable: if it does not start.
    """
    engine = EngineAddress.named(environment)
    process.start(name, ["dockerd"], directory, environment=process.bare(environment), answers=engine.answers)
    return engine


def refuse_start(engine: EngineAddress) -> None:
    """Raise an error if an engine that does not answer cannot be started here.

    :raises Refused: if this needs root.
    :raises Unreachable: if the environment names an engine, so that starting another would not help.
    """
    if engine.host != DEFAULT_HOST:
        raise Unreachable(f"no Docker engine answers at {engine.host}", "start it, or unset DOCKER_HOST")
    if os.geteuid() != 0:
        raise Refused(
            "no Docker engine answers at /var/run/docker.sock, and only root can start one",
            "start it (`sudo systemctl start docker`), or join the group docker and log in again",
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=300)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(host: str) -> http.client.HTTPConnection:
    address = urlsplit(host)
    if address.scheme == "unix":
        return _UnixConnection(address.path)
    if address.scheme in ("tcp", "http") and address.hostname:
        return http.client.HTTPConnection(address.hostname, address.port or 2375, timeout=300)
    raise Refused(f"the sandbox cannot speak to an engine at {host}", "use unix:// or tcp:// in DOCKER_HOST")
