"""The HTTP proxy that the environment names, for connections to registries.

``HTTPS_PROXY`` and ``NO_PROXY``, in upper or lower case, are read like in Go, and therefore Docker:
https://pkg.go.dev/golang.org/x/net/http/httpproxy#Config. An entry of ``NO_PROXY`` is

* ``*``, which means every host,
* an IP address, or a network such as ``10.0.0.0/8``, for hosts given as IP addresses,
* a domain: ``example.com`` means it and all names below it, ``.example.com`` and ``*.example.com`` only those below.

All except networks may end with a port, which must then match.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import field
from urllib.parse import unquote, urlsplit

from buildtools import Refused
from buildtools.frozen import frozen

_DEFAULT_PORT = 80


@frozen
class Proxy:
    """A proxy for tunnels; ``headers`` are sent to it, and may contain a login."""

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a connection to a TLS server; None if none is needed.

    :raises Refused: if the proxy's address is invalid.
    """
    address = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    if not address or is_exempt(host, port, environment.get("NO_PROXY") or environment.get("no_proxy") or ""):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        proxy_port = parts.port or _DEFAULT_PORT
    except ValueError:
        proxy_port = 0
    if parts.scheme != "http" or not parts.hostname or not proxy_port:
        # Not quoted, because it may contain a password.
        raise Refused("HTTPS_PROXY is not the address of an HTTP proxy", "write it as http://HOST:PORT")
    if parts.username is None:
        return Proxy(parts.hostname, proxy_port)
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return Proxy(parts.hostname, proxy_port, {"Proxy-Authorization": f"Basic {base64.b64encode(login).decode()}"})


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``no_proxy``, entries separated by commas, exempts a host from the proxy.

    As in Go, ``localhost`` and every loopback address are always exempt.
    """
    name = host.strip("[]").rstrip(".").lower()
    address = _ip_address(name)
    if name == "localhost" or (address and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), name, address, port) for entry in no_proxy.split(","))


def _matches(entry: str, name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False) if "/" in entry else None
    except ValueError:
        return False
    if network:
        return address is not None and address in network
    # An IPv6 address has colons of its own.
    has_port = ":" in entry and not entry.endswith("]") and not _ip_address(entry)
    text, _, entry_port = entry.rpartition(":") if has_port else (entry, "", str(port))
    if entry_port != str(port):
        return False
    if entry_address := _ip_address(text.strip("[]")):
        return entry_address == address
    domain = text.removeprefix("*")
    return name.endswith(domain) if domain.startswith(".") else name == domain or name.endswith(f".{domain}")


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
