"""A new version of a daemon of which nothing but the version is new."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from random import Random

from buildtools.archive.checksums import PART
from tests.e2e.project import Project

SENT = re.compile(r"s3 PUT .*?, (\d+) bytes sent")
DAEMON = Random(1).randbytes(PART + (6 << 20))


def sent_size(project: Project, version: str, log: Path) -> int:
    """The bytes that a release of another version sends to the store."""
    project.git("commit", "--allow-empty", "-m", version)
    project.tag(version)
    # Each is the first of an agent.
    shutil.rmtree(project.home)
    project.home.mkdir()
    project.done("publish", BUILDTOOLS_LOG=str(log))
    return sum(int(match[1]) for match in SENT.finditer(log.read_text()))


def test_what_the_last_version_has_is_not_sent_again(project: Project, tmp_path: Path) -> None:
    project.image("app", "FROM scratch\nCOPY mark /\n", mark=project.mark)
    name = project.name("daemon")
    project.configure(distribution={name: {"root": "build/d"}})
    (project.path / ".gitignore").write_text("build\ndist\n")
    (project.path / "build/d/lib").mkdir(parents=True)
    (project.path / "build/d/lib/daemon.jar").write_bytes(DAEMON)
    project.commit("all")
    first, second = (sent_size(project, f"1.{minor}.0", tmp_path / f"{minor}.log") for minor in range(2))
    assert (True, True) == (first > len(DAEMON), second < len(DAEMON) / 50)
    assert [] == [key for key in project.place.objects() if "joint" in key]
    project.done("verify", "--deep")
    key = f"{project.mark}/.segments/{name}.json"
    last = project.place.read(key)
    assert f"{name}-1.1.0.tgz" in last.decode()
    # A dirty version's archive does not last.
    (project.path / ".gitignore").write_text("build\ndist\nmore\n")
    project.done("publish", "--allow-dirty")
    assert last == project.place.read(key)


def test_what_is_new_is_looked_for_once_and_read_back_once(project: Project, tmp_path: Path) -> None:
    project.image("app", "FROM scratch\nCOPY mark /\n", mark=project.mark)
    name, log = project.name("daemon"), tmp_path / "requests.log"
    project.configure(distribution={name: {"command": "mkdir -p build/d && cp mark build/d", "root": "build/d"}})
    (project.path / "mark").write_text(project.mark)
    project.commit("all")
    project.tag("1.0.0")
    project.done("publish", BUILDTOOLS_LOG=str(log))
    questions = re.findall(r" s3 (GET|HEAD) \S*/(daemon\S*|releases/\S*) (\d+), ", log.read_text())
    archive, manifest = f"{name}/{name}-1.0.0.tgz", "releases/1.0.0.json"
    # The body of an answer tells that only the object is missing, which the answer to HEAD cannot.
    assert [("HEAD", "404"), ("GET", "404"), ("HEAD", "200")] == [
        (method, status) for method, key, status in questions if archive.endswith(key)
    ]
    assert [("GET", "404"), ("GET", "200")] == [
        (method, status) for method, key, status in questions if manifest.endswith(key)
    ]
