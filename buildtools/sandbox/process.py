"""A program of the sandbox: started in a session of its own, recorded, waited for, stopped.

The record is one file per program, ``NAME.pid``, that holds the program's own line of ``/proc/PID/stat``. The program
writes it itself before it becomes what it is, so that a starter that is killed leaves no program without a record; the
start time in it (proc(5), field 22) tells the program from a stranger that was given the same pid later.
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

_RECORD_THEN_BECOME = 'read -r line </proc/$$/stat && printf "%s\\n" "$line" >"$0" && cd "$1" && shift && exec "$@"'
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

    :raises Unreachable: it ended, or did not answer within ``seconds``; it has been stopped.
    """
    log = directory / f"{name}.log"
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _RECORD_THEN_BECOME, str(_record(directory, name)), str(directory), *command],
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
    """Whether the program on record still runs."""
    return pid(name, directory) is not None


def pid(name: str, directory: Path) -> int | None:
    """The process id of the program on record, or None where it no longer runs."""
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
    alive = _fields(now)[0] not in "ZX" and _fields(now)[19] == _fields(text)[19]
    return number if alive else None


def stop(name: str, directory: Path, *, seconds: float = 15) -> None:
    """Ask the program on record to end, after ``seconds`` make it; then forget it.

    :raises BuildToolsError: it does not end.
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
            raise BuildToolsError(f"{name} (process {pid(name, directory)}) does not end", "end it by hand")
    _record(directory, name).unlink(missing_ok=True)


def bare(environment: Mapping[str, str]) -> dict[str, str]:
    """What a service may see of the environment; ``REGISTRY_HTTP_ADDR`` and its like would change what it does."""
    return {name: value for name, value in environment.items() if name in _VISIBLE or name.lower().endswith("_proxy")}


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, all different."""
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


def _fields(stat: str) -> list[str]:
    # The second field is the program's name in brackets and may hold blanks and brackets itself.
    return stat.rpartition(")")[2].split()


def _reap(number: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(number, os.WNOHANG)[0] == number
    return False
