from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from buildtools.command import CommandFailed, run_command
from buildtools.events import Event, Log

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "GREETING": "hello"}


def run(command: str, folder: Path, cancelled: threading.Event | None = None) -> list[str]:
    lines: list[str] = []

    def report(event: Event) -> None:
        assert isinstance(event, Log)
        lines.append(event.line)

    run_command(
        command,
        subject="app",
        folder=folder,
        environment=ENVIRONMENT,
        report=report,
        cancelled=cancelled or threading.Event(),
    )
    return lines


def test_both_outputs_are_reported_in_order(tmp_path: Path) -> None:
    assert ["hello", "oops", str(tmp_path)] == run("echo $GREETING; echo oops >&2; pwd", tmp_path)


def test_what_it_creates_does_not_depend_on_the_umask_of_the_caller(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run("touch file", tmp_path)
    finally:
        os.umask(before)
    assert 0o644 == (tmp_path / "file").stat().st_mode & 0o777


def test_a_failure_names_the_command_its_exit_code_and_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as caught:
        run("echo no space left; exit 7", tmp_path)
    assert [
        "  | no space left",
        "app: the command 'echo no space left; exit 7' ended with exit code 7: fix what its last lines above report",
    ] == str(caught.value).splitlines()


def test_a_killed_command_says_by_which_signal(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="killed by signal 9: it printed nothing"):
        run("kill -9 $$", tmp_path)


def test_cancelling_ends_the_whole_process_group(tmp_path: Path) -> None:
    cancelled = threading.Event()

    def cancel_at_first_line(event: Event) -> None:
        cancelled.set()

    with pytest.raises(CommandFailed, match="cancelled"):
        run_command(
            "sh -c 'echo $$ > child; echo started; exec sleep 600' & wait",
            subject="app",
            folder=tmp_path,
            environment=ENVIRONMENT,
            report=cancel_at_first_line,
            cancelled=cancelled,
        )
    assert not Path("/proc", (tmp_path / "child").read_text().strip(), "cwd").exists()


def test_output_that_is_not_text_does_not_stop_the_command(tmp_path: Path) -> None:
    assert ["\ufffd\ufffd"] == run("printf '\\377\\376\\n'", tmp_path)


def test_lines_are_told_without_their_ends_and_the_last_one_needs_none(tmp_path: Path) -> None:
    assert ["one", "two", "last"] == run("printf 'one\\r\\ntwo\\nlast'", tmp_path)


def test_a_command_may_leave_a_daemon_that_holds_its_output(tmp_path: Path) -> None:
    try:
        assert ["done"] == run("sleep 600 & echo $! >pid; echo done", tmp_path)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_cancelling_ends_children_that_do_not_listen(tmp_path: Path) -> None:
    cancelled = threading.Event()
    os.mkfifo(tmp_path / "alive")
    # Whoever still holds the fifo open for writing is alive.
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    try:
        with pytest.raises(CommandFailed, match="cancelled"):
            run_command(
                "exec 3>alive; (trap '' TERM; sleep 600 & wait) & echo ready; wait",
                subject="app",
                folder=tmp_path,
                environment=ENVIRONMENT,
                report=lambda event: cancelled.set(),
                cancelled=cancelled,
            )
        assert b"" == os.read(reader, 1)
    finally:
        os.close(reader)
