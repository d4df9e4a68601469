"""Programs are recorded, waited for and stopped, and strangers are left alone."""

from __future__ import annotations

import os
import select
import signal
import socket
from pathlib import Path

import pytest

from buildtools import Unreachable
from buildtools.sandbox import process

_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def _start(directory: Path, script: str, *, ready: str = "ready") -> None:
    process.start(
        "program",
        ["sh", "-c", script],
        directory,
        environment=_ENVIRONMENT,
        answers=(directory / ready).exists,
        seconds=20,
    )


def test_a_program_runs_in_its_folder_until_it_is_stopped(tmp_path: Path) -> None:
    _start(tmp_path, "echo hello; touch ready; exec sleep 600")
    before = process.is_running("program", tmp_path)
    process.stop("program", tmp_path)
    assert (before, process.is_running("program", tmp_path)) == (True, False)
    assert (tmp_path / "program.log").read_text() == "hello\n"


def test_a_program_is_found_in_a_renamed_folder_wherever_it_works_now(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    _start(tmp_path / "before", "cd / && touch $OLDPWD/ready && exec sleep 600")
    folder = (tmp_path / "before").rename(tmp_path / "after")
    handle = os.pidfd_open(process.pid("program", folder) or 0)
    process.stop("program", folder)
    ended, _, _ = select.select([handle], [], [], 20)
    os.close(handle)
    assert ended == [handle]


def test_children_of_a_program_are_stopped_with_it(tmp_path: Path) -> None:
    _start(tmp_path, "sleep 600 & echo $! >child; touch ready; wait")
    child = int((tmp_path / "child").read_text())
    handle = os.pidfd_open(child)
    process.stop("program", tmp_path)
    ended, _, _ = select.select([handle], [], [], 20)
    os.close(handle)
    assert ended == [handle]


def test_a_program_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    _start(tmp_path, "trap '' TERM; touch ready; while :; do sleep 600; done")
    process.stop("program", tmp_path, seconds=0)
    assert not process.is_running("program", tmp_path)


def test_a_program_that_ends_at_once_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as failed:
        _start(tmp_path, "echo no such thing; exit 3")
    assert failed.value.fact == "program ended at once"
    assert failed.value.remedy.endswith("  no such thing")


def test_a_program_that_never_answers_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="did not answer"):
        process.start(
            "program",
            ["sleep", "600"],
            tmp_path,
            environment=_ENVIRONMENT,
            answers=lambda: False,
            seconds=0.1,
        )
    assert list(tmp_path.glob("*.pid")) == []


def test_a_program_that_is_not_installed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nonesuch"):
        process.start("program", ["nonesuch"], tmp_path, environment=_ENVIRONMENT, answers=lambda: False, seconds=20)


def test_a_stranger_with_the_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    ours = Path("/proc/self/stat").read_text()
    before, bracket, fields = ours.rpartition(")")
    elsewhen = fields.split()
    elsewhen[19] = str(int(elsewhen[19]) - 1)
    here = tmp_path.stat()
    (tmp_path / "program.pid").write_text(f"{before}{bracket} {' '.join(elsewhen)} {here.st_dev}:{here.st_ino}\n")
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    process.stop("program", tmp_path)
    signal.signal(signal.SIGTERM, previous)
    assert (received, list(tmp_path.iterdir())) == ([], [])


def test_a_record_that_was_cut_short_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "program.pid").write_text("12")
    assert process.pid("program", tmp_path) is None


def test_free_ports_are_different_and_can_be_listened_on() -> None:
    ports = process.free_ports(4)
    assert len(set(ports)) == 4
    with socket.create_server(("127.0.0.1", ports[0])) as server:
        assert server.getsockname()[1] == ports[0]


def test_a_service_sees_none_of_the_settings_that_would_change_it() -> None:
    given = {"PATH": "/bin", "REGISTRY_HTTP_ADDR": ":1", "AWS_SECRET_ACCESS_KEY": "s", "https_proxy": "http://p"}
    assert process.bare(given) == {"PATH": "/bin", "https_proxy": "http://p"}
