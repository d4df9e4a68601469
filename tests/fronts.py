"""The ways to a builder: a port before a socket, with TLS or without; a container with a program that leads there."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from buildtools.image.engine.client import Engine
from tests.conftest import EngineService


def server_context(folder: Path, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """TLS with 127.0.0.1, which wants a certificate; ``folder`` then has ``ca.pem``, ``cert.pem`` and ``key.pem``."""
    make_certificate(folder, "-addext", "subjectAltName=IP:127.0.0.1")
    (folder / "cert.pem").write_bytes((folder / "ca.pem").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    if protocols:
        context.set_alpn_protocols([*protocols])
    return context


def make_certificate(folder: Path, *options: str) -> None:
    """A key, and its certificate ``ca.pem``, which signs itself."""
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=ca"]
    command = ["openssl", "req", *kind, "-keyout", "key.pem", "-out", "ca.pem", *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@contextlib.contextmanager
def front(path: str, context: ssl.SSLContext | None = None, received: bytearray | None = None) -> Iterator[str]:
    """``HOST:PORT`` where whoever listens at ``unix://PATH`` is spoken to, with TLS where there is a context.

    What that one gets is added to ``received``.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_serve, args=(listening, context, path, received), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextlib.contextmanager
def container(engine: EngineService, folder: Path, buildctl: str) -> Iterator[tuple[Engine, str]]:
    """An engine, and a container of it in which ``buildctl`` is this script; without one there is no such program."""
    with contextlib.closing(Engine.connect(engine.environment)) as connection:
        limits = connection.api.create_host_config(network_mode="host", auto_remove=True)
        made = connection.api.create_container(engine.base_busybox, ["sleep", "600"], host_config=limits)["Id"]
        if buildctl:
            script = folder / "buildctl"
            script.write_text(f"#!/bin/sh\n{buildctl}\n")
            script.chmod(0o755)
            # The engine may not see this machine's files, so it is handed over.
            archive = shutil.make_archive(str(folder / "tar"), "tar", folder, "buildctl")
            connection.api.put_archive(made, "/bin", Path(archive).read_bytes())
        connection.api.start(made)
        yield connection, f"docker-container://{made}"
        connection.api.remove_container(made, force=True)


def _serve(listening: socket.socket, context: ssl.SSLContext | None, path: str, received: bytearray | None) -> None:
    threads = []
    with contextlib.suppress(OSError):
        while True:
            accepted, _ = listening.accept()
            passing = accepted, context, path, received
            threads.append(threading.Thread(target=_pass, args=passing, daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _pass(accepted: socket.socket, context: ssl.SSLContext | None, path: str, received: bytearray | None) -> None:
    with contextlib.suppress(OSError), accepted, contextlib.ExitStack() as ends:
        near = ends.enter_context(context.wrap_socket(accepted, server_side=True)) if context else accepted
        far = ends.enter_context(socket.socket(socket.AF_UNIX))
        far.connect(path.removeprefix("unix://"))
        while True:
            pending = isinstance(near, ssl.SSLSocket) and near.pending()
            ready = [near] if pending else select.select([near, far], [], [])[0]
            for source, target in ((near, far), (far, near)):
                if source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    if received is not None and source is near:
                        received += data
                    target.sendall(data)
