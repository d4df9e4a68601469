"""A fetch is killed at each of its requests, and before each change that it makes to the folder."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from buildtools.stages.fetch import FetchRequest, fetch_release
from buildtools.stages.releases import named_release
from buildtools.task_context import TaskContext
from tests.conftest import S3Service
from tests.faults.killing import KillSwitch, killable_place
from tests.members import put_archive, put_image, put_release, tgz
from tests.releases import ReleasePlace

pytestmark = pytest.mark.exhaustive

OLD, NEW = "1.0.0", "1.1.0"
CHANGES = ("os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.utime")


def fetch(task: TaskContext, version: str, to: Path) -> object:
    """Fetch a version, its images as files."""
    return fetch_release(task, FetchRequest(named_release(task, version), to, layout=True))


def fetch_and_die(task: TaskContext, version: str, to: Path, at: int) -> object:
    """The same, killed before the ``at``-th change to the folder."""
    left = at

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        path = os.fsdecode(arguments[0]) if arguments and isinstance(arguments[0], str | bytes | os.PathLike) else ""
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in CHANGES:
            # What has a descriptor instead of a path is a file that was opened here.
            left -= path.startswith(str(to)) or isinstance(arguments[0], int)
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return fetch(task, version, to)


def tree(folder: Path) -> dict[str, object]:
    """What is below a folder."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Machine:
    """Two releases, and a folder that has the first; ``trees`` is what each of them looks like."""

    switch: KillSwitch
    to: Path
    trees: Mapping[str, Mapping[str, object]]

    def fetch(self, version: str) -> None:
        with self.switch.place.task() as task:
            fetch(task, version, self.to)

    def reset(self) -> None:
        """Back to the first release alone."""
        shutil.rmtree(self.to, ignore_errors=True)
        shutil.copytree(self.to.parent / OLD, self.to, symlinks=True)

    def check_is_whole(self) -> str:
        """The current version, all of which must be there."""
        version = str((self.to / "current").readlink())
        assert self.trees[version] == tree(self.to / version)
        return version


def release(place: ReleasePlace, version: str) -> None:
    image = put_image(place.client, f"{place.settings.namespace}/app", version, {"app": version.encode()})
    files = {"bin/daemon": version.encode(), "lib/data": version.encode() * 1000}
    archives = [put_archive(place.store, name, version, tgz(name, files)) for name in ("agent", "daemon")]
    put_release(place.store, version, image, *archives)


@pytest.fixture
def machine(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[Machine]:
    with killable_place(tmp_path, registry, s3, environment) as switch:
        trees = {}
        for version in (OLD, NEW):
            release(switch.place, version)
            with switch.place.task() as task:
                fetch(task, version, tmp_path / version)
            trees[version] = tree(tmp_path / version / version)
        machine = Machine(switch, tmp_path / "machine", trees)
        machine.reset()
        yield machine


def kill_at_each(machine: Machine, killed: Callable[[int], bool]) -> tuple[int, set[str]]:
    """How many moments there were, and what was current after them."""
    at, was_killed, versions = 0, True, set()
    while was_killed:
        at += 1
        was_killed = killed(at)
        versions.add(machine.check_is_whole())
        machine.fetch(NEW)
        assert (NEW, {OLD, NEW, "current"}) == (machine.check_is_whole(), {path.name for path in machine.to.iterdir()})
        machine.reset()
    return at, versions


def test_killed_at_any_request_it_leaves_the_old_version_and_the_next_run_finishes(machine: Machine) -> None:
    at, versions = kill_at_each(
        machine, lambda at: machine.switch.killed(at, partial(fetch, version=NEW, to=machine.to))
    )
    assert (True, {OLD, NEW}) == (at > 10, versions)


def test_killed_before_any_change_it_leaves_the_old_version_and_the_next_run_finishes(machine: Machine) -> None:
    # No request is the last one: the process ends by itself.
    def killed(at: int) -> bool:
        return machine.switch.killed(10**6, partial(fetch_and_die, version=NEW, to=machine.to, at=at))

    at, versions = kill_at_each(machine, killed)
    assert (True, {OLD, NEW}) == (at > 30, versions)
