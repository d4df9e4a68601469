"""A sandbox comes up, is repaired, and goes without a trace, however it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

import docker
from buildtools import Refused, Unreachable
from buildtools.sandbox import Sandbox, down, process, s3, status, up
from buildtools.sandbox.engine import EngineAddress
from tests.conftest import EngineService
from tests.image.engine.strangers import response, stranger

_PARTS = ("registry", "s3")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / ".sandbox"
    yield directory
    down(directory)


@pytest.fixture(scope="module")
def standing(
    tmp_path_factory: pytest.TempPathFactory, engine: EngineService, environment: Mapping[str, str]
) -> Iterator[Sandbox]:
    """A sandbox for tests that only look at it."""
    directory = tmp_path_factory.mktemp("standing") / ".sandbox"
    yield up(directory, environment=environment, base=False)
    down(directory)


@pytest.fixture
def box(folder: Path, engine: EngineService, environment: Mapping[str, str]) -> Sandbox:
    return up(folder, environment=environment, base=False)


def _pids(folder: Path) -> list[int | None]:
    return [process.pid(part, folder) for part in _PARTS]


def _client(box: Sandbox) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=box.s3_endpoint,
        region_name=box.environment["AWS_REGION"],
        aws_access_key_id=box.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=box.environment["AWS_SECRET_ACCESS_KEY"],
    )


def test_all_parts_answer_and_the_bucket_is_there(standing: Sandbox) -> None:
    with closing(_client(standing)) as client:
        client.put_object(Bucket=standing.bucket, Key="key", Body=b"1", IfNoneMatch="*")
    assert [(part.name, part.answers) for part in status(standing.directory)] == [
        ("registry", True),
        ("s3", True),
        ("engine", True),
    ]


def test_secrets_are_for_us_alone_and_in_no_argv_and_no_repr(standing: Sandbox) -> None:
    private = ("state.json", "env", "invoke.yaml", "docker/config.json", "registry.htpasswd", "s3.json")
    modes = {oct((standing.directory / name).stat().st_mode & 0o777) for name in private}
    assert (oct(standing.directory.stat().st_mode & 0o777), modes) == (oct(0o700), {oct(0o600)})
    state = json.loads((standing.directory / "state.json").read_text())
    seen = repr(standing) + "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in _pids(standing.directory))
    assert [secret for secret in (state["password"], state["keys"]["secret"]) if secret in seen] == []


def test_git_does_not_see_a_sandbox(standing: Sandbox) -> None:
    assert "*\n" == (standing.directory / ".gitignore").read_text()


def test_its_configuration_suits_a_project_with_any_image_folders(standing: Sandbox) -> None:
    settings = json.loads((standing.directory / "invoke.yaml").read_text())["buildtools"]
    assert {"registry", "namespace", "artifacts", "s3_endpoint"} == settings.keys() - {"args"}


def test_the_env_file_gives_a_shell_the_same_environment(standing: Sandbox) -> None:
    shell = subprocess.run(
        ["sh", "-c", f". '{standing.directory}/env'; env"],
        env={"PATH": os.defpath, "AWS_SESSION_TOKEN": "of another account"},
        capture_output=True,
        text=True,
        check=True,
    )
    exported = dict(line.split("=", 1) for line in shell.stdout.splitlines())
    assert {name: exported.get(name) for name in standing.environment} == dict(standing.environment)
    assert "AWS_SESSION_TOKEN" not in exported


def test_up_again_reuses_what_runs(standing: Sandbox, environment: Mapping[str, str]) -> None:
    before = _pids(standing.directory)
    assert up(standing.directory, environment=environment, base=False) == standing
    assert _pids(standing.directory) == before


def test_up_repairs_a_half_dead_sandbox_and_keeps_what_it_holds(box: Sandbox, environment: Mapping[str, str]) -> None:
    with closing(_client(box)) as client:
        client.put_object(Bucket=box.bucket, Key="key", Body=b"kept")
        registry_pid, s3_pid = _pids(box.directory)
        assert s3_pid is not None
        s3.stop(box.directory)
        assert up(box.directory, environment=environment, base=False) == box
        assert client.get_object(Bucket=box.bucket, Key="key")["Body"].read() == b"kept"
    assert process.pid("registry", box.directory) == registry_pid


def test_two_at_once_make_one_sandbox(folder: Path, engine: EngineService, environment: Mapping[str, str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: up(folder, environment=environment, base=False), range(2))
    assert first == second


def test_down_leaves_nothing(
    tmp_path: Path, folder: Path, engine: EngineService, environment: Mapping[str, str]
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    box = up(folder, environment={**environment, "TMPDIR": str(temporary)}, base=False)
    pids = _pids(folder)
    image = f"{box.registry}/sandbox/busybox:1"
    with closing(docker.DockerClient(engine.host)) as client:
        client.images.get(engine.base_busybox).tag(image)
    found = EngineAddress(engine.host)
    before = found.has(image)
    ports = json.loads((folder / "s3.ports").read_text()).values()
    down(folder)
    assert (before, found.has(image), found.has(engine.base_busybox)) == (True, False, True)
    sockets = [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]
    assert (folder.exists(), list(temporary.iterdir()), sockets) == (False, [], [])
    assert [pid for pid in pids if _runs(pid)] == []
    assert status(folder) == ()


def test_a_copy_of_a_sandbox_is_another_sandbox(
    box: Sandbox, tmp_path: Path, engine: EngineService, environment: Mapping[str, str]
) -> None:
    copy, moved = tmp_path / "copy", tmp_path / "moved"
    image = f"{box.registry}/sandbox/busybox:1"
    with closing(docker.DockerClient(engine.host)) as client:
        client.images.get(engine.base_busybox).tag(image)
    pids = _pids(box.directory)
    assert all(pids)
    subprocess.run(["cp", "--archive", box.directory, copy], check=True)
    assert [None, None] == _pids(copy)
    down(copy)
    subprocess.run(["cp", "--archive", box.directory, copy], check=True)
    other = up(copy, environment=environment, base=False)
    assert {box.registry, box.s3_endpoint}.isdisjoint({other.registry, other.s3_endpoint})
    with closing(_client(other)) as client:
        client.put_object(Bucket=other.bucket, Key="key", Body=b"the copy's")
    down(copy)
    assert (pids, True) == (_pids(box.directory), EngineAddress(engine.host).has(image))
    # One that was moved is the same.
    box.directory.rename(moved)
    assert pids == _pids(moved)
    down(moved)
    assert ([], False) == ([pid for pid in pids if _runs(pid)], EngineAddress(engine.host).has(image))


def test_down_cleans_up_after_an_up_that_was_killed(
    folder: Path, engine: EngineService, environment: Mapping[str, str]
) -> None:
    code = (
        "import os, pathlib, sys; from buildtools.sandbox import up; "
        "up(pathlib.Path(sys.argv[1]), environment=os.environ, base=False)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], env=dict(environment)) as starter:
        while not any(process.is_running(part, folder) for part in _PARTS):
            assert starter.poll() is None
        starter.send_signal(signal.SIGKILL)
    pids = _pids(folder)
    assert any(pids)
    down(folder)
    assert (folder.exists(), [pid for pid in pids if _runs(pid)]) == (False, [])


def test_down_without_a_sandbox_does_nothing(tmp_path: Path) -> None:
    down(tmp_path / ".sandbox")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path, environment: Mapping[str, str]) -> None:
    (tmp_path / "thesis.tex").touch()
    for refused in (lambda: up(tmp_path, environment=environment), lambda: down(tmp_path)):
        with pytest.raises(Refused, match="is not a sandbox"):
            refused()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_written_to_is_named(environment: Mapping[str, str]) -> None:
    with pytest.raises(Refused, match="/proc/self/box cannot be created"):
        up(Path("/proc/self/box"), environment=environment, base=False)


def test_missing_programs_are_named_with_their_packages(tmp_path: Path, engine: EngineService) -> None:
    bare = {"PATH": str(tmp_path), "HOME": str(tmp_path), **engine.environment}
    with pytest.raises(Refused) as refused:
        up(tmp_path / ".sandbox", environment=bare, base=False)
    assert refused.value.remedy == "`apt-get install --no-install-recommends docker-registry`"
    assert not (tmp_path / ".sandbox").exists()


def test_an_engine_that_was_named_and_does_not_answer_is_not_replaced(
    folder: Path, environment: Mapping[str, str]
) -> None:
    with pytest.raises(Unreachable, match="no Docker engine answers at tcp://127"):
        up(folder, environment={**environment, "DOCKER_HOST": "tcp://127.0.0.1:1"}, base=False)


def test_what_cannot_build_is_refused_before_anything_is_started(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    ping = response("200 OK", b"OK", Api_Version="1.41", Libpod_Api_Version="4.3.1")
    with stranger(tmp_path, lambda request: ping) as host, pytest.raises(Refused, match="is Podman"):
        up(tmp_path / ".sandbox", environment={**environment, "DOCKER_HOST": host}, base=False)
    assert not (tmp_path / ".sandbox").exists()


def _runs(pid: int | None) -> bool:
    # Whoever was started by a process that is gone may stay as a zombie for a while.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
