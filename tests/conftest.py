"""Real services for tests, one set per run of pytest, shared by all of its workers.

The first test that asks for a service starts it; a keeper process, tests/keeper.py, stops all of them when the run is
over, however it ends. Under CI a service that is missing fails the test, elsewhere it skips it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from buildtools import BuildToolsError
from buildtools.image.engine.client import Engine
from buildtools.sandbox import base, process, s3
from buildtools.sandbox import engine as engines
from buildtools.sandbox import registry as registries
from tests.cosign import Cosign

_ROOT = Path(__file__).parent.parent
# What a program may see of the environment that pytest was started in; nothing of the user's own settings.
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "DOCKER_HOST", "VIRTUAL_ENV")


@dataclass(frozen=True)
class EngineService:
    """A Docker engine. ``environment`` has ``DOCKER_HOST``; ``base_busybox`` is an image that it has."""

    host: str
    environment: Mapping[str, str]
    base_busybox: str


@dataclass(frozen=True)
class HtpasswdRegistry:
    """A registry that asks for a login. ``docker_config`` is a folder for ``DOCKER_CONFIG`` that holds it."""

    host: str
    user: str
    password: str = field(repr=False)
    docker_config: Path


@dataclass(frozen=True)
class S3Service:
    """An S3 server. ``bucket()`` makes a fresh bucket and gives its name; ``environment`` has the ``AWS_*`` for it."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    bucket: Callable[[], str] = field(repr=False)


@dataclass(frozen=True)
class Repository:
    """A git repository made by git itself, with a fixed identity and dates one minute apart."""

    path: Path

    def git(self, *arguments: str, check: bool = True, variables: Mapping[str, str] = MappingProxyType({})) -> str:
        """What git prints, without the line end."""
        environment = {**_GIT, "PATH": os.environ["PATH"], "HOME": str(self.path), **variables}
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=environment, check=check, capture_output=True, text=True
        )
        return done.stdout.rstrip("\n")

    def write(self, name: str, text: str = "") -> Path:
        """A file of this content, with the folders it needs."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def commit(self, message: str = "change", **files: str) -> str:
        """The id of a new commit of all that is there and ``files`` (name: content), a minute after the last."""
        for name, text in files.items():
            self.write(name, text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message, variables=self._dates())
        return self.git("rev-parse", "HEAD")

    def tag(self, name: str, at: str = "HEAD", *, message: str = "release", lightweight: bool = False) -> None:
        """Tag a commit, annotated unless told otherwise."""
        self.git(
            "tag", *([] if lightweight else ["--annotate", "--message", message]), name, at, variables=self._dates()
        )

    def _dates(self) -> dict[str, str]:
        count = len(self.git("rev-list", "--all", check=False).splitlines())
        return {f"GIT_{who}_DATE": f"{1_700_000_000 + 60 * count} +0000" for who in ("AUTHOR", "COMMITTER")}


_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "A. Author",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_COMMITTER_NAME": "A. Author",
    "GIT_COMMITTER_EMAIL": "author@example.com",
    "LC_ALL": "C.UTF-8",
}


def pytest_configure() -> None:
    """Let signals of a terminal arrive, here and in all that is started: a shell's background jobs ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository on branch main in ``tmp_path/repository``."""
    return make_repository(tmp_path / "repository")


def make_repository(path: Path) -> Repository:
    """An empty repository on branch main at ``path``."""
    path.mkdir(parents=True)
    made = Repository(path)
    made.git("init", "--quiet", "--initial-branch", "main")
    return made


@pytest.fixture(scope="session")
def environment() -> Mapping[str, str]:
    """The environment for programs under test: where programs and the engine are, and nothing else of the user's."""
    found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # The programs of a virtual environment that is not activated count too.
    return {**found, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}", "LC_ALL": "C.UTF-8"}


class Services:
    """The folder that all workers of this run share; what it holds of a service is how to reach it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def shared(self, name: str, start: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """How to reach the service of this name, started by whoever comes first.

        A start that failed is not tried again by every other test.
        """
        known = self.folder / f"{name}.known.json"
        with self.locked(name):
            if not known.exists():
                try:
                    made = start()
                except BuildToolsError as error:
                    made = {"missing": str(error)}
                known.write_text(json.dumps(made))
            found: dict[str, Any] = json.loads(known.read_text())
        if "missing" in found:
            reason = f"no {name}: {found['missing']}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        return found

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@pytest.fixture(scope="session")
def services(environment: Mapping[str, str]) -> Services:
    """The services of this run of pytest, stopped when its first process is gone."""
    worker = "PYTEST_XDIST_WORKER" in os.environ
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_hex(16)
    owner = os.getppid() if worker else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"buildtools-tests-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    services = Services(folder, environment)
    with services.locked("keeper"):
        if not (folder / "keeper.pid").exists():
            keeper = [sys.executable, str(Path(__file__).with_name("keeper.py")), str(owner), str(folder)]
            ready = folder / "keeper.ready"
            process.start("keeper", keeper, folder, environment=dict(os.environ), answers=ready.exists)
    return services


@pytest.fixture(scope="session")
def engine(services: Services) -> EngineService:
    """The engine that answers, or one that was started for this run."""

    def start() -> dict[str, Any]:
        found = engines.EngineAddress.named(services.environment)
        if not found.answers():
            engines.refuse_start(found)
            found = engines.start(services.folder, environment=services.environment)
        return {"host": found.host, "busybox": base.busybox(found, environment=services.environment)}

    found = services.shared("engine", start)
    return EngineService(found["host"], {"DOCKER_HOST": found["host"]}, found["busybox"])


@pytest.fixture(scope="session")
def modern_engine(
    engine: EngineService, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """``DOCKER_HOST`` of the same engine as if it had no ``POST /grpc`` and no ``POST /session``."""
    path = tmp_path_factory.mktemp("modern") / "socket"
    command = [sys.executable, "-m", "tests.image.engine.modern_engine", str(path)]
    with subprocess.Popen(
        command, env={**environment, **engine.environment}, cwd=_ROOT, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout
        assert b"listens\n" == program.stdout.readline()
        yield f"unix://{path}"
        program.terminate()


@pytest.fixture(scope="session", params=["26", "26c"])
def other_engine(request: pytest.FixtureRequest, services: Services) -> EngineService:
    """An engine of Debian 13, started for this run: once with its own image store, once (c) with containerd's."""
    return _engine_of_debian_13(request.param, services)


@pytest.fixture(scope="session")
def content_engine(services: Services) -> EngineService:
    """An engine that keeps images as content: that of Debian 13 with containerd's store."""
    return _engine_of_debian_13("26c", services)


@pytest.fixture(scope="session")
def layers_engine(services: Services) -> EngineService:
    """An engine that keeps images as unpacked layers alone: that of Debian 13 with its own store."""
    return _engine_of_debian_13("26", services)


@pytest.fixture(scope="session")
def fresh_engine(services: Services) -> EngineService:
    """One more such as ``content_engine``, as a fresh agent has it."""
    return _engine_of_debian_13("26c", services, "-fresh")


def _engine_of_debian_13(kind: str, services: Services, number: str = "") -> EngineService:
    """The engine of Debian 13 of this kind and number, with data of its own."""
    name = f"engine-{kind}{number}"

    def start() -> dict[str, Any]:
        socket = services.folder / f"{name}.sock"
        found = engines.EngineAddress(f"unix://{socket}")
        command = [str(_ROOT / "script/engines"), kind, "--serve", str(socket)]
        # Debian's packages have to come first, where this machine has not yet fetched them.
        process.start(
            name, command, services.folder, environment=services.environment, answers=found.answers, seconds=300
        )
        return {"host": found.host, "busybox": base.busybox(found, environment=services.environment)}

    found = services.shared(name, start)
    return EngineService(found["host"], {"DOCKER_HOST": found["host"]}, found["busybox"])


@pytest.fixture(scope="session")
def buildkit_host(services: Services, environment: Mapping[str, str]) -> str:
    """The address of a BuildKit daemon: ``BUILDKIT_HOST``, or the BuildKit of an engine that looks like one.

    No package that a test can count on has a daemon of its own.
    """
    if "BUILDKIT_HOST" in os.environ:
        return os.environ["BUILDKIT_HOST"]
    engine = _engine_of_debian_13("26c", services)

    def start() -> dict[str, Any]:
        path = services.folder / "buildkitd.sock"
        process.start(
            "buildkitd",
            [sys.executable, "-m", "tests.image.engine.modern_engine", str(path), "--only-grpc"],
            services.folder,
            environment={**environment, **engine.environment, "PYTHONPATH": str(_ROOT)},
            answers=path.exists,
        )
        return {"host": f"unix://{path}"}

    host: str = services.shared("buildkitd", start)["host"]
    return host


@pytest.fixture(scope="session")
def registry_busybox(services: Services, engine: EngineService, registry: str) -> str:
    """The reference of an image with a shell in the registry that lets everybody in."""
    reference = f"{registry}/outside/busybox:1"

    def start() -> dict[str, Any]:
        with closing(Engine.connect(engine.environment)) as client:
            client.tag(engine.base_busybox, reference)
            try:
                for line in client.api.push(reference, stream=True, decode=True, auth_config={}):
                    assert "error" not in line, line
            finally:
                client.untag(reference)
        return {"reference": reference}

    services.shared("registry-busybox", start)
    return reference


@pytest.fixture(scope="session")
def registry(services: Services) -> str:
    """``HOST:PORT`` of a registry that lets everybody in."""

    def start() -> dict[str, Any]:
        (port,) = process.free_ports(1)
        registries.start(services.folder, port, environment=services.environment)
        return {"host": f"127.0.0.1:{port}"}

    host: str = services.shared("registry", start)["host"]
    return host


@pytest.fixture(scope="session")
def registry_htpasswd(services: Services) -> HtpasswdRegistry:
    """A registry that asks for a login."""

    def start() -> dict[str, Any]:
        (port,) = process.free_ports(1)
        user, password = "sandbox", secrets.token_hex(16)
        registries.start(
            services.folder,
            port,
            environment=services.environment,
            user=user,
            password=password,
            name="registry-htpasswd",
        )
        docker_config = services.folder / "docker"
        registries.write_docker_config(docker_config, f"127.0.0.1:{port}", user, password)
        return {"host": f"127.0.0.1:{port}", "user": user, "password": password, "docker_config": str(docker_config)}

    found = services.shared("registry-htpasswd", start)
    return HtpasswdRegistry(found["host"], found["user"], found["password"], Path(found["docker_config"]))


@pytest.fixture(scope="session", name="s3")
def s3_service(services: Services) -> S3Service:
    """An S3 server, as its one administrator."""

    def start() -> dict[str, Any]:
        ports, keys = s3.Ports.free(), s3.Keys.fresh()
        s3.start(services.folder, ports, keys, environment=services.environment)
        return {"ports": vars(ports), "access": keys.access, "secret": keys.secret}

    found = services.shared("s3", start)
    ports, keys = s3.Ports(**found["ports"]), s3.Keys(found["access"], found["secret"])

    def bucket() -> str:
        name = f"bucket-{secrets.token_hex(6)}"
        s3.create_bucket(ports, name)
        return name

    return S3Service(
        f"http://127.0.0.1:{ports.s3}", s3.REGION, keys.access, keys.secret, s3.aws_environment(ports, keys), bucket
    )


@pytest.fixture
def cosign(tmp_path: Path, services: Services) -> Cosign:
    """Debian 13's, which ``script/bootstrap --tests`` brings, with a home of this test's own."""
    return _cosign("trixie", tmp_path, services)


@pytest.fixture
def newer_cosign(tmp_path: Path, services: Services) -> Cosign:
    """That of Debian's development."""
    return _cosign("sid", tmp_path, services)


def _cosign(suite: str, folder: Path, services: Services) -> Cosign:
    def unpack() -> dict[str, Any]:
        command = [str(_ROOT / "script/unpacked"), suite, "cosign"]
        done = subprocess.run(command, env=dict(services.environment), capture_output=True, text=True, check=False)
        return {"missing": done.stderr} if done.returncode else {"program": f"{done.stdout.strip()}/usr/bin/cosign"}

    home = folder / f"cosign-{suite}"
    home.mkdir()
    return Cosign(Path(services.shared(f"cosign-{suite}", unpack)["program"]), home, services.environment)
