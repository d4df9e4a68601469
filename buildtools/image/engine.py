"""The container engine: one connection to its API, through the docker SDK, with errors that say what to do.

Its API is described at https://docs.docker.com/reference/api/engine/.
"""

from __future__ import annotations

import errno
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.image import dialing
from buildtools.image.credentials import Credentials
from buildtools.image.reference import Reference

# Longer than any single answer takes; streams (build, export) set their own.
_TIMEOUT = 600.0
_POOL = 32
_START = "start it: systemctl start docker, or `invoke sandbox.up`"


class EngineError(BuildToolsError):
    """The engine understood the request and declined it."""


@dataclass(frozen=True)
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

    ``address`` is what the user calls the engine, ``api`` the SDK's low-level client: wrap calls to it in
    :meth:`errors`.
    """

    def __init__(self, api: Any, address: str, url: urllib.parse.SplitResult, tls: Any = None) -> None:
        self.api = api
        self.address = address
        self._url = url
        self._tls = tls

    @classmethod
    def connect(cls, environment: Mapping[str, str]) -> Engine:
        """The engine that ``DOCKER_HOST``, ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` name.

        :raises Unreachable: it does not answer, or may not be used.
        :raises Refused: the variables make no sense.
        """
        import docker.errors
        import docker.utils

        address = environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        with _errors(address):
            try:
                options = docker.utils.kwargs_from_env({**environment, "DOCKER_HOST": address})
                url = docker.utils.parse_host(address, tls="tls" in options)
            except docker.errors.DockerException as error:
                raise Refused(f"DOCKER_HOST={address} cannot be used ({error})", "correct DOCKER_HOST") from None
            made = urllib.parse.urlsplit(url)
            api = _api(made, options)
        return cls(api, address, made, options.get("tls"))

    def close(self) -> None:
        """Let go of all idle connections."""
        self.api.close()

    @cached_property
    def version(self) -> str:
        """The engine's own version, as ``20.10.24``."""
        with self.errors():
            return str(self.api.version()["Version"])

    @property
    def api_version(self) -> str:
        """The version of the API that both sides speak, as ``1.41``."""
        return str(self.api.api_version)

    @cached_property
    def containerd_store(self) -> bool:
        """Whether images live in containerd's store: an image's id is then its manifest's digest."""
        with self.errors():
            status = self.api.info().get("DriverStatus") or []
        return ["driver-type", "io.containerd.snapshotter.v1"] in status

    def images(self, label: str) -> list[EngineImage]:
        """All images that carry a label: ``KEY`` or ``KEY=VALUE``, in one request."""
        with self.errors():
            listed = self.api.images(filters={"label": label})
        return [
            EngineImage(
                entry["Id"],
                tuple(tag for tag in entry.get("RepoTags") or () if tag != "<none>:<none>"),
                entry.get("Labels") or {},
                int(entry.get("Created") or 0),
            )
            for entry in listed
        ]

    def inspect(self, reference: str) -> dict[str, Any] | None:
        """What the engine knows about an image, as ``GET /images/NAME/json`` answers; None where it has no such one."""
        import docker.errors

        with self.errors():
            try:
                found: dict[str, Any] = self.api.inspect_image(reference)
            except docker.errors.NotFound:
                return None
            return found

    def tag(self, image_id: str, reference: str) -> None:
        """Give an image one more name, ``REPOSITORY:TAG``, taking it away from any other image."""
        repository, _, tag = reference.rpartition(":")
        with self.errors():
            self.api.tag(image_id, repository, tag, force=True)

    def pull(self, reference: str, credentials: Credentials) -> str:
        """Fetch an image from its registry; its id. Other names that the engine has for it stay.

        :raises EngineError: the registry does not have it, or does not give it away.
        """
        parsed = Reference.parse(reference)
        credential = credentials.for_host(parsed.registry)
        login = {"username": credential.username, "password": credential.password} if credential else None
        if credential and credential.identity_token:
            login = {"identitytoken": credential.identity_token}
        with self.errors():
            # An error after the first line of the answer is only a line of it.
            for line in self.api.pull(parsed.name, tag=parsed.target, stream=True, decode=True, auth_config=login):
                if "error" in line:
                    raise EngineError(
                        f"the engine cannot pull {reference} ({line['error']})", "see whether it is there"
                    )
        found = self.inspect(reference)
        if found is None:
            raise EngineError(f"the engine pulled {reference} and does not have it", "run again")
        return str(found["Id"])

    def untag(self, reference: str) -> None:
        """Take a name away; the image stays as long as it has another one. Nothing where there is no such name."""
        import docker.errors

        with self.errors(), suppress(docker.errors.NotFound):
            self.api.remove_image(reference, noprune=True)

    def errors(self) -> AbstractContextManager[None]:
        """A context in which what the SDK and the layers below it raise becomes one of our errors."""
        return _errors(self.address)

    def dial(self) -> socket.socket:
        """A new connection to the engine's API without a time limit, for what the SDK cannot do: upgrades, streams."""
        url = self._url
        with self.errors():
            if url.scheme == "http+unix":
                return dialing.dial_unix(url.path)
            if url.scheme == "ssh":
                return dialing.dial_ssh(url)
            host = url.hostname or ""
            if url.scheme == "https":
                return dialing.dial_tls(host, url.port or 2376, self._tls)
            return dialing.dial_tcp(host, url.port or 2375)


def _api(url: urllib.parse.SplitResult, options: dict[str, Any]) -> Any:
    from docker.constants import DEFAULT_DOCKER_API_VERSION

    # Left alone, the SDK asks for the version while it is made, before it can be told how to connect.
    with closing(_client(url, options, DEFAULT_DOCKER_API_VERSION)) as client:
        version = client.version(api_version=False)["ApiVersion"]
    return _client(url, options, version)


def _client(url: urllib.parse.SplitResult, options: dict[str, Any], version: str) -> Any:
    import docker

    dial = {"http+unix": lambda: dialing.dial_unix(url.path), "ssh": lambda: dialing.dial_ssh(url)}.get(url.scheme)
    if dial:
        options = {"base_url": "http://engine:80"}
    client = docker.APIClient(**options, version=version, timeout=_TIMEOUT, max_pool_size=_POOL)
    # Proxies, and REQUESTS_CA_BUNDLE, which would win over DOCKER_CERT_PATH, are for the world outside.
    client.trust_env = False
    if dial:
        client.mount("http://engine", dialing.sdk_adapter(dial, _POOL))
    return client


@contextmanager
def _errors(address: str) -> Iterator[None]:
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    try:
        yield
    except docker.errors.APIError as error:
        raise EngineError(f"the engine at {address} answers {error.explanation or error}") from None
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: BaseException) -> Unreachable:
    cause = _root_cause(error)
    if isinstance(cause, PermissionError) or getattr(cause, "errno", None) == errno.EACCES:
        return Unreachable(f"permission denied on the engine's socket, {address}", "add the user to group docker")
    return Unreachable(f"no engine answers at {address} ({getattr(cause, 'strerror', None) or cause})", _START)


def _root_cause(error: BaseException) -> BaseException:
    while True:
        nested = [error.__cause__, error.__context__, *error.args, getattr(error, "reason", None)]
        inner = next((n for n in nested if isinstance(n, BaseException) and n is not error), None)
        if inner is None:
            return error
        error = inner
