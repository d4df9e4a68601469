"""A program of the sandbox: start it in a session of its own, record it, wait for it, stop it.

The record is one file per program, ``NAME.pid``, with the program's own line from ``/proc/PID/stat``. The process
writes it before it executes the program, so a killed starter leaves no program without a record. The start time in it
(proc(5), field 22) distinguishes the program from a later process with the same pid. Behind that line stands the
directory's device and inode: a copy of the directory has the same record, but the program belongs to the original.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from buildtools import BuildToolsError, Unreachable

_RECORD_THEN_BECOME = """
cd "$1" && read -r line </proc/$$/stat && printf "%s %s\\n" "$line" "$2" >"$0" && shift 2 && exec "$@"
"""
_PAUSE = 0.02
_VISIBLE = frozenset({"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL"})


def start(
    name: str,
    command: Sequence[str],
    directory: Path,
    *,
    environment: Mapping[str, str],
    answers: Callable[[], bool],
    seconds: float = 60,
) -> None:
    """Start ``command`` in ``directory`` and wait until it ``answers``; its output goes to ``NAME.log`` there.

    :raises Unreachable: if it ended, or did not answer within ``seconds``; then it has been stopped.
    """
    log = directory / f"{name}.log"
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            [
                "sh",
                "-c",
                _RECORD_THEN_BECOME,
                str(_record(directory, name)),
                str(directory),
                _identity(directory),
                *command,
            ],
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
    finally:
        os.close(output)
    end = time.monotonic() + seconds
    while not answers():
        has_ended = _reap(pid)
        if has_ended or time.monotonic() > end:
            stop(name, directory)
            why = "ended at once" if has_ended else f"did not answer within {seconds:.0f} s"
            raise Unreachable(f"{name} {why}", f"its log {log} ends with\n{tail(log)}")
        time.sleep(_PAUSE)


def is_running(name: str, directory: Path) -> bool:
    """Whether the recorded program is still running."""
    return pid(name, directory) is not None


def pid(name: str, directory: Path) -> int | None:
    """The process id of the recorded program, or None if it is not running in ``directory``."""
    try:
        text = _record(directory, name).read_text()
    except FileNotFoundError:
        return None
    if not text.endswith("\n"):
        return None
    number = int(text.split(" ", 1)[0])
    _reap(number)
    try:
        now = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    is_here = _fields(text)[-1] == _identity(directory)
    alive = _fields(now)[0] not in "ZX" and _fields(now)[19] == _fields(text)[19]
    return number if is_here and alive else None


def stop(name: str, directory: Path, *, seconds: float = 15) -> None:
    """Terminate the recorded program, kill it after ``seconds``, and delete the record.

    :raises BuildToolsError: if it does not end.
    """
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        end = time.monotonic() + patience
        running = pid(name, directory)
        if running is None:
            break
        with suppress(ProcessLookupError):
            os.killpg(running, number)
        while is_running(name, directory) and time.monotonic() < end:
            time.sleep(_PAUSE)
    else:
        if is_running(name, directory):
            raise BuildToolsError(f"{name} (process {pid(name, directory)}) does not stop", "kill it")
    _record(directory, name).unlink(missing_ok=True)


def bare(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a service; variables such as ``REGISTRY_HTTP_ADDR`` would change its behaviour."""
    return {name: value for name, value in environment.items() if name in _VISIBLE or name.lower().endswith("_proxy")}


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that are currently free."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log."""
    with suppress(FileNotFoundError):
        return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
    return ""


def _record(directory: Path, name: str) -> Path:
    return directory / f"{name}.pid"


def _identity(directory: Path) -> str:
    """What a directory keeps when it is renamed, and a copy of it does not have."""
    status = directory.stat()
    return f"{status.st_dev}:{status.st_ino}"


def _fields(stat: str) -> list[str]:
    # The second field is the program's name in brackets and may itself contain spaces and brackets.
    return stat.rpartition(")")[2].split()


def _reap(number: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(number, os.WNOHANG)[0] == number
    return False
