"""Real remotes to push to: a bare repository by its path, behind ``git http-backend``, and behind ``sshd``."""

from __future__ import annotations

import base64
import os
import re
import shutil
import socketserver
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import Repository, make_repository
from tests.servers import in_service

IDENTITY = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_COMMITTER_NAME": "R. Releaser",
    "GIT_COMMITTER_EMAIL": "releaser@example.com",
    "LC_ALL": "C.UTF-8",
}


class Site:
    """A bare repository and a clone of it with one pushed commit; ``environment`` is what releases get."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.environment = {**IDENTITY, "PATH": os.environ["PATH"], "HOME": str(self.home)}
        self.remote = Repository(folder / "remote.git")
        self.clone = Repository(folder / "clone")

    @classmethod
    def create(cls, folder: Path) -> Site:
        """A new one. It may be copied, since nothing in it names its own path."""
        site = cls(folder)
        site.home.mkdir(parents=True)
        site.remote.path.mkdir()
        site.remote.git("init", "--quiet", "--bare", "--initial-branch", "main")
        make_repository(site.clone.path)
        site.clone.git("remote", "add", "origin", "../remote.git")
        site.commit("First things")
        return site

    def commit(self, message: str) -> str:
        """The id of one more commit, pushed."""
        commit = self.clone.commit(message)
        self.clone.git("push", "--quiet", "origin", "HEAD:main")
        return commit

    def tag(self, name: str) -> None:
        """Make an annotated tag of HEAD, in the clone and on the remote."""
        self.clone.tag(name)
        self.clone.git("push", "--quiet", "origin", f"refs/tags/{name}")

    def another_clone(self, name: str = "another") -> Repository:
        """A second clone, with all tags."""
        shutil.copytree(self.clone.path, self.folder / name, symlinks=True)
        return Repository(self.folder / name)

    def hook(self, name: str, script: str) -> None:
        """Install a hook on the remote."""
        path = self.remote.path / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def refs(self) -> tuple[list[str], list[str]]:
        """All refs of the clone and of the remote, with their values."""
        command = ("for-each-ref", "--format=%(refname) %(objectname)")
        return self.clone.git(*command).splitlines(), self.remote.git(*command).splitlines()


class _Backend(BaseHTTPRequestHandler):
    root: Path
    login: str
    status: int
    silent: bool
    wants_proxy_login: bool
    requests: list[tuple[str, str, dict[str, str]]]

    def do_GET(self) -> None:
        self._serve(b"")

    def do_CONNECT(self) -> None:
        self._record()
        self.send_error(502)

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers["Content-Length"])))

    def _record(self) -> None:
        self.requests.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))

    def _serve(self, body: bytes) -> None:
        self._record()
        # As a proxy it gets the URL of another server, and plays that server too.
        self.path = re.sub("^http://[^/]*", "", self.path)
        expected = "Basic " + base64.b64encode(self.login.encode()).decode()
        if self.status:
            self.send_error(self.status)
        elif self.wants_proxy_login and "Proxy-Authorization" not in self.headers:
            self.send_response(407)
            self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.startswith(("/old/", "/lost/")):
            place = self.headers.get("X-Elsewhere", "") + self.path.removeprefix("/old")
            self.send_response(301)
            self.send_header("Location", "/login" if self.path.startswith("/lost/") else place)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.login and self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._run(body)

    def _run(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "somebody",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        process = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        if self.silent and body:
            self.close_connection = True
            return
        head, _, content = process.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing: the tests read the output of the client."""


@contextmanager
def http_server(
    root: Path,
    login: str = "",
    *,
    status: int = 0,
    silent: bool = False,
    wants_proxy_login: bool = False,
    certificate: Path | None = None,
    requests: list[tuple[str, str, dict[str, str]]] | None = None,
) -> Iterator[str]:
    """``HOST:PORT`` of a server for the repositories below ``root``.

    With ``status`` every response has that one; if ``silent``, it runs what is pushed and closes the connection.
    What is below ``/old`` has moved up, to the server that the header ``X-Elsewhere`` names; ``/lost`` redirects to a
    page. Every request is appended to ``requests``, as method, path and headers. It is a proxy too, which wants a login
    with ``wants_proxy_login``.
    """
    settings = {"root": root, "login": login, "status": status, "silent": silent}
    settings |= {"wants_proxy_login": wants_proxy_login, "requests": [] if requests is None else requests}
    handler = type("Backend", (_Backend,), settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with in_service(server):
        yield f"127.0.0.1:{server.server_port}"


class SshServer:
    """sshd, one process for each connection that comes in on a loopback port. ``command`` is for GIT_SSH_COMMAND."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.url = f"ssh://127.0.0.1:{port}"
        self.folder = folder
        self.command = self.command_with("key")

    def command_with(self, key: str, known_hosts: str = "known_hosts") -> str:
        """ssh with this key and these known hosts, and nothing of the user's own."""
        options = {
            "IdentityFile": self.folder / key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / known_hosts,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        return " ".join(["ssh", "-F", "none", *(f"-o {name}={value}" for name, value in options.items())])


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """A server that accepts the user who runs the tests, with ``folder/key``, and nobody else."""
    sshd = require_program("sshd", "openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it, and only its service makes it
    for name in ("host", "key", "stranger"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True
        )
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    config = folder / "sshd_config"
    config.write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
    )

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection = self.request.fileno()
            command = [sshd, "-i", "-f", str(config), "-E", str(folder / "log")]
            subprocess.run(command, stdin=connection, stdout=connection, check=False)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with in_service(server):
        port = server.server_address[1]
        key = (folder / "host.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}")
        (folder / "no_hosts").write_text("")
        yield SshServer(port, folder)


def require_program(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, under CI it fails."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed; install {package}")
    if path is None:
        pytest.skip(f"{name} is not installed; install {package}")
    return path


def program(path: Path, script: str) -> str:
    """The path of an executable shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)
