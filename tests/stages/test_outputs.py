"""dist/VERSION/: what a shell, sha256sum and Compose make of it, and what is left of earlier runs."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from invoke.vendor import yaml

from buildtools import BuildToolsError
from buildtools.cancellation import Cancellation
from buildtools.events import unheard
from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.run import Run
from buildtools.settings import Settings
from buildtools.stages.outputs import write_outputs
from buildtools.task_context import TaskContext
from tests.payload.conftest import require

COMMIT = "c0ffee" + "0" * 34
CONTENT = b"an archive"


def load(text: str) -> object:
    return yaml.safe_load(text)  # type: ignore[no-untyped-call]  # vendored without types


def image(name: str) -> ReleasedImage:
    return ReleasedImage(name, "r.example:5000", f"team/{name}", "1.0.0", "sha256:" + sha256(name.encode()).hexdigest())


def archive(name: str, version: str = "1.0.0", content: bytes = CONTENT) -> ReleasedArchive:
    return ReleasedArchive(name, f"{name}/{name}-{version}.tgz", len(content), sha256(content).hexdigest())


def write(root: Path, members: Release, manifest: bytes = b"") -> Path:
    settings = Settings(root, artifacts="s3://bucket/prefix", s3_endpoint="http://127.0.0.1:1")
    environment = {"HOME": str(root), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with TaskContext(Run(settings, environment, unheard, Cancellation(), root / "cache")) as task:
        return write_outputs(task, members, manifest)


def variables(folder: Path) -> dict[str, str]:
    """What a POSIX shell has after it sourced the file."""
    script = "set -eu; set -a; . ./release.env; env"
    environment = subprocess.run(
        ["sh", "-c", script], cwd=folder, env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True, check=True
    ).stdout
    pairs = dict(line.split("=", 1) for line in environment.splitlines())
    return {name: value for name, value in pairs.items() if name not in ("PATH", "PWD", "OLDPWD", "SHLVL", "_")}


def test_a_shell_gets_every_member_by_digest(tmp_path: Path) -> None:
    members = Release("1.0.0", COMMIT, "", (image("web"), image("log-uploader")), (archive("daemon"),))
    assert {
        "VERSION": "1.0.0",
        "REVISION": COMMIT,
        "IMAGE_WEB": f"r.example:5000/team/web@{image('web').digest}",
        "IMAGE_LOG_UPLOADER": f"r.example:5000/team/log-uploader@{image('log-uploader').digest}",
        "ARCHIVE_DAEMON": "s3://bucket/prefix/daemon/daemon-1.0.0.tgz",
        "ARCHIVE_DAEMON_SHA256": archive("daemon").sha256,
    } == variables(write(tmp_path, members))


def test_names_that_differ_in_punctuation_only_do_not_hide_each_other(tmp_path: Path) -> None:
    members = Release(
        "1.0.0+x'y", COMMIT, "", (image("a.b"), image("a-b"), image("a_b")), (archive("d_sha256"), archive("d"))
    )
    shell = variables(write(tmp_path, members))
    digests = [shell[f"IMAGE_A_B{end}"].partition("@")[2] for end in ("", "_2", "_3")]
    assert [image(name).digest for name in ("a-b", "a.b", "a_b")] == digests
    assert "1.0.0+x'y" == shell["VERSION"]
    assert (archive("d").sha256, "s3://bucket/prefix/d_sha256/d_sha256-1.0.0.tgz") == (
        shell["ARCHIVE_D_SHA256"],
        shell["ARCHIVE_D_SHA256_2"],
    )


def test_sha256sum_checks_the_archives_beside_it(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/daemon-1.0.0.tgz").write_bytes(CONTENT)
    folder = write(tmp_path, Release("1.0.0", COMMIT, "", (), (archive("daemon"),)), b"{}\n")
    command = ["sha256sum", "--check", "--strict", "digests.txt"]
    assert "daemon-1.0.0.tgz: OK\n" == subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    assert b"{}\n" == (folder / "release.json").read_bytes()


def test_an_archive_that_is_not_the_released_one_is_not_beside_it(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/daemon-1.0.0.tgz").write_bytes(b"what this agent made of the same commit")
    folder = write(tmp_path, Release("1.0.0", COMMIT, "", (), (archive("daemon"),)))
    assert ["compose.override.yaml", "digests.txt", "release.env"] == sorted(path.name for path in folder.iterdir())


def test_compose_gets_each_service_pinned(tmp_path: Path) -> None:
    folder = write(tmp_path, Release("1.0.0", COMMIT, "", (image("web"), image("1.5")), ()))
    services = {name: {"image": f"r.example:5000/team/{name}@{image(name).digest}"} for name in ("web", "1.5")}
    assert {"services": services} == load((folder / "compose.override.yaml").read_text())
    assert not (folder / "digests.txt").exists()
    assert not (folder / "release.json").exists()


@pytest.mark.parametrize("names", [(), ("web",)])
def test_compose_takes_the_file_beside_another(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = write(tmp_path, Release("1.0.0", COMMIT, "", tuple(map(image, names)), (archive("daemon"),)))
    (tmp_path / "compose.yaml").write_text("services: {web: {image: theirs}}")
    files = ("--file", "compose.yaml", "--file", str(folder / "compose.override.yaml"))
    words = [require("docker-compose"), *files, "config"]
    merged = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    expected = f"r.example:5000/team/web@{image('web').digest}" if names else "theirs"
    assert f"image: {expected}\n" in merged


def test_other_versions_and_what_a_killed_run_left_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("mine/file", ".outputs-killed/file", "other-0.9.0.tgz"):
        (tmp_path / "dist" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "dist" / name).touch()
    for version in ("0.9.0", "1.0.0", "1.0.0"):
        (tmp_path / f"dist/daemon-{version}.tgz").write_bytes(CONTENT)
        folder = write(tmp_path, Release(version, COMMIT, "", (image("web"),), (archive("daemon", version),)))
    names = sorted(path.name for path in (tmp_path / "dist").iterdir())
    assert ["1.0.0", "daemon-1.0.0.tgz", "mine", "other-0.9.0.tgz"] == names
    files = sorted(path.name for path in folder.iterdir())
    assert ["compose.override.yaml", "daemon-1.0.0.tgz", "digests.txt", "release.env"] == files


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o027, 0o750)])
def test_the_folder_has_the_rights_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        folder = write(tmp_path, Release("1.0.0", COMMIT, "", (image("web"),), ()))
    finally:
        os.umask(before)
    assert mode == folder.stat().st_mode & 0o777


def test_a_folder_that_cannot_be_written_is_told_with_what_is_done(tmp_path: Path) -> None:
    (tmp_path / "dist").touch()
    with pytest.raises(BuildToolsError, match=r"cannot write .*/dist/1\.0\.0 \(.*\), though its images"):
        write(tmp_path, Release("1.0.0", COMMIT, "", (image("web"),), ()))
