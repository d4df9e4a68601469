"""A client for the container engine's API, with errors that say what to do.

https://docs.docker.com/reference/api/engine/ describes the API. Small requests, which are most requests of most runs,
are made directly, because importing the docker SDK takes longer than all of them together. The SDK does the rest.
"""

from __future__ import annotations

import errno
import http.client
import json
import re
import socket
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.image.docker.credentials import Credential
from buildtools.image.engine import documents
from buildtools.image.engine.documents import EngineImage
from buildtools.image.engine.engine_address import address_of, read_address
from buildtools.image.http import dialing
from buildtools.image.http.connections import Connections
from buildtools.image.http.responses import Response
from buildtools.image.reference import Reference
from buildtools.platform import Platform
from buildtools.request_log import Stopwatch

# A small request is answered at once, or within a minute if the disk is busy with builds.
_QUESTION_SECONDS = 90.0
# Before an export or a pull, the engine prepares the image silently: it unpacks it, or reads a slow disk.
_STREAM_SECONDS = 600.0
# A server of another protocol that waits for more input does not answer an HTTP/2 preface at all.
_PROBE_SECONDS = 5.0
# Idle connections of the SDK: about as many as concurrent pulls and pushes; more are created and dropped.
_POOL = 32
# How often to list images in an engine with containerd's store while images are being removed; each takes milliseconds.
_LISTINGS = 5
# As much of a response as can contain a reason.
_LONGEST_REFUSAL = 64 * 1024
_OUTAGES = (http.client.BAD_GATEWAY, http.client.SERVICE_UNAVAILABLE, http.client.GATEWAY_TIMEOUT)
_START = "start it: systemctl start docker, or `invoke sandbox.up`"
_ENGINE_WANTED = "set DOCKER_HOST to a Docker Engine 20.10 or newer, or `builder` to a BuildKit daemon"

T = TypeVar("T")


def import_library() -> None:
    """Import what the docker SDK shares with boto3: two threads importing it at once caused a warning."""
    import requests  # noqa: F401


class EngineError(BuildToolsError):
    """The engine understood the request and declined it."""


class UnusableEngine(Refused):
    """What is at the engine's address cannot build, or not for this user: no retry helps."""


class Engine:
    """A connection to one engine. It may be shared between threads.

    ``address`` is the user's name for the engine. ``missing_routes`` are paths that its API turned out to lack.
    ``patience`` is how many seconds a small request may take.
    """

    def __init__(
        self, address: str, url: urllib.parse.SplitResult, tls: Any = None, patience: float = _QUESTION_SECONDS
    ) -> None:
        self.address = address
        self.missing_routes: set[str] = set()
        self._url = url
        self._tls = tls
        self._connections = Connections(self.dial, "engine", patience, service="engine")
        self._contents: dict[str, dict[str, Any]] = {}

    @classmethod
    def connect(cls, environment: Mapping[str, str]) -> Engine:
        """The engine that ``DOCKER_HOST``, ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` name.

        :raises Unreachable: if it does not answer.
        :raises Refused: if the variables are invalid, or the engine may not be used (:class:`UnusableEngine`).
        """
        address = address_of(environment)
        engine = cls(address, *read_address(address, environment))
        try:
            engine.api_version  # noqa: B018  asked now, to fail at once if it does not answer
        except BaseException:
            engine.close()
            raise
        return engine

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"the engine at {self.address}"

    def close(self) -> None:
        """Close all idle connections."""
        self._connections.close()
        if "api" in self.__dict__:
            self.api.close()

    @cached_property
    def api(self) -> Any:
        """The SDK's low-level client; wrap calls to it in :meth:`errors`."""
        import docker

        dial = {"http+unix": self.dial, "ssh": self.dial}.get(self._url.scheme)
        client = docker.APIClient(
            base_url="http://engine:80" if dial else self._url.geturl(),
            tls=False if dial else self._tls or False,
            version=self.api_version,
            timeout=_STREAM_SECONDS,
            max_pool_size=_POOL,
        )
        # Proxies are for external hosts, and so is REQUESTS_CA_BUNDLE, which would override DOCKER_CERT_PATH.
        client.trust_env = False
        if dial:
            client.mount("http://engine", dialing.sdk_adapter(dial, _POOL))
        return client

    @cached_property
    def platform(self) -> Platform:
        """The engine's own platform, which is the default for builds.

        :raises Unreachable: if it does not say.
        """
        return self._document("/version", documents.engine_platform)

    @cached_property
    def api_version(self) -> str:
        """The latest version of the API that the engine supports, such as ``1.41``.

        :raises UnusableEngine: if something else answers that is known to be unable to build.
        :raises Unreachable: if nothing answers, or not like an engine.
        """
        # /version would say so too, but runs other programs to get their versions.
        try:
            response = self._connections.request("GET", "/_ping", {})
        except (http.client.HTTPException, ConnectionResetError) as error:
            if self._url.scheme != "ssh" and self._speaks_http2():
                raise UnusableEngine(
                    f"what answers at {self.address} is a BuildKit daemon",
                    f'set builder = "{self.address}" under [tool.buildtools], or BUILDKIT_HOST, to build with it, and '
                    "unset DOCKER_HOST, or set it to a Docker Engine",
                ) from None
            raise _unreachable(self.address, error) from None
        except OSError as error:
            raise _unreachable(self.address, error) from None
        if response.header("Libpod-Api-Version"):
            raise UnusableEngine(
                f"what answers at {self.address} is Podman, whose Docker API lacks BuildKit", _ENGINE_WANTED
            )
        version = response.header("Api-Version")
        if not re.fullmatch(r"[0-9]+\.[0-9]+", version):
            if response.status in (http.client.FORBIDDEN, *_OUTAGES):
                raise self._refusal(response.status, response.data, "GET", "/_ping")
            raise Unreachable(f"what answers at {self.address} is not an engine", "correct DOCKER_HOST")
        return version

    def _speaks_http2(self) -> bool:
        """Whether the server starts with HTTP/2 SETTINGS (RFC 9113, 3.4)."""
        try:
            with self.dial() as sock:
                sock.settimeout(_PROBE_SECONDS)
                sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
                # A frame's length, and its type: SETTINGS.
                return sock.recv(4, socket.MSG_WAITALL)[3:] == b"\x04"
        except (OSError, Unreachable):
            return False

    @cached_property
    def containerd_store(self) -> bool:
        """Whether images are in containerd's store, so that an image's id is its manifest's digest."""
        pairs = self._document(f"/v{self.api_version}/info", documents.driver_status)
        return ["driver-type", "io.containerd.snapshotter.v1"] in pairs

    def images(self, label: str, repositories: Collection[str] = ()) -> list[EngineImage]:
        """All images with a label, ``KEY`` or ``KEY=VALUE``, in one request.

        ``repositories`` are those whose images matter, if only some do; an engine may leave others out.
        """
        wanted = {"label": [label]}
        if repositories and self.containerd_store:
            # This store takes 7 ms for each image, and 7 more where a label is asked for.
            wanted = {"reference": sorted(repositories)}
        target = f"/v{self.api_version}/images/json?{urllib.parse.urlencode({'filters': json.dumps(wanted)})}"
        # A store of content lists an image that it has lost a part of, or is just removing, without its labels.
        key = label.partition("=")[0]
        return [image for image in self._listed(target) if key in image.labels]

    def _listed(self, target: str) -> list[EngineImage]:
        for _ in range(_LISTINGS - 1):
            try:
                return self._document(target, documents.image_list)
            except EngineError:
                # Engines with containerd's store cannot list images while one is being removed.
                continue
        return self._document(target, documents.image_list)

    def inspect(self, reference: str) -> dict[str, Any] | None:
        """An image as in the response of ``GET /images/NAME/json``; None if there is none."""
        target = f"{self._image(reference)}/json"
        response = self._ask("GET", target, missing_is_fine=True)
        if response.status == http.client.NOT_FOUND:
            return None
        image = self._read(target, response, documents.image_details)
        self._contents[str(image["Id"])] = image
        return image

    def content(self, image_id: str) -> dict[str, Any] | None:
        """The same for an id, which always means the same content: asked once. Its names may be others by now."""
        return self._contents.get(image_id) or self.inspect(image_id)

    def without_buildkit(self) -> UnusableEngine:
        """The error for an engine whose API turns out to lack BuildKit."""
        return UnusableEngine(f"the engine at {self.address} has no BuildKit", _ENGINE_WANTED)

    def tag(self, image_id: str, reference: str) -> None:
        """Give an image another name, ``REPOSITORY:TAG``, taking it away from any other image."""
        repository, _, tag = reference.rpartition(":")
        names = urllib.parse.urlencode({"repo": repository, "tag": tag})
        self._ask("POST", f"{self._image(image_id)}/tag?{names}")

    def pull(
        self,
        reference: str,
        credential: Credential | None,
        layer_arrived: Callable[[str, int, int], object] = lambda *_: None,
    ) -> str:
        """Pull an image from its registry with ``credential``; returns its id. Its other names stay.

        ``layer_arrived`` is called with a layer's digest, the bytes so far, and the total.

        :raises EngineError: if the registry does not have it, or denies access.
        """
        parts = Reference.parse(reference)
        # Without a login the SDK would read Docker's configuration itself; an empty one is anonymous.
        login = credential.login if credential else {}
        remedy = f"see that {parts.registry} has it and that the engine can reach it, or load it into the engine"
        try:
            with self.errors():
                # After the first line of the response, an error is only another line.
                for line in self.api.pull(parts.name, tag=parts.target, stream=True, decode=True, auth_config=login):
                    if "error" in line:
                        raise EngineError(str(line["error"]))
                    detail = line.get("progressDetail") or {}
                    if line.get("status") == "Downloading" and "current" in detail:
                        layer_arrived(str(line.get("id")), int(detail["current"]), int(detail.get("total", 0)))
        except EngineError as error:
            raise EngineError(f"the engine cannot pull {reference} ({error.fact})", remedy) from None
        image = self.inspect(reference)
        if image is None:
            raise EngineError(f"the engine pulled {reference} and does not have it", "run the same command again")
        return str(image["Id"])

    def untag(self, reference: str) -> None:
        """Remove a name; the image stays as long as it has another one. Do nothing if there is no such name."""
        self._ask("DELETE", f"{self._image(reference)}?noprune=1", missing_is_fine=True)

    def _image(self, name: str) -> str:
        return f"/v{self.api_version}/images/{urllib.parse.quote(name, safe='/:@')}"

    def _ask(self, method: str, target: str, *, missing_is_fine: bool = False) -> Response:
        try:
            response = self._connections.request(method, target, {})
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.address, error) from None
        if response.status >= 300 and not (response.status == http.client.NOT_FOUND and missing_is_fine):
            raise self._refusal(response.status, response.data, method, target)
        return response

    def _refusal(self, status: int, data: bytes, method: str, target: str) -> BuildToolsError:
        reason = documents.failure_reason(status, data)
        path = target.partition("?")[0]
        if status == http.client.FORBIDDEN:
            return forbidden(self.address, method, path, reason)
        if status in _OUTAGES:
            # An engine never answers this: it comes from a proxy whose engine is down.
            return Unreachable(f"{self.address} answers {method} {path} with {status} ({reason})", _START)
        return EngineError(f"the engine at {self.address} answers {reason}")

    def _document(self, target: str, read: Callable[[bytes], T]) -> T:
        return self._read(target, self._ask("GET", target), read)

    def _read(self, target: str, response: Response, read: Callable[[bytes], T]) -> T:
        try:
            return read(response.data)
        except ValueError as error:
            path = target.partition("?")[0]
            raise Unreachable(
                f"what answers at {self.address} does not answer GET {path} as an engine does ({error})",
                "see what is between here and the engine, and run again",
            ) from None

    @contextmanager
    def exported(self, image_ids: Sequence[str]) -> Iterator[http.client.HTTPResponse]:
        """Images as one tar archive, read as a stream; it contains shared layers once.

        :raises EngineError: if the engine does not export them.
        :raises Unreachable: if the connection was lost.
        """
        names = urllib.parse.urlencode({"names": image_ids}, doseq=True)
        target = f"/v{self.api_version}/images/get?{names}"
        connection = _Connection(self.dial)
        stopwatch = Stopwatch()
        try:
            connection.connect()
            connection.sock.settimeout(_STREAM_SECONDS)
            connection.request("GET", target)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise self._refusal(answer.status, answer.read(_LONGEST_REFUSAL), "GET", target)
            yield answer
            stopwatch.log("engine", "GET", target, answer.status)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.address, error) from None
        finally:
            connection.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """A context that converts errors of the SDK and the layers below it into ours."""
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
            # Raised for responses that no engine sends, by the SDK or by the code that parses its lines.
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
        ) as error:
            raise _unreachable(self.address, error) from None

    def dial(self) -> socket.socket:
        """A new connection to the engine's API without a timeout, for upgrades and streams."""
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


def forbidden(address: str, method: str, path: str, reason: str) -> UnusableEngine:
    """The error if a socket proxy, or an authorization plugin of the engine, denies a request."""
    return UnusableEngine(
        f"{address} forbids {method} {path}, which is needed to build ({reason})",
        "allow it (docker-socket-proxy: POST=1, IMAGES=1, INFO=1, SESSION=1, GRPC=1, and PING and VERSION not 0), or "
        "set DOCKER_HOST to an engine that may be used for builds",
    )


def _unreachable(address: str, error: BaseException) -> Unreachable | UnusableEngine:
    cause = _root_cause(error)
    # For a host, the same error number would mean a firewall.
    if getattr(cause, "errno", None) == errno.EACCES and address.startswith("unix:"):
        return UnusableEngine(f"permission denied on the engine's socket, {address}", "add the user to group docker")
    if isinstance(cause, TimeoutError) and not cause.errno:
        return Unreachable(
            f"the engine at {address} accepted a request but does not answer it",
            "see whether its disk is full or busy (`invoke doctor`), restart it, and run again",
        )
    # An answer that is not HTTP is quoted with its line break.
    reason = " ".join(str(getattr(cause, "strerror", None) or cause).split())
    remedy = _START
    if address.startswith("ssh:"):
        reason = "ssh has ended"
        remedy = "see above what it says; `ssh HOST docker version` must work without asking anything"
    elif not address.startswith("unix:"):
        remedy = "start it there, or choose another one by DOCKER_HOST or `docker context use`"
    return Unreachable(f"no engine answers at {address} ({reason})", remedy)


def _root_cause(error: BaseException) -> BaseException:
    while True:
        errors = [error.__cause__, error.__context__, *error.args, getattr(error, "reason", None)]
        inner = next((n for n in errors if isinstance(n, BaseException) and n is not error), None)
        if inner is None:
            return error
        error = inner
