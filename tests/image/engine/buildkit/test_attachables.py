from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Cancelled, Refused
from buildtools.build_cache import read_caches
from buildtools.events import Log, Step
from buildtools.image.engine.buildkit.failure import BuildFailed
from buildtools.image.engine.client import Engine
from tests.conftest import HtpasswdRegistry
from tests.image.building import Builder, open_files


@pytest.fixture
def private_base(builder: Builder, registry_htpasswd: HtpasswdRegistry) -> Iterator[str]:
    """An image that only the registry has, and only for who is logged in."""
    repository = f"{registry_htpasswd.host}/{builder.prefix}/base"
    login = {"username": registry_htpasswd.user, "password": registry_htpasswd.password}
    with builder.engine.errors():
        builder.engine.api.tag(builder.base, repository, "1")
        pushed = builder.engine.api.push(repository, "1", auth_config=login)
        builder.engine.api.remove_image(f"{repository}:1")
    assert "error" not in pushed
    yield f"{repository}:1"
    if builder.engine.inspect(f"{repository}:1"):
        with builder.engine.errors():
            builder.engine.api.remove_image(f"{repository}:1")


def test_a_private_base_image_is_pulled_with_the_users_credentials(
    builder: Builder, private_base: str, registry_htpasswd: HtpasswdRegistry
) -> None:
    builder.docker_config = registry_htpasswd.docker_config
    builder.build(builder.folder(f"FROM {private_base}\nRUN echo private\n"), pull=True)
    assert ["private"] == builder.output()


def test_without_credentials_the_message_asks_for_a_login(builder: Builder, private_base: str) -> None:
    with pytest.raises(BuildFailed, match="docker login") as caught:
        builder.build(builder.folder(f"FROM {private_base}\n"), pull=True)
    assert (1, f"FROM {private_base}") == (caught.value.line, caught.value.instruction)


def test_a_credential_helper_that_is_missing_is_named(builder: Builder, private_base: str, tmp_path: Path) -> None:
    host = private_base.partition("/")[0]
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "no-such-helper", "auths": {host: {}}}))
    builder.docker_config = tmp_path
    with pytest.raises(BuildFailed, match="docker-credential-no-such-helper") as caught:
        builder.build(builder.folder(f"FROM {private_base}\n"), pull=True)
    assert Refused.exit_code == caught.value.exit_code


def test_an_image_that_carries_its_cache_is_a_cache_for_another_build(builder: Builder, registry: str) -> None:
    tag = f"{registry}/{builder.prefix}/app:1"
    folder = builder.folder("FROM BASE\nCOPY Dockerfile /\n")
    builder.build(folder, tags=(tag,), args={"BUILDKIT_INLINE_CACHE": "1"})
    with builder.engine.errors():
        assert b"moby.buildkit.cache.v0" in b"".join(builder.engine.api.get_image(tag))
        assert "error" not in builder.engine.api.push(tag)
        builder.engine.api.remove_image(tag)
    builder.events.clear()

    builder.build(folder, no_cache=False, cache_from=read_caches([tag], written=False))

    assert f"importing cache manifest from {tag}" in [step.text for step in builder.heard(Step)]


def with_libraries(program: str) -> list[str]:
    """A program and all that it loads."""
    path = shutil.which(program)
    assert path, f"{program} is not installed"
    loaded = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    return [path, *re.findall(r"(/\S+) \(0x", loaded)]


@pytest.fixture
def ssh_agent(tmp_path: Path) -> Iterator[str]:
    """The socket of an agent that holds one key, called ``key-of-the-test``."""
    path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE)
    assert agent.stdout
    agent.stdout.readline()  # it says so when it listens
    key = tmp_path / "key"
    quiet = {"check": True, "capture_output": True}
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "key-of-the-test", "-f", str(key)], **quiet)  # type: ignore[call-overload]  # the options are spelled once
    subprocess.run(["ssh-add", "-q", str(key)], env={"SSH_AUTH_SOCK": str(path)}, **quiet)  # type: ignore[call-overload]
    yield str(path)
    agent.terminate()
    agent.wait()
    agent.stdout.close()


def test_a_command_reaches_the_ssh_agent(builder: Builder, ssh_agent: str) -> None:
    files = {file.lstrip("/"): Path(file).read_bytes() for file in with_libraries("ssh-add")}
    folder = builder.folder(
        "FROM BASE\nCOPY . /\nRUN chmod +x /usr/bin/* /lib*/ld-* 2>/dev/null; chmod -R +x /lib*\n"
        "RUN --mount=type=ssh ssh-add -l\n",
        "app",
        **files,
    )
    builder.environment = {**builder.environment, "SSH_AUTH_SOCK": ssh_agent}
    builder.build(folder, ssh=True)
    assert "key-of-the-test" in builder.output()[-1]


def test_an_agent_that_is_not_there_is_refused(builder: Builder) -> None:
    with pytest.raises(Refused, match="SSH_AUTH_SOCK is not set"):
        builder.build(builder.folder("FROM BASE\n"), ssh=True)
    builder.environment = {**builder.environment, "SSH_AUTH_SOCK": "/no/such/agent"}
    with pytest.raises(Refused, match="none answers at SSH_AUTH_SOCK=/no/such/agent"):
        builder.build(builder.folder("FROM BASE\n"), ssh=True)


def test_images_are_built_side_by_side_on_one_connection(builder: Builder) -> None:
    def build(number: int) -> list[str]:
        lines: list[str] = []
        name = f"app{number}"
        folder = builder.folder(
            f"FROM BASE\nCOPY data /\nRUN cat /data; echo {builder.prefix}\n", name, data=f"{number}\n"
        )
        builder.build(folder, heard=lambda event: lines.append(event.line) if isinstance(event, Log) else None)
        return lines

    with ThreadPoolExecutor(6) as pool:
        printed = list(pool.map(build, range(12)))
    assert [[str(number), builder.prefix] for number in range(12)] == printed


def test_a_folder_may_be_built_several_times_at_once(builder: Builder) -> None:
    folder = builder.folder("FROM BASE\nCOPY data /\nRUN cat /data\n", data="shared\n")
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda number: builder.build(folder, tags=(f"{builder.prefix}/{number}:1",)), range(4)))
    assert all(builder.engine.inspect(image.image_id) for image in images)


def test_builds_leave_no_thread_and_no_socket_behind(builder: Builder) -> None:
    good = builder.folder("FROM BASE\nCOPY data /\nRUN true\n", "good", data="1")
    bad = builder.folder("FROM BASE\nCOPY none /\n", "bad")
    slow = builder.folder("FROM BASE\nRUN echo begun; sleep 3600\n", "slow")
    builder.build(good)
    before = (threading.active_count(), open_files())
    for _ in range(3):
        builder.build(good)
        with pytest.raises(BuildFailed):
            builder.build(bad)
        cancel = threading.Event()
        with pytest.raises(Cancelled):
            builder.build(slow, cancel=cancel, heard=lambda event: cancel.set() if isinstance(event, Log) else None)  # noqa: B023  it is called in this round
    assert before == (threading.active_count(), open_files())


def test_an_engine_that_goes_away_is_said_to_have_gone(builder: Builder, tmp_path: Path) -> None:
    path = tmp_path / "engine"
    connections: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        front = threading.Thread(target=_front, args=(listening, builder.engine, connections), daemon=True)
        front.start()
        builder.engine = Engine.connect({"DOCKER_HOST": f"unix://{path}"})

        def cut(event: object) -> None:
            if isinstance(event, Log):
                for connection in connections:
                    connection.shutdown(socket.SHUT_RDWR)

        with pytest.raises(BuildToolsError) as caught:
            builder.build(builder.folder("FROM BASE\nRUN echo begun; sleep 30\n"), heard=cut)
        builder.engine.close()
        listening.shutdown(socket.SHUT_RDWR)
        front.join()
    assert f"the engine at unix://{path} went away while app was built" in caught.value.fact
    assert 4 == caught.value.exit_code


def _front(listening: socket.socket, engine: Engine, connections: list[socket.socket]) -> None:
    threads = []
    far_sides = []
    with contextlib.suppress(OSError):
        while True:
            near, _ = listening.accept()
            far = engine.dial()
            connections.append(near)
            far_sides.append(far)
            for source, target in ((near, far), (far, near)):
                threads.append(threading.Thread(target=_pass, args=(source, target), daemon=True))
                threads[-1].start()
    for connection in connections:
        _shut(connection)
    for thread in threads:
        thread.join()
    for connection in (*connections, *far_sides):
        connection.close()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    _shut(source)
    _shut(target)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
