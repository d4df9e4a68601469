"""Runs a command from the user's configuration, its output line by line into the report."""

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
# How long a command that was told to end may take to clean up.
_PATIENCE = 5.0
_POLL_MILLISECONDS = 100
_CHUNK = 1 << 16


class CommandFailed(BuildToolsError):
    """A configured command ended with another exit code than 0; its last lines come before.

    ``status`` is that exit code, or minus the number of the signal that killed it; 0 where it was cancelled.
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
        start_new_session=True,
        # Archives and images keep the modes of the files that it makes: they must not depend on who runs it.
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
            "correct what its last lines above say" if tail else "it printed nothing; run it by hand",
            details=[f"  | {line}" for line in tail],
            status=code,
        )


def _lines(process: subprocess.Popen[bytes], cancelled: threading.Event) -> Iterator[str]:
    """What the command prints, until it has ended (a daemon that it left may hold its output open) or is cancelled."""
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
    # They are gone when nobody holds the output any more; who left the group may hold it for long.
    assert process.stdout is not None
    output = process.stdout.fileno()
    readable = select.poll()
    readable.register(output, select.POLLIN)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and readable.poll(_PATIENCE * 1000) and os.read(output, _CHUNK):
        pass
