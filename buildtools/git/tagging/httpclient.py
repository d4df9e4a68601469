"""dulwich's client for http and https, configured as git is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from buildtools.git.config import Config
from buildtools.git.tagging.login import Login, library_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    import urllib3
    from dulwich.client import Urllib3HttpGitClient

# A host that drops packets would hold the run for minutes; one that is up accepts a connection within seconds. A hook
# may run for minutes before the remote sends its first byte. Past either limit the remote counts as unreachable.
_CONNECT_SECONDS, _READ_SECONDS = 30, 300


class _Requests:
    """Makes requests, and closes all their responses: dulwich leaves those open that it treats as errors."""

    def __init__(self, manager: urllib3.PoolManager) -> None:
        self.headers = manager.headers
        self._manager = manager
        self._responses: list[urllib3.BaseHTTPResponse] = []

    def request(self, *arguments: Any, **options: Any) -> urllib3.BaseHTTPResponse:
        self._responses.append(self._manager.request(*arguments, **options))
        return self._responses[-1]

    def close(self) -> None:
        for response in self._responses:
            response.close()
        self._manager.clear()


@contextmanager
def http_client(
    url: str, login: Login | None, config: Config, environment: Mapping[str, str]
) -> Iterator[Urllib3HttpGitClient]:
    """A client for a URL without user name and password; its connections are closed with the block.

    It follows redirects but retries nothing: the caller of a task decides about that by exit code 4.
    """
    import urllib3
    from dulwich.client import Urllib3HttpGitClient, default_urllib3_manager

    values = library_config(config)
    authorities = environment.get("GIT_SSL_CAINFO") or config.path("http.sslcainfo", environment.get("HOME", ""))
    if authorities:
        values.set((b"http",), b"sslCAInfo", authorities.encode("utf-8", "surrogateescape"))
    if "GIT_SSL_NO_VERIFY" in environment:
        values.set((b"http",), b"sslVerify", b"false")
    options: dict[str, Any] = {
        "retries": urllib3.Retry(connect=0, read=0, status=0, other=0, redirect=5),
        "timeout": urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
    }
    manager = default_urllib3_manager(
        values,
        pool_manager_cls=partial(urllib3.PoolManager, **options),  # type: ignore[arg-type]  # it is only called
        proxy_manager_cls=partial(urllib3.ProxyManager, **options),  # type: ignore[arg-type]  # it is only called
        base_url=url,
    )
    requests = _Requests(manager)  # type: ignore[arg-type]  # a manager of another kind comes from a callback only
    user, password = (_latin1(login.user), _latin1(login.password)) if login else (None, None)
    try:
        yield Urllib3HttpGitClient(
            url,
            config=values,
            pool_manager=requests,  # type: ignore[arg-type]  # it has every attribute that dulwich uses
            username=user,
            password=password,
        )
    finally:
        requests.close()


def _latin1(text: str) -> str:
    # urllib3 encodes a login as Latin-1, git as UTF-8.
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
