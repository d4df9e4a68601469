"""``runit``: the service folder, and what real runit and a real engine make of it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.project import Project
from tests.killed_program import killed_at
from tests.payload.conftest import require
from tests.small_disk import small_disk
from tests.waiting import until

pytestmark = pytest.mark.exhaustive

# Ends on TERM, as a service should; a first process without a handler would not.
SERVES = """\
FROM {base}
COPY mark /
CMD ["sh", "-c", "trap 'exit 0' TERM; echo serving $WORD; while :; do sleep 0.1; done"]
"""
DEAF = 'FROM {base}\nCOPY mark /\nCMD ["sh", "-c", "trap : TERM; echo serving; while :; do sleep 0.1; done"]\n'
ENDS = 'FROM {base}\nCOPY mark /\nCMD ["sh", "-c", "echo ending; exit 3"]\n'


@dataclass(frozen=True)
class Service:
    """A service folder with a runsv of its own, and the engine that its container is in."""

    folder: Path
    environment: dict[str, str]

    def docker(self, *arguments: str, check: bool = True) -> list[str]:
        """The lines that the reference client prints."""
        done = subprocess.run(["docker", *arguments], env=self.environment, check=check, capture_output=True, text=True)
        return done.stdout.splitlines()

    def sv(self, command: str) -> str:
        """What ``sv`` says; it must not have waited in vain."""
        done = subprocess.run(["sv", command, self.folder], capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stdout
        return done.stdout

    @property
    def containers(self) -> list[str]:
        """The ids of this service's containers, dead ones too."""
        return self.docker("ps", "--all", "--quiet", "--filter", f"label=buildtools.service={self.folder}")

    @property
    def running(self) -> list[str]:
        """The ids of this service's containers that run."""
        return self.docker("ps", "--quiet", "--filter", f"label=buildtools.service={self.folder}")

    @property
    def log(self) -> str:
        """What svlogd has written."""
        current = self.folder / "log/main/current"
        return current.read_text() if current.exists() else ""

    def starts(self, times: int) -> None:
        """Wait until the container has started so often."""
        until(lambda: times == self.log.count("serving"))

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """A runsv for as long as the context lasts."""
        runsv = subprocess.Popen(["runsv", self.folder], env=self.environment)
        until((self.folder / "supervise/ok").exists)
        try:
            yield
        finally:
            runsv.terminate()
            runsv.wait(timeout=60)
            assert [] == self.containers


def released(project: Project, dockerfile: str, version: str = "1.0.0") -> Project:
    project.image("app", dockerfile, mark=project.mark + version)
    project.commit(version)
    project.tag(version)
    project.done("publish")
    return project


def write(project: Project, *flags: str) -> Service:
    for program in ("runsv", "sv", "chpst", "svlogd", "docker"):
        require(program)
    folder = project.home / "service"
    project.done("runit", project.name("app"), "--to", str(folder), *flags)
    engine = project.place.engine.environment
    environment = {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "DOCKER_CONFIG": project.place.variables["DOCKER_CONFIG"],
        **engine,
    }
    (folder / "env/NAME").write_text(f"service-{project.mark}\n")
    (folder / "env/DOCKER_OPTIONS").write_text("--network none\n")
    return Service(folder, environment)


def test_it_comes_back_when_container_or_client_is_killed_and_stops_at_once(project: Project) -> None:
    service = write(released(project, SERVES))
    (service.folder / "env/WORD").write_text("words of mine")
    with service.supervised():
        service.starts(1)
        assert "serving words of mine" in service.log
        service.docker("kill", *service.running)
        service.starts(2)
        # The container that the client leaves behind goes, and its name with it.
        client = int((service.folder / "supervise/pid").read_text())
        os.kill(client, signal.SIGKILL)
        service.starts(3)
        assert 1 == len(service.containers)
        began = time.monotonic()
        assert service.sv("stop").startswith("ok: down:")
        assert time.monotonic() - began < 7
        assert [] == service.containers


def test_an_image_that_ignores_the_signal_is_stopped_before_sv_gives_up(project: Project) -> None:
    service = write(released(project, DEAF))
    with service.supervised():
        service.starts(1)
        assert service.sv("stop").startswith("ok: down:")


def test_an_image_that_ends_at_once_is_waited_for_longer_each_time_and_still_stops_at_once(project: Project) -> None:
    service = write(released(project, ENDS))
    pause = service.folder / "supervise/pause"
    with service.supervised():
        until(lambda: service.log.count("ending") == 3)
        until(lambda: pause.read_text() == "8\n")
        assert service.sv("stop").startswith("ok: down:")
        assert [] == service.containers


def test_a_missing_image_is_told_of_and_tried_again(project: Project) -> None:
    service = write(released(project, SERVES))
    right = (service.folder / "env/IMAGE").read_text()
    (service.folder / "env/IMAGE").write_text(right.partition("@")[0] + f"@sha256:{'0' * 64}\n")
    with service.supervised():
        until(lambda: "not found" in service.log or "manifest unknown" in service.log)
        (service.folder / "env/IMAGE").write_text(right)
        service.starts(1)


def test_a_name_that_somebody_else_has_is_left_to_them(project: Project) -> None:
    service = write(released(project, SERVES))
    name = (service.folder / "env/NAME").read_text().strip()
    service.docker("create", "--name", name, project.place.engine.base_busybox, "true")
    try:
        with service.supervised():
            until(lambda: "already in use" in service.log)
            assert [] == service.containers
            service.docker("rm", name)
            service.starts(1)
    finally:
        service.docker("rm", "--force", name, check=False)


def test_the_next_release_changes_the_image_alone_and_runs_after_a_restart(project: Project) -> None:
    service = write(released(project, SERVES), "--release", "1.0.0")
    before = {path: path.stat().st_mtime_ns for path in service.folder.rglob("*") if path.is_file()}
    with service.supervised():
        service.starts(1)
        released(project, SERVES.replace("serving", "serving 2"), "1.0.1")
        project.done("channel", "stage", "--to", "1.0.1")
        outcome = project.done(
            "runit", project.name("app"), "--to", str(service.folder), "--release", "stage", "--json"
        )
        assert (["env/IMAGE"], "1.0.1") == (outcome.document["changes"], outcome.document["version"])
        assert [service.folder / "env/IMAGE"] == [p for p, time_ns in before.items() if p.stat().st_mtime_ns != time_ns]
        service.sv("restart")
        until(lambda: "serving 2" in service.log)
        digest = project.place.digest(project.repository("app"), "1.0.1")
        assert [f"{project.place.registry}/{project.repository('app')}@{digest}"] == service.docker(
            "inspect", "--format", "{{.Config.Image}}", *service.containers
        )
    again = project.done("runit", project.name("app"), "--to", str(service.folder), "--release", "stage")
    assert again.last.endswith("runs 1.0.1 already: nothing was written")


def mounts() -> int:
    return len(Path("/proc/self/mounts").read_text().splitlines())


def test_restarts_leave_no_container_no_mount_and_no_growth(project: Project) -> None:
    service = write(released(project, SERVES))
    with service.supervised():
        service.starts(1)
        before, files = mounts(), sorted(service.folder.rglob("*"))
        for count in range(2, 52):
            service.sv("restart")
            service.starts(count)
        assert (1, files) == (len(service.containers), sorted(service.folder.rglob("*")))
        # Tests beside this one mount and unmount too.
        until(lambda: before + 1 >= mounts())


@contextmanager
def bridge() -> Iterator[str]:
    """A network bridge for an engine of a test's own. Without one, that engine would delete docker0."""
    name = f"bt{secrets.token_hex(4)}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", "172.31.254.1/24", "dev", name], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


def start_engine(service: Service, folder: Path, bridge_name: str) -> subprocess.Popen[bytes]:
    socket = folder / "docker.sock"
    options = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
    options += ["--host", f"unix://{socket}", "--bridge", bridge_name, "--iptables=false", "--storage-driver", "vfs"]
    with (folder / "log").open("ab") as log:
        engine = subprocess.Popen(["dockerd", *options], env=service.environment, stdout=log, stderr=log)
    try:
        until(
            lambda: subprocess.run(["docker", "version"], env=service.environment, capture_output=True).returncode == 0
        )
    except BaseException:
        engine.kill()
        engine.wait()
        raise
    return engine


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for an engine: the sockets of its containerd may have a path of 107 bytes, and have names of 40."""
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        yield Path(folder)


def test_it_comes_back_when_the_engine_does(project: Project, short_folder: Path) -> None:
    require("dockerd")
    ours = write(released(project, SERVES))
    service = Service(ours.folder, {**ours.environment, "DOCKER_HOST": f"unix://{short_folder}/docker.sock"})
    with bridge() as name:
        engine = start_engine(service, short_folder, name)
        try:
            with service.supervised():
                service.starts(1)
                engine.terminate()
                engine.wait()
                engine = start_engine(service, short_folder, name)
                service.starts(2)
                assert 1 == len(service.containers)
        finally:
            engine.terminate()
            engine.wait()
            # What the engine leaves mounted.
            for line in Path("/proc/self/mounts").read_text().splitlines():
                if line.split()[1].startswith(f"{short_folder}/"):
                    subprocess.run(["umount", "--lazy", line.split()[1]], check=True)


def test_a_dry_run_and_a_refusal_write_nothing(project: Project) -> None:
    released(project, SERVES)
    folder, name = project.home / "service", project.name("app")
    dry = project.done("runit", name, "--to", str(folder), "--dry-run")
    assert dry.last.startswith(
        "dry run: run, finish, control/t, log/run, log/main/config, env/IMAGE would be written in"
    )
    outcomes = [
        project.invoke("runit", name),
        project.invoke("runit", name[:-1], "--to", str(folder)),
        project.invoke("runit", name, "--to", str(folder), "--release", "9.9.9"),
    ]
    wanted = ["error: runit needs a folder", f"did you mean {name}?", "version 9.9.9 is not released"]
    assert [(2, True)] * 3 == [(each.code, words in each.last) for each, words in zip(outcomes, wanted, strict=True)], (
        outcomes
    )
    assert not folder.exists()
    folder.mkdir()
    (folder / "run").write_text("#!/bin/sh\nexec mine\n")
    stranger = project.invoke("runit", name, "--to", str(folder))
    assert (2, True) == (stranger.code, "belongs to another service" in stranger.last)
    assert [folder / "run"] == [*folder.iterdir()]


def test_on_a_full_disk_nothing_new_stays(project: Project) -> None:
    released(project, SERVES)
    disk = project.home / "disk"
    with small_disk(disk, "8k"):
        (disk / "other").mkdir()
        for folder in (disk / "app", disk / "other"):
            outcome = project.invoke("runit", project.name("app"), "--to", str(folder))
            reason = (
                f"error: cannot write {folder} (No space left on device): correct that, and run the same command again"
            )
            assert (1, reason) == (outcome.code, outcome.last)
        assert [] == [path for path in disk.rglob("*") if ".partial" in path.name or path.name == "app"]


def test_killed_at_any_moment_the_folder_is_whole_or_absent_and_the_next_run_ends_it(project: Project) -> None:
    released(project, SERVES)
    folder = project.home / "service-folder"
    arguments = ["runit", project.name("app"), "--to", str(folder)]
    number, was_killed = 0, True
    while was_killed:
        number += 5
        shutil.rmtree(folder, ignore_errors=True)
        was_killed = killed_at(number, folder.name, *arguments, folder=project.path, environment=project.environment())
        assert folder.exists() <= (folder / "env/IMAGE").exists()
        outcome = json.loads(project.done(*arguments, "--json").out)
        assert (folder / "env/IMAGE").read_text() == f"{outcome['image']}\n"
    assert [] == [path for path in project.home.rglob("*.partial") if "service-folder" in str(path)]
    modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert {"run": 0o755, "env/IMAGE": 0o644, "env": 0o700} == {
        name: modes[name] for name in ("run", "env/IMAGE", "env")
    }
    assert number > 10
