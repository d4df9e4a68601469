"""dulwich's client for http and https, extended to connect and log in as git does.

dulwich makes two requests: ``GET info/refs`` for the refs, and ``POST git-receive-pack`` for the push. It gets a
replacement for urllib3's pool, which sends each of them where git would:

* the URL is that of the remote, or the one that the first request was redirected to, with the request's own part
  appended; a query in the remote's URL stays before it, as with git
* after a 401 response the credential helpers and the askpass program are asked, once, and the helpers get the result
* a login goes only to the server that it is for, not to the target of a redirect
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from buildtools.git.address import without_login
from buildtools.git.config import Config
from buildtools.git.tagging.cookies import cookie_header
from buildtools.git.tagging.exchange import ExchangeFailure
from buildtools.git.tagging.http_settings import HttpProxy, invalid_proxy, read_http_settings
from buildtools.git.tagging.login import Login, LoginSources
from buildtools.git.tagging.remote_settings import RemoteSettings
from buildtools.request_log import Stopwatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    import urllib3
    from dulwich.client import Urllib3HttpGitClient

# A host that drops packets would block the run for minutes; one that is up accepts a connection within seconds. A hook
# may run for minutes before the remote sends its first byte. Beyond either limit the remote counts as unreachable.
_CONNECT_SECONDS, _READ_SECONDS = 30, 300
_REFS, _PUSH = "info/refs", "git-receive-pack"
_OK, _UNAUTHORIZED, _NOT_FOUND, _PROXY_LOGIN, _TOO_MANY = 200, 401, 404, 407, 429
_SERVER_ERRORS = 500


class AccessDenied(Exception):
    """The server requires a login, and none was found, or it was not accepted."""


@contextmanager
def http_client(
    url: SplitResult, remote: RemoteSettings, config: Config, environment: Mapping[str, str]
) -> Iterator[Urllib3HttpGitClient]:
    """A client for a URL; its connections are closed when the block ends.

    It retries nothing: exit code 4 leaves that to the caller of the task.

    :raises Refused: if a setting is not supported.
    """
    from dulwich.client import Urllib3HttpGitClient

    requests = _Requests(url, remote, config, environment)
    with warnings.catch_warnings():
        # A user who sets http.sslVerify to false knows it.
        warnings.filterwarnings("ignore", "Unverified HTTPS request")
        try:
            yield Urllib3HttpGitClient(
                "http://remote/",
                pool_manager=requests,  # type: ignore[arg-type]  # it has every attribute that dulwich uses
            )
        finally:
            requests.close()


class _Requests:
    """Sends the requests and closes all responses; dulwich leaves those open that it treats as errors."""

    def __init__(
        self, url: SplitResult, remote: RemoteSettings, config: Config, environment: Mapping[str, str]
    ) -> None:
        self.headers: dict[str, str] = {}
        self._config, self._environment = config, environment
        self._settings = read_http_settings(url, remote, config, environment)
        self._logins = LoginSources(config, environment, url)
        self._login = self._logins.from_files()
        self._url = _without_user(url)
        self._pool = self._open_pool()
        self._responses: list[urllib3.BaseHTTPResponse] = []

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request of dulwich's to the remote. ``url`` only shows which of the two it is."""
        response = self._send(method, headers, body, options)
        if response.status == _UNAUTHORIZED:
            self._login = self._logins.from_programs()
            if self._login:
                response = self._send(method, headers, body, options)
                (self._logins.reject if response.status == _UNAUTHORIZED else self._logins.approve)(self._login)
            if response.status == _UNAUTHORIZED:
                raise AccessDenied
        if response.status == _PROXY_LOGIN:
            raise ExchangeFailure("the proxy requires a login", permanent=True)
        if response.status not in (_OK, _NOT_FOUND):
            raise ExchangeFailure(
                f"HTTP status {response.status} {response.reason or ''}".rstrip(),
                after_refs=body is not None,
                permanent=response.status < _SERVER_ERRORS and response.status != _TOO_MANY,
            )
        # Redirects are handled here; dulwich would compare the final URL with its own.
        response.url = url
        return response

    def _send(
        self, method: str, headers: Mapping[str, str], body: bytes | None, options: Mapping[str, Any]
    ) -> urllib3.BaseHTTPResponse:
        import urllib3

        base = self._url.geturl()
        end = _PUSH if body is not None else f"{_REFS}{'&' if '?' in base else '?'}service={_PUSH}"
        redirects = self._settings.redirects[body is not None]
        url = f"{base.removesuffix('/')}/{end}"
        watch = Stopwatch()
        try:
            response = self._pool.request(
                method,
                url,
                headers=self._all_headers(headers),
                body=body,
                retries=urllib3.Retry(
                    connect=0, read=0, status=0, other=0, redirect=redirects, raise_on_redirect=False
                ),
                redirect=redirects > 0,
                **options,
            )
        except urllib3.exceptions.HTTPError as error:
            watch.log("git", method, url, type(error).__name__)
            raise ExchangeFailure(_reason(error), after_refs=body is not None) from error
        watch.log("git", method, url, response.status, sent=len(body or b""))
        self._responses.append(response)
        for step in response.retries.history if response.retries and body is None else ():
            url = urljoin(url, step.redirect_location or "")
        if body is None:
            self._follow(url, end)
        return response

    def _follow(self, url: str, end: str) -> None:
        """Send the push to where the refs came from, if that was another server or path."""
        base = urlsplit(url.removesuffix(end))
        if not url.endswith(end):
            raise ExchangeFailure(f"redirected to {without_login(url)}, which is not a git repository", permanent=True)
        if _origin(base) != _origin(self._url):
            self._logins = LoginSources(self._config, self._environment, base)
            self._login = self._logins.from_files()
        self._url = _without_user(base)

    def _all_headers(self, headers: Mapping[str, str]) -> urllib3.HTTPHeaderDict:
        from urllib3 import HTTPHeaderDict

        result = HTTPHeaderDict({**headers, "User-Agent": self._settings.user_agent})
        if self._login:
            result["Authorization"] = _basic(self._login)
        cookies = cookie_header(self._settings.cookie_file, self._url) if self._settings.cookie_file else ""
        if cookies:
            result["Cookie"] = cookies
        extra = [line.partition(":") for line in self._settings.headers]
        for name, _, _ in extra:
            result.discard(name)
        for name, colon, value in extra:
            if colon and value.strip():
                result.add(name, value.strip().encode("utf-8", "surrogateescape").decode("latin-1"))
        return result

    def _open_pool(self) -> urllib3.PoolManager:
        import urllib3

        settings = self._settings
        options: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            "cert_reqs": "CERT_REQUIRED" if settings.verify else "CERT_NONE",
            "ca_certs": settings.authorities or None,
            "ca_cert_dir": settings.authority_folder or None,
            "cert_file": settings.certificate or None,
            "key_file": settings.key or None,
        }
        if settings.proxy is None:
            return urllib3.PoolManager(**options)
        login = self._proxy_login(settings.proxy)
        headers = {"Proxy-Authorization": _basic(login)} if login else None
        try:
            return urllib3.ProxyManager(settings.proxy.url, proxy_headers=headers, **options)
        except urllib3.exceptions.LocationParseError:
            raise invalid_proxy() from None

    def _proxy_login(self, proxy: HttpProxy) -> Login | None:
        if proxy.login is None or proxy.login.password:
            return proxy.login
        url = urlsplit(proxy.url)
        url = url._replace(netloc=f"{quote(proxy.login.user, safe='')}@{url.netloc}")
        return LoginSources(self._config, self._environment, url).from_programs() or proxy.login

    def close(self) -> None:
        for response in self._responses:
            response.close()
        self._pool.clear()


def _without_user(url: SplitResult) -> SplitResult:
    """The URL without its login, which is sent in a header."""
    return url._replace(netloc=url.netloc.rpartition("@")[2])


def _reason(error: Exception) -> str:
    """The innermost error that urllib3 wraps, as text."""
    cause = getattr(error, "reason", None) or getattr(error, "original_error", None)
    return _reason(cause) if isinstance(cause, Exception) else str(error)


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _basic(login: Login) -> str:
    # urllib3 would encode it as Latin-1; git uses UTF-8.
    octets = f"{login.user}:{login.password}".encode("utf-8", "surrogateescape")
    return f"Basic {base64.b64encode(octets).decode()}"
