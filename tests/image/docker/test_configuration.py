"""The engine that the docker program would use is the one that is used; that program makes the configurations."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from buildtools import Refused
from buildtools.image.docker.configuration import chosen_engine, proxy_arguments
from buildtools.image.engine.client import Engine
from tests.conftest import EngineService
from tests.contract.registries import make_certificate


def docker(folder: Path, *arguments: str, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    program = shutil.which("docker")
    assert program
    environment = {"DOCKER_CONFIG": str(folder), "PATH": "/usr/bin:/bin", **variables}
    return subprocess.run([program, *arguments], env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration that knows two engines, neither of which is there."""
    docker(tmp_path, "context", "create", "one", "--docker", "host=tcp://one.example:2375")
    docker(tmp_path, "context", "create", "two", "--docker", "host=ssh://me@two.example")
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({}, "tcp://one.example:2375"),
        ({"DOCKER_CONTEXT": "two"}, "ssh://me@two.example"),
        ({"DOCKER_CONTEXT": "default"}, "unix:///var/run/docker.sock"),
        ({"DOCKER_CONTEXT": "two", "DOCKER_HOST": "unix:///three.sock"}, "unix:///three.sock"),
    ],
)
def test_it_is_chosen_as_the_docker_program_chooses(folder: Path, variables: dict[str, str], host: str) -> None:
    docker(folder, "context", "use", "one")
    found = chosen_engine({"DOCKER_CONFIG": str(folder), **variables}).get("DOCKER_HOST", "unix:///var/run/docker.sock")
    listed = docker(folder, "context", "ls", "--format", "{{.Current}} {{.DockerEndpoint}}", variables=variables)
    (official,) = [line.split()[1] for line in listed.splitlines() if line.startswith("true ")]
    assert host == found
    assert host == official


def test_without_a_choice_nothing_is_changed(folder: Path, tmp_path: Path) -> None:
    for place in (folder, tmp_path / "nowhere"):
        environment = {"DOCKER_CONFIG": str(place), "HOME": "/"}
        assert environment == chosen_engine(environment)


def test_an_engine_that_was_chosen_answers(engine: EngineService, folder: Path) -> None:
    docker(folder, "context", "create", "here", "--docker", f"host={engine.host}")
    chosen = chosen_engine({"DOCKER_CONFIG": str(folder), "DOCKER_CONTEXT": "here"})
    with contextlib.closing(Engine.connect(chosen)) as connected:
        assert engine.host == connected.address


@pytest.mark.parametrize("skip", [False, True])
def test_certificates_come_along(tmp_path: Path, skip: bool) -> None:
    certificate, key = make_certificate(tmp_path)
    files = f"ca={certificate},cert={certificate},key={key}"
    endpoint = f"host=tcp://one.example:2376,{files},skip-tls-verify={str(skip).lower()}"
    docker(tmp_path, "context", "create", "safe", "--docker", endpoint)
    chosen = chosen_engine({"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "safe"})
    folder = Path(chosen["DOCKER_CERT_PATH"])
    expected = [path.read_bytes() for path in (certificate, certificate, key)]
    assert expected == [(folder / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")]
    assert ("" if skip else "1") == chosen["DOCKER_TLS_VERIFY"]


@pytest.mark.parametrize("host", ["unix:///var/run/docker.sock", "tcp://special.example:2375"])
def test_a_build_is_told_of_the_same_proxies_as_by_the_docker_program(
    engine: EngineService, tmp_path: Path, host: str
) -> None:
    special = {"httpProxy": "http://special.example:3128", "ftpProxy": "ftp://special.example"}
    usual = {"httpProxy": "http://proxy.example:3128", "httpsProxy": "proxy.example:3129", "noProxy": "*.example"}
    known = {"default": usual, "tcp://special.example:2375": special}
    if host.startswith("tcp:"):
        # It is the program's word for the engine that counts, so this one goes by both.
        known[engine.host] = special
    (tmp_path / "config.json").write_text(json.dumps({"proxies": known}))
    (tmp_path / "Dockerfile").write_text(f"FROM {engine.base_busybox}\nRUN env | sed 's/^/SEEN /'\n")
    variables = {"DOCKER_HOST": engine.host, "DOCKER_BUILDKIT": "0"}
    printed = docker(tmp_path, "build", "--no-cache", str(tmp_path), variables=variables).splitlines()
    seen = dict(line.removeprefix("SEEN ").split("=", 1) for line in printed if line.startswith("SEEN "))
    expected = {name: value for name, value in seen.items() if name.upper().endswith("_PROXY")}
    assert expected == proxy_arguments({"DOCKER_CONFIG": str(tmp_path)}, host)


def test_without_proxies_a_build_is_told_of_none(tmp_path: Path) -> None:
    assert {} == proxy_arguments({"DOCKER_CONFIG": str(tmp_path)}, "unix:///var/run/docker.sock")
    (tmp_path / "config.json").write_text('{"proxies": {"other": {"httpProxy": "x"}, "default": null}}')
    assert {} == proxy_arguments({"DOCKER_CONFIG": str(tmp_path)}, "unix:///var/run/docker.sock")


def test_a_choice_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(Refused, match="Docker's context 'three'") as caught:
        chosen_engine({"DOCKER_CONFIG": str(folder), "DOCKER_CONTEXT": "three"})
    assert "docker context ls" in caught.value.remedy
