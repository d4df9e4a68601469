"""A separate BuildKit daemon, ``buildkitd``: HTTP/2 on its socket, and no image store.

https://github.com/moby/buildkit/blob/master/docs/buildkitd.toml.md describes its configuration; ``[grpc]`` has its
addresses.
"""

from __future__ import annotations

import ssl
import threading
import urllib.parse
from collections.abc import Callable
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.image.engine.buildkit.container import dial_in_container
from buildtools.image.engine.buildkit.control import connect_control
from buildtools.image.engine.buildkit.grpc import ByteChannel, Gone, NotGrpc, Status
from buildtools.image.engine.buildkit.host import BuildkitHost
from buildtools.image.engine.buildkit.protobuf import Message
from buildtools.image.engine.client import Engine, UnusableEngine
from buildtools.image.http import dialing
from buildtools.platform import Platform

_PORT = 1234
_IN_CONTAINER = "docker-container"
# Seconds for a response that should be immediate.
_PATIENCE = 30.0
_START = "see that it runs and that this user may use its socket"
_START_THERE = "see that it runs there and can be reached from here"


class Daemon:
    """A :class:`~buildtools.image.engine.buildkit.host.BuildkitHost` for a separate daemon."""

    api_version = ""

    def __init__(self, address: str, dial: Callable[[], ByteChannel], remedy: str = _START) -> None:
        self.address = address
        self._remedy = remedy
        # There is no HTTP API, so do not even ask for these.
        self.missing_routes = {"/grpc", "/session"}
        self._dial = dial

    @classmethod
    def at(cls, address: str, certificates: Path | None, engine: Callable[[], Engine]) -> Daemon:
        """The daemon at ``unix://PATH`` or ``tcp://HOST[:PORT]``, or in the named container of ``engine``.

        :raises Refused: if the address is invalid, or the certificates cannot be used.
        """
        url = urllib.parse.urlsplit(address)
        try:
            host, port = url.hostname, url.port or _PORT
        except ValueError:
            host, port = None, 0
        if url.scheme == _IN_CONTAINER:
            remedy = f"see that it runs one and has buildctl: docker logs {url.netloc}"
            return cls(address, lambda: dial_in_container(engine(), url.netloc), remedy)
        if url.scheme == "unix":
            return cls(address, partial(dialing.dial_unix, url.path))
        if url.scheme == "tcp" and host:
            if certificates is None:
                remedy = f"{_START_THERE}; if it wants TLS, set builder_certificates"
                return cls(address, partial(dialing.dial_tcp, host, port), remedy)
            tls = dialing.Certificates.read(certificates)
            return cls(address, partial(dialing.dial_tls, host, port, tls, ["h2"]), _START_THERE)
        raise Refused(
            f"{address} is not the address of a BuildKit daemon",
            "write unix:///PATH, tcp://HOST:PORT or docker-container://NAME",
        )

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"the BuildKit daemon at {self.address}"

    def dial(self) -> ByteChannel:
        """A new connection without a timeout.

        :raises Unreachable: if nothing answers.
        :raises UnusableEngine: if one does not trust the other.
        """
        try:
            return self._dial()
        except ssl.SSLError as error:
            raise UnusableEngine(
                f"{self.title} and this program do not trust each other's certificates ({error})",
                "check the `certificates` for it: ca.pem must have signed its own, and it must accept cert.pem",
            ) from None
        except OSError as error:
            fact = f"no BuildKit daemon answers at {self.address} ({error.strerror or error})"
            raise Unreachable(fact, self._remedy) from None

    def without_buildkit(self) -> BuildToolsError:
        """The error if something else answers."""
        return UnusableEngine(f"what answers at {self.address} is not BuildKit", "correct the address of the builder")

    @cached_property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms whose programs it can run, its own first; see :func:`platforms_of`."""
        return platforms_of(self, self._remedy)


def platforms_of(host: BuildkitHost, remedy: str = _START) -> tuple[Platform, ...]:
    """Ask BuildKit for the platforms whose programs it can run, natively or emulated, its own first.

    ``remedy`` is what to do if it does not answer.

    :raises Unreachable: if the connection was lost.
    :raises BuildToolsError: if it does not say.
    """
    with closing(connect_control(host)) as connection:
        # A stopped daemon still accepts connections.
        timer = threading.Timer(_PATIENCE, connection.close)
        timer.daemon = True
        timer.start()
        try:
            answer = b"".join(connection.call("/moby.buildkit.v1.Control/ListWorkers", b""))
            workers = Message(answer).messages(1)
            texts = [
                "/".join(filter(None, (each.text(2), each.text(1), each.text(3))))
                for worker in workers
                for each in worker.messages(3)
            ]
        except NotGrpc:
            raise host.without_buildkit() from None
        except Gone as error:
            raise Unreachable(f"{host.title} does not answer ({error})", remedy) from None
        except (Status, ValueError) as error:
            raise BuildToolsError(f"{host.title} does not list its platforms ({error})", "see why in its log") from None
        finally:
            timer.cancel()
    platforms = []
    for text in texts:
        try:
            platforms.append(Platform.parse(text))
        except ValueError:
            # No image can be configured for a platform that we do not know.
            continue
    return tuple(dict.fromkeys(platforms))
