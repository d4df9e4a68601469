"""Registries of every kind, each a real one: with TLS from a private authority, with a token service, or one's own."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from buildtools.sandbox import process
from tests.servers import Quiet, serving

USER, PASSWORD, IDENTITY = "builder", "a-password", "an-identity-token"


@dataclass(frozen=True)
class OwnRegistry:
    """A registry of a test's own, with its folder, which may be stopped and started again."""

    folder: Path
    port: int
    environment: Mapping[str, str]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        return self.folder / "store/docker/registry/v2"

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        value = digest.removeprefix("sha256:")
        return self.store / "blobs/sha256" / value[:2] / value / "data"

    def start(self, **options: Any) -> None:
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "store")},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            **options,
            "http": {"addr": self.host, **options.get("http", {})},
        }
        file = self.folder / "registry.yml"
        file.write_text(json.dumps(config))
        process.start(
            "own-registry",
            ["docker-registry", "serve", str(file)],
            self.folder,
            environment=self.environment,
            answers=lambda: _listens(self.port),
        )

    def stop(self) -> None:
        process.stop("own-registry", self.folder)


@contextmanager
def own_registry(folder: Path, environment: Mapping[str, str], **options: Any) -> Iterator[OwnRegistry]:
    """A registry with these parts of its configuration, for as long as the context lasts."""
    folder.mkdir(exist_ok=True)
    (port,) = process.free_ports(1)
    registry = OwnRegistry(folder, port, environment)
    registry.start(**options)
    try:
        yield registry
    finally:
        registry.stop()


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and for a name, that is its own authority, and its key."""
    certificate, key = folder / "ca.crt", folder / "key.pem"
    if not certificate.exists():
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
            *("-keyout", str(key), "-out", str(certificate)),
            *("-subj", "/CN=test", "-addext", f"subjectAltName=IP:127.0.0.1,DNS:{name}"),
        )
    return certificate, key


@dataclass
class TokenService:
    """The token service of a registry: grants pull to everybody, and everything to the one user.

    ``asked`` is what it was asked for, ``stale`` how many of the next tokens are given out past their end. A request
    that has ``refused`` in its scope gets no token at all, as some services do it. ``most`` are all the actions that
    anybody is granted.
    """

    certificate: Path
    key: Path
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    stale: int = 0
    refused: str = "nothing"
    most: frozenset[str] = frozenset({"pull", "push", "delete", "*"})
    url: str = ""

    def answer(self, query: dict[str, list[str]], authorization: str) -> tuple[int, dict[str, Any]]:
        self.asked.append(query)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if authorization not in ("", f"Basic {login}"):
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}
        known = bool(authorization) or query.get("refresh_token") == [IDENTITY]
        if self.refused in " ".join(query.get("scope", [])):
            return 403, {"errors": [{"code": "DENIED", "message": "access forbidden"}]}
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            granted = [action for action in actions.split(",") if (known or action == "pull") and action in self.most]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time()) - (3600 if self.stale > 0 else 0)
        self.stale -= 1
        header = {"typ": "JWT", "alg": "RS256", "x5c": [_der(self.certificate)]}
        claims: dict[str, Any] = {"iss": "test", "sub": USER, "aud": query["service"][0], "access": access}
        claims |= {"iat": now, "nbf": now - 5, "exp": now + 300, "jti": str(time.monotonic_ns())}
        signed = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
        signature = _openssl("dgst", "-sha256", "-sign", str(self.key), data=signed.encode())
        kind = "access_token" if "refresh_token" in query else "token"
        return 200, {kind: f"{signed}.{_b64(signature)}", "expires_in": 300}


@contextmanager
def token_service(folder: Path) -> Iterator[TokenService]:
    """A token service on loopback, with a key of its own."""
    certificate, key = folder / "token.crt", folder / "token.pem"
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=tokens"),
        *("-keyout", str(key), "-out", str(certificate)),
    )
    service = TokenService(certificate, key)

    class Tokens(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(parse_qs(urlsplit(self.path).query))

        def do_POST(self) -> None:
            self.reply(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))

        def reply(self, query: dict[str, list[str]]) -> None:
            status, document = service.answer(query, self.headers.get("Authorization", ""))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Tokens) as host:
        service.url = f"http://{host}/token"
        yield service


def token_options(service: TokenService) -> dict[str, Any]:
    """The part of a registry's configuration that sends its clients to a token service."""
    return {
        "auth": {
            "token": {
                "realm": service.url,
                "service": "own registry",
                "issuer": "test",
                "rootcertbundle": str(service.certificate),
            }
        }
    }


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _openssl(*arguments: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


def _der(certificate: Path) -> str:
    return "".join(certificate.read_text().splitlines()[1:-1])


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
