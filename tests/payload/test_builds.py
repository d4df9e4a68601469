"""Gradle, and javac alone: both lay out the same daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.payload.conftest import ROOT, VERSION, require


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of all that the daemon is built from."""
    copy = tmp_path / "source"
    for name in ("build.gradle", "settings.gradle", "src/main", "src/dist", "script"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name)
        else:
            shutil.copy2(ROOT / name, copy / name)
    return copy


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): (file.stat().st_mode & 0o777, file.read_bytes()) for file in files}


def run(*command: str | Path, **variables: str) -> None:
    subprocess.run(command, env={**os.environ, **variables}, check=True)


@pytest.mark.exhaustive
def test_gradle_and_javac_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    require("gradle")
    require("javac")
    # What a tag may hold and a file name may not.
    version = 'release/1.2-3-g0123456"'
    named = "logdaemon-release_1.2-3-g0123456_"
    run(source / "script/installdist", "distTar", BUILDTOOLS_VERSION=version)
    run(source / "script/javadist", tmp_path / "plain", BUILDTOOLS_VERSION=version)
    made = content(source / "build/install/logdaemon")
    assert ["bin/logdaemon", f"lib/{named}.jar"] == sorted(made)
    assert content(tmp_path / "plain") == made
    told = subprocess.run(
        [source / "build/install/logdaemon/bin/logdaemon", "--version"], capture_output=True, text=True
    )
    assert f"{version}\n" == told.stdout

    (tmp_path / "unpacked").mkdir()
    run("tar", "-xzf", source / "build/distributions" / f"{named}.tgz", "-C", tmp_path / "unpacked")
    assert [named] == [path.name for path in (tmp_path / "unpacked").iterdir()]
    assert made == content(tmp_path / "unpacked" / named)


def test_javac_build_does_not_depend_on_clock_zone_mask_or_place(source: Path, logdaemon: Path) -> None:
    for file in source.rglob("*"):
        os.utime(file, (0, 0))
    command = ["sh", "-c", 'umask 077; exec "$0" ../made']
    environment = {**os.environ, "BUILDTOOLS_VERSION": VERSION, "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run([*command, source / "script/javadist"], cwd=source, env=environment, check=True)
    assert content(logdaemon.parents[1]) == content(source.parent / "made")


def test_missing_compiler_is_said_in_one_line(source: Path) -> None:
    done = subprocess.run(
        [source / "script/javadist"],
        env={**os.environ, "BUILDTOOLS_VERSION": "1.0.0", "JAVA_HOME": "/nowhere"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert 1 == done.returncode
    assert done.stderr == (
        "javadist: /nowhere/bin/javac is not here: "
        "install a JDK 17 (openjdk-17-jdk-headless), or name one with JAVA_HOME\n"
    )
    assert not (source / "build").exists()


def test_an_unchanged_daemon_is_not_built_again_and_a_changed_one_is(source: Path) -> None:
    require("javac")
    # Without Gradle on its way, so that this costs no start of it.
    tools = source.parent / "tools"
    tools.mkdir()
    for name in ("sh", "javac", "jar", "find", "sort", "sha256sum", "cat", "dirname", "tr", "mkdir", "mktemp", "cp"):
        (tools / name).symlink_to(require(name))
    for name in ("chmod", "rm", "mv", "touch", "sed", "head", "awk", "cut", "unzip", "zip", "python3", "date", "env"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    path = {"PATH": str(tools)}
    jar = source / "build/install/logdaemon/lib/logdaemon-1.0.jar"

    def made(version: str = "1.0") -> int:
        run(source / "script/installdist", BUILDTOOLS_VERSION=version, **path)
        return (source / "build/install/logdaemon").stat().st_ctime_ns

    first = made()
    assert first == made()
    jar.write_bytes(b"damaged")
    second = made()
    assert jar.read_bytes() != b"damaged"
    assert second == made()
    (source / "src/dist/bin/logdaemon").write_text("#!/bin/sh\n")
    assert second != made()
    # Nothing of the last version stays.
    made("1.1")
    assert ["bin/logdaemon", "lib/logdaemon-1.1.jar"] == sorted(content(source / "build/install/logdaemon"))
