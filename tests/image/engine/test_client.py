from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildtools import Refused, Unreachable
from buildtools.cancellation import Cancellation
from buildtools.image.engine.client import Engine, EngineError
from buildtools.services import Services
from buildtools.settings import Settings
from tests.conftest import EngineService
from tests.fronts import front, make_certificate, server_context
from tests.image.building import Builder


@pytest.mark.parametrize(
    ("host", "reason", "remedy"),
    [
        ("unix:///no/such/socket", "No such file or directory", "start it: systemctl start docker, or `invoke "),
        ("tcp://127.0.0.1:1", "Connection refused", "start it there, or choose another one by DOCKER_HOST "),
    ],
)
def test_an_engine_that_does_not_answer_is_named_with_the_next_step(host: str, reason: str, remedy: str) -> None:
    with pytest.raises(Unreachable) as caught:
        Engine.connect({"DOCKER_HOST": host})
    assert f"no engine answers at {host} ({reason})" == caught.value.fact
    assert caught.value.remedy.startswith(remedy)


@pytest.mark.parametrize("address", ["tcp://127.1.2.3", "127.1.2.3", "127.1.2.3:2375", " tcp://127.1.2.3:1/ "])
def test_an_address_may_lack_what_the_docker_program_adds(address: str) -> None:
    # Certificates count only if the use of TLS is asked for.
    with pytest.raises(Unreachable, match=rf"no engine answers at {address.strip()} \(Connection refused\)"):
        Engine.connect({"DOCKER_HOST": address, "DOCKER_CERT_PATH": "/nonexistent"})


def test_a_login_in_an_address_is_not_shown() -> None:
    with pytest.raises(Unreachable, match=r"no engine answers at tcp://127\.1\.2\.3:1 "):
        Engine.connect({"DOCKER_HOST": "tcp://me:hunter2@127.1.2.3:1"})


@pytest.fixture
def forbidden_socket(tmp_path: Path) -> Iterator[str]:
    """``DOCKER_HOST`` of a socket that this user may not open; root, who may open every one, is somebody else here."""
    path = tmp_path / "socket"
    root = os.geteuid() == 0
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0)
        if root:
            os.seteuid(65534)
        yield f"unix://{path}"
        if root:
            os.seteuid(0)


def test_a_socket_that_may_not_be_used_asks_for_the_group_and_not_for_a_retry(forbidden_socket: str) -> None:
    with pytest.raises(Refused, match=r"permission denied on .*: add the user to group docker"):
        Engine.connect({"DOCKER_HOST": forbidden_socket})


def test_what_needs_no_engine_goes_on_without_one_that_may_not_be_used(forbidden_socket: str) -> None:
    services = Services(Settings(Path("/nonexistent")), {"DOCKER_HOST": forbidden_socket}, Cancellation())
    with contextlib.closing(services):
        assert services.engine_if_any() is None


def test_a_file_that_is_not_a_socket_is_not_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(Unreachable, match="no engine answers at"):
        Engine.connect({"DOCKER_HOST": f"unix://{path}"})


@pytest.mark.parametrize("address", ["gopher://x", "tcp://127.0.0.1:99999", "ssh://me@host:port"])
def test_an_address_that_makes_no_sense_is_refused(address: str) -> None:
    with pytest.raises(Refused, match=f"DOCKER_HOST={address} cannot be used"):
        Engine.connect({"DOCKER_HOST": address})


def test_certificates_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"DOCKER_TLS_VERIFY is set, and {tmp_path} lacks ca.pem.*: set DOCKER_CERT_PATH"):
        Engine.connect(
            {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
        )


def test_a_server_that_is_not_an_engine_is_not_taken_for_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(65536)
                accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Unreachable, match=f"what answers at {address} is not an engine"):
            Engine.connect({"DOCKER_HOST": address})
        thread.join()


def test_an_engine_that_takes_a_question_and_says_nothing_is_waited_for_no_longer_than_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        engine = Engine("tcp://engine", urllib.parse.urlsplit(f"http://127.0.0.1:{port}"), patience=0.2)
        with (
            contextlib.closing(engine),
            pytest.raises(Unreachable, match="the engine at tcp://engine accepted a request but does not answer it"),
        ):
            engine.platform  # noqa: B018  it is asked


def test_images_are_found_by_their_label_with_all_their_tags(builder: Builder) -> None:
    label = f"org.example.{builder.prefix}"
    tags = (f"{builder.prefix}/app:1", f"{builder.prefix}/app:2")
    built = builder.build(builder.folder("FROM BASE\n"), tags=tags, labels={label: "yes"})

    (found,) = builder.engine.images(label)
    assert (built.image_id, set(tags), "yes") == (found.id, set(found.tags), found.labels[label])
    assert [found] == builder.engine.images(f"{label}=yes")
    assert [] == builder.engine.images(f"{label}=no")
    assert [found] == builder.engine.images(label, [f"{builder.prefix}/app"])


def test_a_tag_names_an_image_once_more(builder: Builder) -> None:
    built = builder.build(builder.folder("FROM BASE\n"))
    builder.engine.tag(built.image_id, f"{builder.prefix}/again:2")
    assert built.image_id == (builder.engine.inspect(f"{builder.prefix}/again:2") or {})["Id"]
    assert builder.engine.inspect(f"{builder.prefix}/none:1") is None


def test_what_the_engine_declines_comes_in_its_own_words(connected: Engine) -> None:
    with pytest.raises(EngineError, match="No such image"):
        connected.tag("sha256:" + "0" * 64, "buildtools-test/none:1")


@pytest.fixture
def tls_front(engine: EngineService, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """``HOST:PORT`` where the engine is spoken to with TLS, and the folder of a client's certificates."""
    with front(engine.host, server_context(tmp_path)) as address:
        yield address, tmp_path


def test_a_build_works_over_tls(builder: Builder, tls_front: tuple[str, Path]) -> None:
    address, certificates = tls_front
    environment = {
        "DOCKER_HOST": f"tcp://{address}",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(certificates),
    }
    builder.engine = Engine.connect(environment)
    with contextlib.closing(builder.engine):
        builder.build(builder.folder("FROM BASE\nCOPY big /\nRUN wc -c < /big\n", big=os.urandom(3_000_000)))
    assert ["3000000"] == builder.output()


def test_a_server_that_is_not_trusted_is_not_used(tls_front: tuple[str, Path], tmp_path: Path) -> None:
    address, certificates = tls_front
    make_certificate(certificates, "-keyout", "another-key.pem")
    environment = {
        "DOCKER_HOST": f"tcp://{address}",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(certificates),
    }
    with pytest.raises(Unreachable, match="certificate verify failed"):
        Engine.connect(environment)


@pytest.mark.parametrize(
    ("address", "arguments"),
    [
        ("ssh://Builder_1", "-o ConnectTimeout=30 -T -- Builder_1 docker system dial-stdio"),
        ("ssh://me@[fe80::1]:22/", "-o ConnectTimeout=30 -T -l me -p 22 -- fe80::1 docker system dial-stdio"),
        (
            "ssh://host/run/user/1000/docker.sock",
            "-o ConnectTimeout=30 -T -- host docker --host=unix:///run/user/1000/docker.sock system dial-stdio",
        ),
    ],
)
def test_ssh_gets_what_the_docker_program_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, arguments: str
) -> None:
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/arguments\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(Unreachable, match=f"no engine answers at {re.escape(address)} .*: see above what it says"):
        Engine.connect({"DOCKER_HOST": address})
    assert f"{arguments}\n" == (tmp_path / "arguments").read_text()


def test_a_password_for_ssh_is_refused_and_not_shown() -> None:
    with pytest.raises(Refused, match="ssh takes no password") as caught:
        Engine.connect({"DOCKER_HOST": "ssh://me:hunter2@host"})
    assert "hunter2" not in str(caught.value)


def test_a_build_works_through_ssh(
    builder: Builder, engine: EngineService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for ssh and the docker program behind it: what both do is pass bytes on to the engine's socket.
    path = engine.host.removeprefix("unix://")
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    ssh_arguments = "-o ConnectTimeout=30 -T -l me -p 2222 -- far.example docker system dial-stdio"
    program.write_text(
        f"""#!/usr/bin/env python3
import os, select, socket, sys
assert " ".join(sys.argv[1:]) == {ssh_arguments!r}
far = socket.socket(socket.AF_UNIX)
far.connect({path!r})
while True:
    ready = select.select([0, far], [], [])[0]
    for source, target in ((0, far.fileno()), (far.fileno(), 1)):
        if source in [r if isinstance(r, int) else r.fileno() for r in ready]:
            data = os.read(source, 65536)
            if not data:
                sys.exit()
            while data:
                data = data[os.write(target, data):]
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    builder.engine = Engine.connect({"DOCKER_HOST": "ssh://me@far.example:2222"})
    with contextlib.closing(builder.engine):
        builder.build(builder.folder("FROM BASE\nCOPY big /\nRUN wc -c < /big\n", big=os.urandom(3_000_000)))
    assert ["3000000"] == builder.output()
