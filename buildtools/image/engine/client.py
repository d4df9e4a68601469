"""The container engine, through its API, with errors that say what to do.

The API is described at https://docs.docker.com/reference/api/engine/. Small questions are asked directly, for they are
most of what most runs ask, and the docker SDK takes longer to import than they take together; it does the rest.
"""

from __future__ import annotations

import errno
import http.client
import json
import socket
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.frozen import frozen
from buildtools.image.docker.credentials import Credential
from buildtools.image.http import dialing
from buildtools.image.http.connections import Connections
from buildtools.image.http.responses import Response
from buildtools.image.reference import Reference
from buildtools.platform import Platform
from buildtools.request_log import Stopwatch

# Longer than any single answer takes; streams (build, export) set their own.
_TIMEOUT = 600.0
_POOL = 32
_LISTINGS = 5
_START = "start it: systemctl start docker, or `invoke sandbox.up`"


class EngineError(BuildToolsError):
    """The engine understood the request and declined it."""


class Denied(Refused):
    """The engine's socket is there, and this user may not open it: no retry helps."""


@frozen
class EngineImage:
    """An image as the engine lists it. ``tags`` are full references; ``id`` is ``sha256:...``.

    ``created`` is when it was built, in seconds since 1970.
    """

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    created: int


class Engine:
    """A connection to one engine. It may be used by many threads at once.

    ``address`` is what the user calls the engine.
    """

    def __init__(self, address: str, url: urllib.parse.SplitResult, tls: Any = None) -> None:
        self.address = address
        self._url = url
        self._tls = tls
        self._connections = Connections(self.dial, "engine", _TIMEOUT, service="engine")

    @classmethod
    def connect(cls, environment: Mapping[str, str]) -> Engine:
        """The engine that ``DOCKER_HOST``, ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` name.

        :raises Unreachable: it does not answer.
        :raises Refused: the variables make no sense, or the engine may not be used (:class:`Denied`).
        """
        address = address_of(environment)
        engine = cls(address, *_read_address(address, environment))
        try:
            engine.api_version  # noqa: B018  asked now, so that one that does not answer is known at once
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        """Let go of all idle connections."""
        self._connections.close()
        if "api" in self.__dict__:
            self.api.close()

    @cached_property
    def api(self) -> Any:
        """The SDK's low-level client: wrap calls to it in :meth:`errors`."""
        import docker

        dial = {"http+unix": self.dial, "ssh": self.dial}.get(self._url.scheme)
        client = docker.APIClient(
            base_url="http://engine:80" if dial else self._url.geturl(),
            tls=False if dial else self._tls or False,
            version=self.api_version,
            timeout=_TIMEOUT,
            max_pool_size=_POOL,
        )
        # Proxies, and REQUESTS_CA_BUNDLE, which would win over DOCKER_CERT_PATH, are for the world outside.
        client.trust_env = False
        if dial:
            client.mount("http://engine", dialing.sdk_adapter(dial, _POOL))
        return client

    @cached_property
    def version(self) -> str:
        """The engine's own version, as ``20.10.24``."""
        return str(self._program["Version"])

    @cached_property
    def platform(self) -> Platform:
        """What the engine was compiled for, which is what it builds where no platform is asked for.

        :raises EngineError: it does not say.
        """
        try:
            return Platform.parse(f"{self._program['Os']}/{self._program['Arch']}")
        except (KeyError, ValueError) as error:
            raise EngineError(f"the engine at {self.address} does not tell its platform ({error})") from None

    @cached_property
    def _program(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._ask("GET", "/version").data)
        return document

    @cached_property
    def api_version(self) -> str:
        """The latest version of the API that the engine speaks, as ``1.41``."""
        # It says so under /version too, for which it starts the programs whose versions it tells as well.
        version = self._ask("GET", "/_ping").header("Api-Version")
        if not version:
            raise Unreachable(f"what answers at {self.address} is no engine", "correct DOCKER_HOST")
        return version

    @cached_property
    def containerd_store(self) -> bool:
        """Whether images live in containerd's store: an image's id is then its manifest's digest."""
        status = json.loads(self._ask("GET", f"/v{self.api_version}/info").data).get("DriverStatus") or []
        return ["driver-type", "io.containerd.snapshotter.v1"] in status

    def images(self, label: str) -> list[EngineImage]:
        """All images that carry a label: ``KEY`` or ``KEY=VALUE``, in one request."""
        filters = urllib.parse.urlencode({"filters": json.dumps({"label": [label]})})
        for attempt in range(_LISTINGS, 0, -1):
            try:
                body = self._ask("GET", f"/v{self.api_version}/images/json?{filters}").data
                break
            except EngineError:
                # Engines with containerd's store cannot list while somebody removes an image.
                if attempt == 1:
                    raise
        return [
            EngineImage(
                entry["Id"],
                tuple(tag for tag in entry.get("RepoTags") or () if tag != "<none>:<none>"),
                entry.get("Labels") or {},
                int(entry.get("Created") or 0),
            )
            for entry in json.loads(body)
        ]

    def inspect(self, reference: str) -> dict[str, Any] | None:
        """What the engine knows about an image, as ``GET /images/NAME/json`` answers; None where it has no such one."""
        answer = self._ask("GET", f"{self._image(reference)}/json", missing_is_fine=True)
        image: dict[str, Any] | None = json.loads(answer.data) if answer.status != 404 else None
        return image

    def tag(self, image_id: str, reference: str) -> None:
        """Give an image one more name, ``REPOSITORY:TAG``, taking it away from any other image."""
        repository, _, tag = reference.rpartition(":")
        names = urllib.parse.urlencode({"repo": repository, "tag": tag})
        self._ask("POST", f"{self._image(image_id)}/tag?{names}")

    def pull(self, reference: str, credential: Credential | None) -> str:
        """Fetch an image from its registry, which is shown ``credential``; its id. Its other names stay.

        :raises EngineError: the registry does not have it, or does not give it away.
        """
        parts = Reference.parse(reference)
        # Without one the SDK would look into its own idea of Docker's configuration; an empty one is anonymous.
        login = credential.login if credential else {}
        remedy = f"see that {parts.registry} has it and that the engine can reach it, or load it into the engine"
        try:
            with self.errors():
                # An error after the first line of the answer is only a line of it.
                for line in self.api.pull(parts.name, tag=parts.target, stream=True, decode=True, auth_config=login):
                    if "error" in line:
                        raise EngineError(str(line["error"]))
        except EngineError as error:
            raise EngineError(f"the engine cannot pull {reference} ({error.fact})", remedy) from None
        image = self.inspect(reference)
        if image is None:
            raise EngineError(f"the engine pulled {reference} and does not have it", "run again")
        return str(image["Id"])

    def untag(self, reference: str) -> None:
        """Take a name away; the image stays as long as it has another one. Nothing where there is no such name."""
        self._ask("DELETE", f"{self._image(reference)}?noprune=1", missing_is_fine=True)

    def _image(self, name: str) -> str:
        return f"/v{self.api_version}/images/{urllib.parse.quote(name, safe='/:@')}"

    def _ask(self, method: str, target: str, *, missing_is_fine: bool = False) -> Response:
        try:
            answer = self._connections.request(method, target, {})
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.address, error) from None
        if answer.status >= 400 and not (answer.status == 404 and missing_is_fine):
            raise EngineError(f"the engine at {self.address} answers {_reason(answer.status, answer.data)}")
        return answer

    @contextmanager
    def exported(self, image_ids: Sequence[str]) -> Iterator[http.client.HTTPResponse]:
        """Images as one tar archive, to be read as it comes; layers that they share are in it once.

        :raises EngineError: the engine does not give them out.
        :raises Unreachable: it went away.
        """
        names = urllib.parse.urlencode({"names": image_ids}, doseq=True)
        target = f"/v{self.api_version}/images/get?{names}"
        connection = _Connection(self.dial)
        stopwatch = Stopwatch()
        try:
            connection.connect()
            connection.sock.settimeout(_TIMEOUT)
            connection.request("GET", target)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                reason = _reason(answer.status, answer.read())
                raise EngineError(f"the engine at {self.address} answers {reason}", "its log may tell more")
            yield answer
            stopwatch.log("engine", "GET", target, answer.status)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.address, error) from None
        finally:
            connection.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """A context in which what the SDK and the layers below it raise becomes one of our errors."""
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        try:
            yield
        except docker.errors.APIError as error:
            raise EngineError(f"the engine at {self.address} answers {error.explanation or error}") from None
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            raise _unreachable(self.address, error) from None

    def dial(self) -> socket.socket:
        """A new connection to the engine's API without a time limit, for what needs one: upgrades, streams."""
        url = self._url
        try:
            if url.scheme == "http+unix":
                return dialing.dial_unix(url.path)
            if url.scheme == "ssh":
                return dialing.dial_ssh(url)
            host = url.hostname or ""
            if url.scheme == "https":
                return dialing.dial_tls(host, url.port or 2376, self._tls)
            return dialing.dial_tcp(host, url.port or 2375)
        except OSError as error:
            raise _unreachable(self.address, error) from None


class _Connection(http.client.HTTPConnection):
    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        super().__init__("engine")
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial()


def address_of(environment: Mapping[str, str]) -> str:
    """The address of the engine that these variables choose."""
    return environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def _read_address(address: str, environment: Mapping[str, str]) -> tuple[urllib.parse.SplitResult, Any]:
    """Where an engine is, as the SDK writes it, and the SDK's ``TLSConfig``, if there is to be TLS."""
    if (
        address.startswith("unix:///")
        and not environment.get("DOCKER_CERT_PATH")
        and "DOCKER_TLS_VERIFY" not in environment
    ):
        return urllib.parse.SplitResult("http+unix", "", address.removeprefix("unix://"), "", ""), None
    import docker.errors
    import docker.utils

    try:
        options = docker.utils.kwargs_from_env({**environment, "DOCKER_HOST": address})
        url = docker.utils.parse_host(address, tls="tls" in options)
    except docker.errors.DockerException as error:
        raise Refused(f"DOCKER_HOST={address} cannot be used ({error})", "correct DOCKER_HOST") from None
    return urllib.parse.urlsplit(url), options.get("tls")


def _reason(status: int, data: bytes) -> str:
    """The reason that an answer gives for being an error."""
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode("utf-8", "replace").strip() or str(status)


def _unreachable(address: str, error: BaseException) -> Unreachable | Denied:
    cause = _root_cause(error)
    # Of a host the same error number tells of a firewall.
    if getattr(cause, "errno", None) == errno.EACCES and address.startswith("unix:"):
        return Denied(f"permission denied on the engine's socket, {address}", "add the user to group docker")
    return Unreachable(f"no engine answers at {address} ({getattr(cause, 'strerror', None) or cause})", _START)


def _root_cause(error: BaseException) -> BaseException:
    while True:
        nested = [error.__cause__, error.__context__, *error.args, getattr(error, "reason", None)]
        inner = next((n for n in nested if isinstance(n, BaseException) and n is not error), None)
        if inner is None:
            return error
        error = inner
