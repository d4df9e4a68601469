"""A publish is killed at many moments, or told to end while it works; the same command again completes the release."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeProject
from tests.e2e.project import Outcome, Place, Project
from tests.faults.proxy import Wire, wire_to
from tests.waiting import until

WRITE = re.compile(rb"(?:PUT|POST|PATCH|DELETE) ")


@dataclass
class Trigger:
    """Signals a process when it sends its ``at``-th request that writes, to the registry or to the store."""

    at: int
    number: signal.Signals
    process: subprocess.Popen[str] | None = None
    seen: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sent(self, data: bytes) -> bytes | None:
        if not WRITE.match(data):
            return data
        with self.lock:
            self.seen += 1
            if self.seen != self.at:
                return data
        assert self.process
        self.process.send_signal(self.number)
        return None if self.number is signal.SIGKILL else data


@dataclass(frozen=True)
class Wired:
    """A project that reaches registry and store over wires."""

    project: Project
    wires: tuple[Wire, Wire]
    store: str

    def publish(self, trigger: Trigger) -> Outcome:
        for wire in self.wires:
            wire.sent = trigger.sent
        with trigger.lock:
            trigger.process = self.project.start("publish", AWS_ENDPOINT_URL_S3=self.store)
        return self.project.finish(trigger.process)


@pytest.fixture
def wired(place: Place, registry: str, project_in: MakeProject) -> Iterator[Wired]:
    with wire_to(registry) as to_registry, wire_to(place.s3.endpoint.removeprefix("http://")) as to_store:
        project = project_in(replace(place, registry=to_registry.address, login=""))
        project.image("base", "FROM scratch\nCOPY data /\n", data="0")
        project.image("app", "FROM base-{mark}\nCOPY data /app\n", data="0")
        project.configure(
            moving_tags=["latest"],
            distribution={
                project.name("daemon"): {"command": "mkdir -p build/d && cp *.toml build/d", "root": "build/d"}
            },
        )
        yield Wired(project, (to_registry, to_store), f"http://{to_store.address}")


def version(project: Project, number: int) -> str:
    for short in ("base", "app"):
        project.write(f"src/docker/{project.name(short)}/data", f"{project.mark} {number}")
    project.commit(f"version {number}")
    project.tag(f"1.0.{number}")
    return f"1.0.{number}"


def missing(project: Project, version: str) -> list[str] | None:
    """What the manifest of a version names and is not there; None where there is no manifest."""
    objects = project.place.objects()
    key = f"{project.mark}/releases/{version}.json"
    if key not in objects:
        return None
    manifest = json.loads(project.place.read(key))
    absent = [
        image["name"]
        for image in manifest["images"]
        if project.place.digest(image["repository"], version) != image["digest"]
    ]
    return absent + [each["name"] for each in manifest["archives"] if f"{project.mark}/{each['key']}" not in objects]


def test_killed_at_many_moments_it_completes_the_same_release(wired: Wired) -> None:
    project = wired.project
    # The first preflight leaves an object by which later ones find out what the store can do.
    for number in (0, 1):
        undisturbed = Trigger(0, signal.SIGKILL)
        version(project, number)
        assert 0 == wired.publish(undisturbed).code
    moments = random.Random(20_261_123).sample(range(1, undisturbed.seen), 4)
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
    for number, (moment, what) in enumerate([*zip(moments, signals, strict=True), (undisturbed.seen, signal.SIGKILL)]):
        name = version(project, number + 2)
        killed = wired.publish(Trigger(moment, what))
        assert (-what if what is signal.SIGKILL else 128 + what) == killed.code, killed.err
        assert not missing(project, name), f"{moment}: the manifest names what is not there"
        if what is not signal.SIGKILL:
            assert killed.last.startswith(f"interrupted ({what.name}): "), killed.err
        again = wired.publish(Trigger(0, what))
        assert (0, []) == (again.code, missing(project, name)), again.err
    repository = project.repository("app")
    assert project.place.digest(repository, name) == project.place.digest(repository, "latest")


def test_a_signal_while_layers_are_sent_ends_the_release_before_its_tags(wired: Wired) -> None:
    version(wired.project, 0)
    process: list[subprocess.Popen[str]] = []
    started = threading.Event()

    def interrupt(data: bytes) -> bytes:
        if data.startswith(b"PUT ") and b"/blobs/uploads/" in data:
            started.wait()
            process[0].send_signal(signal.SIGINT)
        return data

    wired.wires[0].sent = interrupt
    process.append(wired.project.start("publish", AWS_ENDPOINT_URL_S3=wired.store))
    started.set()
    outcome = wired.project.finish(process[0])
    assert 128 + signal.SIGINT == outcome.code, outcome.err
    assert [] == [tag for tag in wired.project.place.tags(*wired.project.folders()) if tag.endswith(":1.0.0")]
    assert [] == [key for key in wired.project.place.objects() if key.startswith(wired.project.mark)]


@pytest.mark.parametrize("command", ["push", "publish", "verify"])
def test_a_signal_ends_the_wait_for_a_registry_that_has_fallen_silent(wired: Wired, command: str) -> None:
    version(wired.project, 0)
    assert 0 == wired.publish(Trigger(0, signal.SIGINT)).code
    process: list[subprocess.Popen[str]] = []
    started, ended = threading.Event(), threading.Event()
    silent: list[bool] = []

    def fall_silent(data: bytes) -> bytes:
        if b"/manifests/" in data:
            started.wait()
            process[0].send_signal(signal.SIGINT)
            # Whoever waits for the answer gets it in the end.
            silent.append(ended.wait(60))
        return data

    wired.wires[0].sent = fall_silent
    process.append(wired.project.start(command, AWS_ENDPOINT_URL_S3=wired.store))
    started.set()
    outcome = wired.project.finish(process[0])
    ended.set()
    assert 128 + signal.SIGINT == outcome.code, outcome.err
    assert outcome.last.startswith("interrupted (SIGINT): ")
    assert False not in silent


@contextmanager
def asleep(project: Project, *command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command at the moment when what it runs sleeps, and how that is told from all other processes."""
    mark = f"sleep {10**9 + int(project.mark, 16) % 10**9}"
    project.image("app", f"FROM {{base}}\nRUN echo {project.mark}; echo now asleep; {mark}\n")
    project.configure(distribution={project.name("daemon"): {"command": f"echo now asleep; {mark}", "root": "build/d"}})
    project.commit("all")
    project.tag("1.0.0")
    process = project.start(*command)
    assert process.stderr
    for line in process.stderr:
        if line.endswith("| now asleep\n"):
            break
    while not running(mark):
        assert process.poll() is None
    yield process, mark


def running(mark: str) -> list[str]:
    """The processes of this machine whose command line is this; those of containers are among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if command.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace") == mark:
            found.append(path.parent.name)
    return found


@pytest.mark.parametrize("command", ["build", "dist", "publish"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_runs_and_the_command_says_so(
    project: Project, number: signal.Signals, command: str
) -> None:
    with asleep(project, command) as (process, mark):
        # A terminal interrupts everything that it started, a job server only the one process it knows.
        if number is signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        outcome = project.finish(process)
    assert 128 + number == outcome.code, outcome.err
    # The engine, told to stop, takes a moment to end a container.
    until(lambda: not running(mark))
    assert outcome.last.startswith(f"interrupted ({number.name}): ")
    assert "" == outcome.out
    assert [] == [tag for tag in project.place.tags(*project.folders()) if tag.endswith(":1.0.0")]
