"""Runs a command from the user's configuration, its output line by line into the report."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.events import Log, Report

_TAIL = 20
_PATIENCE = 5.0


class CommandFailed(BuildToolsError):
    """A configured command ended with another exit code than 0; its last lines come before."""


def run_command(
    command: str,
    *,
    subject: str,
    folder: Path,
    environment: Mapping[str, str],
    report: Report,
    cancelled: threading.Event,
) -> None:
    """Run ``command`` with the shell in ``folder``, both of its outputs as one, and wait for its end.

    It runs in a process group of its own; when ``cancelled`` is set the whole group gets SIGTERM, then SIGKILL.

    :raises CommandFailed: it ended with another exit code than 0, or was cancelled.
    """
    tail: deque[str] = deque(maxlen=_TAIL)
    with subprocess.Popen(  # noqa: S602  the command is the user's own configuration, written for a shell
        command,
        shell=True,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        ended = threading.Event()
        watcher = threading.Thread(target=_kill_when_cancelled, args=(process, cancelled, ended), daemon=True)
        watcher.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                tail.append(line.rstrip("\n"))
                report(Log(subject, tail[-1]))
            code = process.wait()
        except BaseException:
            _signal_group(process, signal.SIGKILL)
            raise
        finally:
            ended.set()
            watcher.join()
    if cancelled.is_set():
        raise CommandFailed(f"{subject}: the command {command!r} was cancelled")
    if code:
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise CommandFailed(
            f"{subject}: the command {command!r} {end}",
            "correct what its last lines above say" if tail else "it printed nothing; run it by hand",
            details=[f"  | {line}" for line in tail],
        )


def _kill_when_cancelled(process: subprocess.Popen[str], cancelled: threading.Event, ended: threading.Event) -> None:
    while not ended.wait(0.05):
        if cancelled.is_set():
            _signal_group(process, signal.SIGTERM)
            if not ended.wait(_PATIENCE):
                _signal_group(process, signal.SIGKILL)
            return


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
