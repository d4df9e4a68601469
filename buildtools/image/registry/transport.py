"""Requests to one registry: keep-alive connections, TLS, authorization, and retries where they can help."""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import json
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin, urlsplit

from buildtools import BuildToolsError, Refused, Unreachable, __version__
from buildtools.cancellation import SignalSafeEvent
from buildtools.image.docker.credentials import Credential, Credentials
from buildtools.image.http.connections import Connections
from buildtools.image.http.dialing import connected
from buildtools.image.http.responses import Destination, Response
from buildtools.image.reference import DOCKER_HUB
from buildtools.image.registry.auth import Authenticator, read_challenges, refused
from buildtools.image.registry.proxy import proxy_for

# Docker's folder for the certificate authorities of registries (NAME.crt) and client certificates (NAME.cert,
# NAME.key): https://docs.docker.com/engine/security/certificates/
CERTIFICATES = Path("/etc/docker/certs.d")

ATTEMPTS = 5
_CONNECT_SECONDS = 10.0
# How long a registry may be silent. Then it is asked again, and after two minutes in all this counts as an outage: a
# job at night must not wait for a server that accepts a request and never answers. After a large blob a registry reads
# it once more before it answers, so it gets more time by the blob's size.
_READ_SECONDS = 60.0
_PATIENCE = 120.0
_LONGEST_PAUSE = 10.0
_LONGEST_RETRY_AFTER = 60.0
_REDIRECTS = 5
_LONGEST_SAYING = 300
# By OpenSSL's numbers: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_CERTIFICATE_REMEDIES = {
    9: "set this machine's clock",
    10: "renew it, or set this machine's clock",
    **dict.fromkeys((62, 64), "name the registry by a host that is in its certificate"),
}
# What OpenSSL says of an answer to its greeting that is plain text.
_NO_TLS = "WRONG_VERSION_NUMBER"
_OUT_OF_REACH = ("cannot be reached", "check that it runs and can be reached from here")
_BROKEN = ("fails", "see its log, and whether its disk is full")
_FAILURES = {
    429: ("allows no more requests for now", "wait, or log in as a user who may send more"),
    500: _BROKEN,
    507: _BROKEN,
}
_CLIENT = f"lockstep-buildtools/{__version__}"

Body = bytes | Callable[[], Generator[bytes, None, None]]


class Transport:
    """Sends requests to the registry at ``host``. Thread-safe.

    It uses https. Only on loopback, or if ``plain_http`` allows it, does it fall back to http for a server without TLS.
    ``ca`` is a file of additional certificate authorities, ``environment`` may name a proxy. ``pause`` is the first of
    the growing waits between attempts, in seconds.
    """

    def __init__(
        self,
        host: str,
        credentials: Credentials | None,
        *,
        plain_http: bool = False,
        ca: str = "",
        certificates: Path = CERTIFICATES,
        environment: Mapping[str, str] = MappingProxyType({}),
        pause: float = 0.25,
    ) -> None:
        self.host = host
        self._environment = environment
        self._address = f"registry-1.{DOCKER_HUB}" if host == DOCKER_HUB else host
        self._credentials = credentials
        self._may_be_plain = plain_http or _is_loopback(self._address)
        self._ca = [Path(ca)] if ca else sorted((certificates / host).glob("*.crt"))
        self._client_certificate = next(iter(sorted((certificates / host).glob("*.cert"))), None)
        self._pause = pause
        self._lock = threading.Lock()
        self._aborted = SignalSafeEvent()
        self._base = ""
        self._connections: dict[tuple[str, str], tuple[Connections, str]] = {}
        self._authenticator = Authenticator(host, lambda: self.credential, self._ask, plain_http=self._may_be_plain)

    def close(self) -> None:
        """Close all connections."""
        for connections, _ in self._connections.values():
            connections.close()

    def abort(self) -> None:
        """Abort all requests; threads that wait for the registry get :class:`Unreachable`, now and from now on."""
        self._aborted.set()
        for connections, _ in list(self._connections.values()):
            connections.abort()

    def request(
        self,
        method: str,
        url: str,
        *,
        expected: Collection[int],
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        attempts: int = ATTEMPTS,
        is_outage: Callable[[Response], bool] = lambda _: False,
        seconds: float = 0.0,
        keep: bool = True,
        destination: Destination | None = None,
    ) -> Response:
        """The response, whose status is one of ``expected``. ``url`` may be a path.

        A ``body`` that is a function is called for every attempt. ``is_outage`` recognizes a response that is worth
        another attempt whatever its status. A web page is, because it comes from something before the registry, unless
        that refuses the size of the request (413). ``seconds`` overrides how long the registry may be silent. Unless
        ``keep``, the body is only measured; a body with a ``destination`` goes there, and a second attempt would write
        it again.

        :raises Unreachable: if there is no response, or only 429, 5xx and outages, in all attempts or within two
            minutes.
        :raises Refused: if the registry, or its token service, rejects the login or denies permission; or TLS is not
            trusted.
        :raises BuildToolsError: for any other status.
        """
        attempt, began = 0, time.monotonic()
        while True:
            if self._aborted.is_set():
                raise Unreachable(f"the connection to registry {self.host} was cancelled", "run the same command again")
            attempt += 1
            status = 0
            try:
                response = self._send_authorized(
                    method, url, scope, headers, body, attempt, seconds, keep=keep, destination=destination
                )
            except _Interrupted as error:
                failure, wait = error.reason, 0.0
            else:
                status = response.status
                if _is_web_page(response) and status < 500 and status != 413:
                    failure, wait = f"it answers {status} with a web page", 0.0
                elif is_outage(response):
                    failure, wait = f"it answers {reason_of(response)}", 0.0
                elif status in expected:
                    return response
                elif status == 429 or status >= 500:
                    failure, wait = f"it answers {reason_of(response)}", _retry_after(response)
                else:
                    raise self._error(method, url, scope, response, body)
            if attempt >= attempts or time.monotonic() - began >= _PATIENCE:
                fact, remedy = _FAILURES.get(status, _OUT_OF_REACH)
                remedy = f"{remedy}, then run the same command again"
                raise Unreachable(f"the registry {self.host} {fact} ({failure})", remedy)
            self.wait(attempt, wait)

    def _error(self, method: str, url: str, scope: str, response: Response, body: Body) -> BuildToolsError:
        """The error for an unexpected status that is not worth another attempt."""
        reason = reason_of(response)
        if response.status in (401, 403):
            challenge = _challenge(response)
            if response.status == 401 and challenge and not read_challenges(challenge):
                reason = (
                    f"{reason}; it asks for a login by {challenge.split()[0][:_LONGEST_SAYING]}, which is not supported"
                )
            return refused(self.host, scope, reason, self.credential)
        if response.status == 413:
            size = f" of {len(body)} bytes" if isinstance(body, bytes) else ""
            return BuildToolsError(
                f"the registry {self.host} does not accept a request{size} ({reason})",
                "raise its limit for uploads, or that of the proxy before it (nginx: client_max_body_size)",
            )
        # The word is in the messages of ECR, Harbor, Quay and others.
        remedy = "exempt this tag from its rule for immutable tags" if "immutable" in reason else "look at its log"
        return BuildToolsError(f"the registry {self.host} answers {method} {urlsplit(url).path} with {reason}", remedy)

    def wait(self, attempt: int, least: float = 0.0) -> None:
        """Wait after the attempt with this number, at least ``least`` seconds; return at once if aborted."""
        self._aborted.wait(max(least, self.backoff(attempt)))

    def backoff(self, attempt: int) -> float:
        """How long to wait after the attempt with this number (from 1), in seconds: it grows, with jitter."""
        return min(self._pause * 2.0 ** (attempt - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 jitter

    def resolve(self, location: str) -> str:
        """The URL in a ``Location`` header of the registry.

        If it is the registry's own, it keeps our scheme, because a registry behind a TLS proxy tends to call itself
        http.
        """
        parts = urlsplit(urljoin(self._origin(), location))
        if parts.netloc == self._address:
            return parts._replace(scheme=urlsplit(self._origin()).scheme).geturl()
        return parts.geturl()

    @property
    def credential(self) -> Credential | None:
        """The credential for the login; None if there is none."""
        return self._credentials.for_host(self.host) if self._credentials else None

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        began = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._send(method, url, headers, body, attempt)
            except _Interrupted as error:
                failure, wait = error.reason, 0.0
            else:
                if response.status != 429 and response.status < 500 and not _is_web_page(response):
                    return response.status, response.data
                failure, wait = f"it answers {response.status}", _retry_after(response)
            is_late = attempt == ATTEMPTS or time.monotonic() - began >= _PATIENCE
            if is_late or self._aborted.wait(max(wait, self.backoff(attempt))):
                break
        raise Unreachable(
            f"the token service {url.partition('?')[0]} of the registry {self.host} cannot be reached ({failure})",
            "check that it runs and can be reached from here, then run the same command again",
        )

    def _send_authorized(
        self,
        method: str,
        url: str,
        scope: str,
        headers: Mapping[str, str] | None,
        body: Body,
        attempt: int,
        seconds: float,
        **reading: Any,
    ) -> Response:
        target = self._origin() + url[1:] if url.startswith("/") else url
        # The first 401 shows how to authenticate, the second that a cached token has expired.
        renewals = 2
        for _ in range(_REDIRECTS):
            ours = target.startswith(self._origin())
            authorization = self._authenticator.header(scope) if ours else ""
            fields = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
            answer = self._send(method, target, fields, body, attempt, seconds, **reading)
            if answer.status == 401 and ours and renewals:
                renewals -= 1
                if self._authenticator.challenged(_challenge(answer), scope, authorization):
                    continue
            # Blobs may be elsewhere; the login is never sent there. Other methods than these may keep to 307 and 308.
            if answer.status in (307, 308) or (answer.status in (301, 302, 303) and method in ("GET", "HEAD")):
                target = urljoin(target, answer.header("Location", ""))
                continue
            break
        return answer

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body,
        attempt: int,
        seconds: float = 0.0,
        **reading: Any,
    ) -> Response:
        data = body() if callable(body) else body
        through = ""
        try:
            connections, through, target = self._connections_to(url)
            fields = {"User-Agent": _CLIENT, **headers}
            return connections.request(method, target, fields, data, attempt=attempt, seconds=seconds, **reading)
        except ssl.SSLCertVerificationError as error:
            remedy = _CERTIFICATE_REMEDIES.get(
                error.verify_code,
                f"set registry_ca to its certificate authority, or put that into {CERTIFICATES / self.host / 'ca.crt'}",
            )
            raise Refused(f"the certificate of {self.host} is not trusted ({_reason(error)})", remedy) from None
        # ValueError is raised for an invalid address.
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Any alert about certificates: required, unknown, bad, expired, revoked.
            if isinstance(error, ssl.SSLError) and re.search("ALERT.*CERTIFICATE", error.reason or ""):
                raise Refused(
                    f"the registry {self.host} requires a client certificate that it trusts ({_reason(error)})",
                    f"put one into {CERTIFICATES / self.host}, as client.cert and client.key",
                ) from None
            if isinstance(error, ssl.SSLError) and error.reason == _NO_TLS and url.startswith(self._origin()):
                raise Refused(
                    f"the registry {self.host} does not speak TLS",
                    "set registry_plain_http = true if it is meant to speak plain http",
                ) from None
            raise _Interrupted(_reason(error) + through) from None
        finally:
            if not isinstance(data, bytes):
                data.close()

    def _connections_to(self, url: str) -> tuple[Connections, str, str]:
        """The connections to a URL's server, what to add to errors about a proxy, and the target to request."""
        # Most requests go to a known server; its part of the URL need not be parsed again.
        scheme, _, rest = url.partition("://")
        address, _, path = rest.partition("/")
        if known := self._connections.get((scheme, address)):
            return (*known, f"/{path}")
        server = urlsplit(url)
        host, port = server.hostname or "", server.port
        proxy = None
        if server.scheme == "https" and host and not _is_loopback(server.netloc):
            proxy = proxy_for(host, port or 443, self._environment)

        def plain() -> socket.socket:
            return connected(host, port or 80, _CONNECT_SECONDS)

        def tls() -> socket.socket:
            at = (proxy.host, proxy.port) if proxy else (host, port or 443)
            entry = http.client.HTTPSConnection(*at, timeout=_CONNECT_SECONDS, context=self._tls_context)
            if proxy:
                entry.set_tunnel(host, port or 443, proxy.headers)
            entry.connect()
            return entry.sock

        dial = {"http": plain, "https": tls}.get(server.scheme)
        if not (host and dial):
            raise ValueError(f"{server.geturl()} is not the address of a server")
        name = server.netloc.rpartition("@")[2]
        origin = f"{server.scheme}://{name}"
        connections = Connections(dial, name, _READ_SECONDS, service="registry", origin=origin)
        entry = connections, f", through the proxy {proxy}" if proxy else ""
        target = server._replace(scheme="", netloc="").geturl() or "/"
        return (*self._connections.setdefault((server.scheme, server.netloc), entry), target)

    def _origin(self) -> str:
        with self._lock:
            if not self._base:
                scheme = "http" if self._may_be_plain and not self._speaks_tls() else "https"
                self._base = f"{scheme}://{self._address}/"
            return self._base

    def _speaks_tls(self) -> bool:
        parts = urlsplit(f"//{self._address}")
        # The first real request will verify the certificate.
        anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anything.check_hostname = False
        anything.verify_mode = ssl.CERT_NONE
        for port in [parts.port] if parts.port else [443, 80]:
            try:
                with connected(parts.hostname or "", port, _CONNECT_SECONDS) as raw:
                    anything.wrap_socket(raw).close()
            except (ssl.SSLError, ConnectionResetError):
                return False
            except OSError as error:
                failure = _reason(error)
            else:
                return True
        raise _Interrupted(failure)

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        for authority in self._ca:
            try:
                context.load_verify_locations(authority)
            except OSError as error:
                raise Refused(
                    f"{authority} cannot be read as certificates ({error.strerror or error})",
                    "it must be a PEM file of the registry's certificate authority",
                ) from None
        if self._client_certificate:
            key = self._client_certificate.with_suffix(".key")
            try:
                context.load_cert_chain(self._client_certificate, key)
            except OSError as error:
                raise Refused(
                    f"{self._client_certificate} and {key} cannot be used ({error.strerror or error})",
                    "they must be PEM files of a certificate for this registry and of its key",
                ) from None
        return context


class _Interrupted(Exception):
    """A connection could not be made, or broke."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _is_web_page(response: Response) -> bool:
    return response.header("Content-Type").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def _challenge(answer: Response) -> str:
    """All challenges of a 401 response, which may be in several headers."""
    return ", ".join(answer.header_values("WWW-Authenticate"))


def _is_loopback(address: str) -> bool:
    name = urlsplit(f"//{address}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def reason_of(answer: Response) -> str:
    """The status and the first message of an error response.

    https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
    """
    try:
        first = json.loads(answer.data)["errors"][0]
        text = f": {first.get('message') or first.get('code')}".rstrip(".")
        # Distribution says no more than "unknown error" of its disk, and gives the number of the system's error.
        with suppress(KeyError, TypeError, OverflowError):
            text += f" ({os.strerror(first['detail']['Enclosed']['Err'])})"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        text = ""
    return f"{answer.status}{text}"[:_LONGEST_SAYING]


def _retry_after(answer: Response) -> float:
    """The wait that the response asks for (RFC 9110, 10.2.3), in seconds, up to our limit."""
    value = answer.header("Retry-After", "")
    if value.isdigit():
        wait = float(value)
    else:
        try:
            wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            wait = 0.0
    return min(max(wait, 0.0), _LONGEST_RETRY_AFTER)
