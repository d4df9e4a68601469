"""How git connects to an http(s) URL: proxy, certificates, headers, cookies, redirects.

https://git-scm.com/docs/git-config#Documentation/git-config.txt-httpproxy and the keys after it. Each may be set for
certain URLs only; see :mod:`buildtools.git.tagging.url_match`. Proxies follow curl, because git leaves them to curl:
https://everything.curl.dev/usingcurl/proxies/env.html.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from buildtools import Refused, __version__
from buildtools.frozen import frozen
from buildtools.git.config import Config
from buildtools.git.tagging.login import Login
from buildtools.git.tagging.remote_settings import RemoteSettings
from buildtools.git.tagging.url_match import matching_values

# https://curl.se/libcurl/c/CURLOPT_PROXY.html
_PROXY_PORTS = {"http": 1080, "https": 443}
_BASIC_METHODS = ("", "anyauth", "basic")


@frozen
class HttpProxy:
    """``url`` is scheme, host and port; ``login`` is ``None`` if the proxy needs none."""

    url: str
    login: Login | None


@frozen
class HttpSettings:
    """The settings for one URL. ``redirects`` is how many to follow for the refs, and for the push.

    Paths are empty for the default. ``headers`` are lines such as ``Name: value``.
    """

    proxy: HttpProxy | None
    headers: tuple[str, ...]
    user_agent: str
    cookie_file: str
    verify: bool
    authorities: str
    authority_folder: str
    certificate: str
    key: str
    redirects: tuple[int, int]


def read_http_settings(
    url: SplitResult, remote: RemoteSettings, config: Config, environment: Mapping[str, str]
) -> HttpSettings:
    """The settings for one URL.

    :raises Refused: if one of them is invalid or not supported.
    """
    values = matching_values(config, "http", url.geturl())
    home = environment.get("HOME", "")

    def path(variable: str, key: str) -> str:
        place = environment.get(variable) or values.path(f"http.{key}", home) or ""
        if place and url.scheme == "https" and not os.access(place, os.R_OK):
            raise Refused(f"cannot read {place}, which http.{key} or {variable} names", "correct it, or unset it")
        return place

    if values.get("http.pinnedpubkey"):
        raise Refused("http.pinnedPubkey is not supported", "push with git, or unset it")
    return HttpSettings(
        proxy=_proxy(url, remote, values, environment),
        headers=tuple(values.get_list("http.extraheader")),
        user_agent=environment.get("GIT_HTTP_USER_AGENT")
        or values.get("http.useragent")
        or f"git/lockstep-buildtools-{__version__}",
        cookie_file=values.path("http.cookiefile", home) or "",
        verify="GIT_SSL_NO_VERIFY" not in environment and values.bool("http.sslverify", True),
        authorities=path("GIT_SSL_CAINFO", "sslcainfo"),
        authority_folder=path("GIT_SSL_CAPATH", "sslcapath"),
        certificate=path("GIT_SSL_CERT", "sslcert"),
        key=path("GIT_SSL_KEY", "sslkey"),
        redirects=_redirects(values),
    )


def _redirects(values: Config) -> tuple[int, int]:
    # The number that curl follows for git.
    most = 20
    if (values.get("http.followredirects") or "initial") == "initial":
        return most, 0
    return (most, most) if values.bool("http.followredirects") else (0, 0)


def _proxy(
    url: SplitResult, remote: RemoteSettings, values: Config, environment: Mapping[str, str]
) -> HttpProxy | None:
    text = remote.proxy if remote.proxy is not None else values.get("http.proxy")
    if text is None:
        # http_proxy is read in lower case only: a CGI program gets a request's Proxy header as HTTP_PROXY.
        names = ("https_proxy", "HTTPS_PROXY") if url.scheme == "https" else ("http_proxy",)
        text = next((environment[name] for name in (*names, "all_proxy", "ALL_PROXY") if name in environment), "")
    no_proxy = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    if not text or _is_exempt(url.hostname or "", no_proxy):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or _PROXY_PORTS.get(parts.scheme)
    except ValueError:
        host = None
    if not host or " " in host:
        raise invalid_proxy()
    if parts.scheme not in _PROXY_PORTS:
        raise Refused(f"the proxy scheme {parts.scheme} is not supported", "configure an http or https proxy")
    login = None
    if parts.username is not None:
        method = environment.get("GIT_HTTP_PROXY_AUTHMETHOD") or remote.proxy_auth_method
        method = method or values.get("http.proxyauthmethod") or ""
        if method.lower() not in _BASIC_METHODS:
            raise Refused(f"http.proxyAuthMethod {method} is not supported", "set it to basic, or push with git")
        login = Login(unquote(parts.username), unquote(parts.password or ""))
    return HttpProxy(f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}", login)


def invalid_proxy() -> Refused:
    """The error for a proxy URL. It does not quote the URL, which may contain a password."""
    return Refused("invalid proxy URL in http.proxy or the environment", "write it as http://HOST:PORT")


def _is_exempt(host: str, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` exempts a host from proxies. https://curl.se/libcurl/c/CURLOPT_NOPROXY.html

    A name matches the whole host name, or its end after a dot. Addresses and networks match by their bits. Ports are
    ignored.
    """
    if no_proxy.strip() == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().removesuffix(".")
        patterns = [pattern.lower().removesuffix(".").removeprefix(".") for pattern in re.split(r"[,\s]+", no_proxy)]
        return any(pattern and f".{name}".endswith(f".{pattern}") for pattern in patterns)
    return any(_contains(pattern, address) for pattern in re.split(r"[,\s]+", no_proxy))


def _contains(pattern: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(pattern.strip("[]"), strict=False)
    except ValueError:
        return False
