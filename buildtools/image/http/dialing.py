"""Connections to hosts, and plain sockets to the engine.

``DOCKER_HOST`` may be a path, a host, a host with TLS or a host behind ssh. All become plain sockets of the operating
system, so that two threads may use one: TLS in Python 3.11 must not be read and written at once.
"""

from __future__ import annotations

import contextlib
import re
import select
import shlex
import socket
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.request_log import Stopwatch

_CONNECT_SECONDS = 30
# A host that disappears is noticed after 75 s; one packet each 15 s does not matter otherwise.
_KEEPALIVE_SECONDS = 15
_KEEPALIVE_PROBES = 4
_BUFFER = 256 * 1024
_FILES = ("ca.pem", "cert.pem", "key.pem")


@frozen
class Certificates:
    """Whom to trust, and how to identify: the paths of a CA's certificate, and of our own certificate and key.

    It has the members of the SDK's ``TLSConfig`` that are used here.
    """

    ca_cert: str
    cert: tuple[str, str]
    verify: bool = True

    @classmethod
    def read(cls, folder: Path) -> Certificates:
        """The certificates in a folder like ``DOCKER_CERT_PATH``, with ``ca.pem``, ``cert.pem`` and ``key.pem``.

        :raises Refused: if a file is missing or cannot be used.
        """
        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise Refused(f"the certificates in {folder} lack {', '.join(missing)}", "put what is missing there")
        authority, certificate, key = (str(folder / name) for name in _FILES)
        names = _FILES[0]
        try:
            context = ssl.create_default_context(cafile=authority)
            names = " and ".join(_FILES[1:])
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise Refused(
                f"{names} in {folder} cannot be used ({error.strerror})",
                "they must be PEM files, and key.pem the key of cert.pem, without a password",
            ) from None
        return cls(authority, (certificate, key))


def dial_unix(path: str) -> socket.socket:
    """A connection to a Unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def connected(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to a host for small requests; ``seconds`` limits connecting and each later wait."""
    # As bytes, which typeshed does not know, a name needs no IDNA codec, which Python would load otherwise.
    name: Any = host.encode() if host.isascii() else host
    sock = socket.create_connection((name, port), timeout=seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def dial_tcp(host: str, port: int) -> socket.socket:
    """A connection to a host, without a timeout once it is established."""
    sock = connected(host, port, _CONNECT_SECONDS)
    sock.settimeout(None)
    # A connection that is silent for long, during a build without output, must not be dropped by a firewall, and a host
    # that disappears must be noticed; with Linux's defaults that takes two hours.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    return sock


def dial_tls(host: str, port: int, tls: Any, protocols: Sequence[str] = ()) -> socket.socket:
    """A TLS connection to a host; ``tls`` is the SDK's ``TLSConfig``, or None for the system's trust store.

    ``protocols`` are offered to the host (RFC 7301).
    """
    context = ssl.create_default_context(cafile=tls.ca_cert if tls else None)
    if tls and not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls and tls.cert:
        context.load_cert_chain(*tls.cert)
    if protocols:
        context.set_alpn_protocols([*protocols])
    raw = dial_tcp(host, port)
    try:
        sock = context.wrap_socket(raw, server_hostname=host)
    except BaseException:
        raw.close()
        raise
    ours, theirs = socket.socketpair()
    threading.Thread(target=_relay, args=(sock, theirs), name="engine-tls", daemon=True).start()
    return ours


def dial_ssh(url: urllib.parse.SplitResult) -> socket.socket:
    """A connection through ssh, as the docker CLI makes it; the remote host needs the docker CLI.

    A path in the URL is that of the engine's socket there.
    """
    command = ["ssh", "-o", f"ConnectTimeout={_CONNECT_SECONDS}", "-T"]
    if url.username:
        command += ["-l", urllib.parse.unquote(url.username)]
    # Without a port, ssh's own configuration has one, perhaps for a name whose letters count, which hostname changes.
    if url.port:
        command += ["-p", str(url.port)]
    host = re.sub(":[0-9]*$", "", url.netloc.rpartition("@")[2]).strip("[]")
    command += ["--", host, "docker"]
    if path := urllib.parse.unquote(url.path).rstrip("/"):
        command.append(shlex.quote(f"--host=unix://{path}"))
    command += ["system", "dial-stdio"]
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            # Ctrl-C on the terminal must not reach ssh, because this connection is needed to cancel the build.
            process = subprocess.Popen(
                ["sh", "-c", 'trap "" INT; exec "$@"', "ssh", *command], stdin=theirs.fileno(), stdout=theirs.fileno()
            )
    except BaseException:
        ours.close()
        raise
    # It ends by itself when the socket is closed; this only reaps it.
    threading.Thread(target=process.wait, name="engine-ssh", daemon=True).start()
    return ours


def sdk_adapter(dial: Callable[[], socket.socket], idle: int) -> Any:
    """An adapter that makes the SDK connect with ``dial`` and keep up to ``idle`` idle connections.

    The SDK's own adapter keeps one for every URL it was given, and would need a second implementation of ssh.
    """
    import requests.adapters
    import urllib3.connection

    class Connection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            self.sock = dial()

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class Adapter(requests.adapters.HTTPAdapter):
        def __init__(self) -> None:
            super().__init__()
            self._pool = Pool("engine", maxsize=idle)

        def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
            return self._pool

        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            stopwatch = Stopwatch()
            response = super().send(request, *args, **kwargs)
            stopwatch.log("engine", request.method, request.path_url, response.status_code)
            return response

        def request_url(self, request: Any, proxies: Any) -> str:
            del proxies
            return str(request.path_url)

        def close(self) -> None:
            self._pool.close()
            super().close()

    return Adapter()


def _relay(tls: ssl.SSLSocket, plain: socket.socket) -> None:
    """Copy bytes between the two until one ends, in this one thread."""
    outgoing, incoming = bytearray(), bytearray()
    poll = select.poll()
    with tls, plain, contextlib.suppress(OSError):
        tls.setblocking(False)
        plain.setblocking(False)
        while True:
            takes, gives = len(outgoing) < _BUFFER, len(incoming) < _BUFFER
            poll.register(plain, select.POLLIN * takes | select.POLLOUT * bool(incoming))
            poll.register(tls, select.POLLIN * gives | select.POLLOUT * bool(outgoing))
            poll.poll(0 if gives and tls.pending() else None)
            if (takes and _receive(plain, outgoing) == 0) or (gives and _receive(tls, incoming) == 0):
                break
            _drain(outgoing, tls)
            _drain(incoming, plain)
        for sock, rest in ((tls, outgoing), (plain, incoming)):
            sock.setblocking(True)
            sock.sendall(rest)


def _receive(source: socket.socket, into: bytearray) -> int | None:
    """How many bytes arrived, 0 at the end; None if there are none yet."""
    try:
        data = source.recv(_BUFFER)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
    into += data
    return len(data)


def _drain(data: bytearray, into: socket.socket) -> None:
    if data:
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            del data[: into.send(data)]
