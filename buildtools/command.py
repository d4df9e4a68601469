"""Run a command from the configuration and report its output line by line."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.events import Log, Report

_TAIL = 20
# How long a command has to clean up after SIGTERM.
_PATIENCE = 5.0
_POLL_MILLISECONDS = 100
_CHUNK = 1 << 16


class CommandFailed(BuildToolsError):
    """A configured command failed; the last lines of its output are the details.

    ``status`` is its exit code, or minus the number of the signal that killed it; 0 if it was cancelled.
    """

    def __init__(self, fact: str, remedy: str = "", details: Sequence[str] = (), *, status: int = 0) -> None:
        super().__init__(fact, remedy, details)
        self.status = status


def run_command(
    command: str,
    *,
    subject: str,
    folder: Path,
    environment: Mapping[str, str],
    report: Report,
    cancelled: threading.Event,
) -> None:
    """Run ``command`` in a shell in ``folder`` and wait for its end. Standard output and standard error are one stream.

    It runs in a process group of its own. When ``cancelled`` is set, the whole group gets SIGTERM, then SIGKILL.

    :raises CommandFailed: if it exits with another code than 0, or is cancelled.
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
        start_new_session=True,
        # Archives and images keep the modes of the files it makes, so these must not depend on the user's umask.
        umask=0o022,
    ) as process:
        try:
            for line in _lines(process, cancelled):
                tail.append(line)
                report(Log(subject, line))
            if cancelled.is_set():
                raise CommandFailed(f"{subject}: the command {command!r} was cancelled")
        except BaseException:
            _end_group(process)
            raise
    code = process.returncode
    if code:
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise CommandFailed(
            f"{subject}: the command {command!r} {end}",
            "fix what its last lines above report" if tail else "it printed nothing; run it by hand",
            details=[f"  | {line}" for line in tail],
            status=code,
        )


def _lines(process: subprocess.Popen[bytes], cancelled: threading.Event) -> Iterator[str]:
    """The command's output, until it ends or is cancelled. A daemon that it started may keep the output open."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    readable = select.poll()
    readable.register(output, select.POLLIN)
    rest = b""
    while not cancelled.is_set():
        has_ended = process.poll() is not None
        if readable.poll(0 if has_ended else _POLL_MILLISECONDS):
            chunk = os.read(output, _CHUNK)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
        elif has_ended:
            break
    if rest:
        yield rest.decode(errors="replace")
    while not cancelled.is_set():
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_MILLISECONDS / 1000)
            break


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        os.killpg(process.pid, signal.SIGKILL)
    # The group is gone when the output is closed, but a process that left the group may hold it open for long.
    assert process.stdout is not None
    output = process.stdout.fileno()
    readable = select.poll()
    readable.register(output, select.POLLIN)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and readable.poll(_PATIENCE * 1000) and os.read(output, _CHUNK):
        pass
