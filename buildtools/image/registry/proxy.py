"""The way out through an HTTP proxy, where the environment names one.

``HTTPS_PROXY`` and ``NO_PROXY``, in capitals or not, as Go, curl and so Docker read them:
https://pkg.go.dev/golang.org/x/net/http/httpproxy#FromEnvironment
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import field
from urllib.parse import unquote, urlsplit

from buildtools import Refused
from buildtools.frozen import frozen

_DEFAULT_PORT = 80


@frozen
class Proxy:
    """A proxy that makes tunnels; ``headers`` are what it is shown, which may be a login."""

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to a server that speaks TLS; None where there is to be none.

    :raises Refused: what the environment names cannot be used.
    """
    named = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    if not named:
        return None
    from requests.utils import should_bypass_proxies

    if should_bypass_proxies(f"https://{host}:{port}", environment.get("NO_PROXY") or environment.get("no_proxy")):
        return None
    parts = urlsplit(named if "://" in named else f"http://{named}")
    try:
        at = parts.port or _DEFAULT_PORT
    except ValueError:
        at = 0
    if parts.scheme != "http" or not parts.hostname or not at:
        # It is not quoted: it may hold a password.
        raise Refused("HTTPS_PROXY is no address of a proxy", "write it as http://HOST:PORT")
    if parts.username is None:
        return Proxy(parts.hostname, at)
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return Proxy(parts.hostname, at, {"Proxy-Authorization": f"Basic {base64.b64encode(login).decode()}"})
