"""Registries behind a proxy: a real one behind a proxy that knows its name, as nobody else does."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from buildtools import Refused, Unreachable
from buildtools.image.registry.client import Registry
from buildtools.image.registry.proxy import proxy_for
from tests.contract.registries import make_certificate, own_registry
from tests.servers import Quiet, serving

NAME = "registry.example"


@dataclass
class Tunnels:
    """A proxy that brings everybody with the right login to one registry. ``asked`` is where they wanted to go."""

    registry: str
    address: str = ""
    login: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def tunnels(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Tunnels]:
    certificate, key = make_certificate(tmp_path, NAME)
    tls = {"certificate": str(certificate), "key": str(key)}
    with own_registry(tmp_path / "registry", environment, http={"tls": tls}) as own:
        tunnels = Tunnels(own.host)

        class Connect(Quiet, BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                tunnels.asked.append(self.path)
                wanted = f"Basic {base64.b64encode(tunnels.login.encode()).decode()}" if tunnels.login else None
                if self.headers.get("Proxy-Authorization") != wanted:
                    self.send_error(407)
                    return
                self.send_response(200)
                self.end_headers()
                with socket.create_connection(("127.0.0.1", own.port)) as far:
                    back = threading.Thread(target=carry, args=(far, self.connection))
                    back.start()
                    carry(self.connection, far)
                    back.join()
                self.close_connection = True

        with serving(Connect) as tunnels.address:
            yield tunnels


def carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def registry(folder: Path, **environment: str) -> closing[Registry]:
    return closing(Registry(NAME, ca=str(folder / "ca.crt"), environment=environment, pause=0.001))


def test_a_registry_is_reached_through_the_proxy(tunnels: Tunnels, tmp_path: Path) -> None:
    with registry(tmp_path, HTTPS_PROXY=f"http://{tunnels.address}") as client:
        digest = client.put_blob("app", b"data")
        assert b"data" == client.get_blob("app", digest)
    assert {f"{NAME}:443"} == set(tunnels.asked)


def test_a_proxy_that_wants_a_login_gets_it_and_it_is_not_told_to_others(tunnels: Tunnels, tmp_path: Path) -> None:
    tunnels.login = "me:p@ss"
    with registry(tmp_path, https_proxy=f"me:p%40ss@{tunnels.address}") as client:
        client.ping()
    with (
        registry(tmp_path, https_proxy=f"http://me:wrong@{tunnels.address}") as client,
        pytest.raises(Unreachable, match=rf"407 .*, through the proxy {tunnels.address}\)") as caught,
    ):
        client.ping()
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("spared", ["*", NAME, "other,.example", "example"])
def test_a_registry_that_is_spared_is_asked_directly(tunnels: Tunnels, tmp_path: Path, spared: str) -> None:
    # Outside the proxy nobody knows it.
    with (
        registry(tmp_path, HTTPS_PROXY=f"http://{tunnels.address}", NO_PROXY=spared) as client,
        pytest.raises(Unreachable, match=f"{NAME} cannot be reached"),
    ):
        client.ping()
    assert [] == tunnels.asked


def test_a_registry_on_this_machine_needs_no_proxy(tunnels: Tunnels, tmp_path: Path) -> None:
    environment = {"HTTPS_PROXY": f"http://{tunnels.address}"}
    with closing(Registry(tunnels.registry, ca=str(tmp_path / "ca.crt"), environment=environment)) as client:
        client.ping()
    assert [] == tunnels.asked


@pytest.mark.parametrize(
    ("host", "no_proxy", "exempt"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:444", False),
        ("10.1.2.3", "not/a/network", False),
        ("fd00::1", "fd00::/8", True),
        ("[fd00::1]", "fd00::1", True),
        ("fd00::1", "[fd00::1]", True),
        ("fd00::1", "[fd00::1]:443", True),
        ("fd00::1", "[fd00::1]:444", False),
        ("fd00::1", "10.0.0.0/8", False),
        ("::1", "", True),
        ("127.9.9.9", "", True),
        ("localhost", "", True),
        ("registry.example.com", "example.com", True),
        ("registry.example.com", "EXAMPLE.com:443", True),
        ("registry.example.com", "example.com:5000", False),
        ("registry.example.com", " other , .example.com", True),
        ("registry.example.com", "*.example.com", True),
        ("example.com", "example.com", True),
        ("example.com", ".example.com", False),
        ("anexample.com", "example.com", False),
        ("registry.example.com.", "example.com", True),
        ("registry.example.com", "*", True),
        ("registry.example.com", ",,", False),
    ],
)
def test_hosts_are_exempt_by_the_rule_of_go(host: str, no_proxy: str, exempt: bool) -> None:
    proxy = proxy_for(host, 443, {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": no_proxy})
    assert exempt == (proxy is None)


def test_looking_for_a_proxy_changes_nothing_of_the_process() -> None:
    before = dict(os.environ)
    assert proxy_for(NAME, 443, {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": "internal.example"})
    assert before == dict(os.environ)


@pytest.mark.parametrize("address", ["socks5://me:secret@proxy.example", "http://", "http://proxy.example:none"])
def test_an_address_that_is_not_a_proxys_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(Refused, match="HTTPS_PROXY is not the address of an HTTP proxy") as caught:
        proxy_for(NAME, 443, {"HTTPS_PROXY": address})
    assert "secret" not in str(caught.value)
