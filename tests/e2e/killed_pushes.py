"""A push that is killed at its first write, the next one at its second, and so on, until one ends."""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator

from tests.e2e.project import Project
from tests.faults.proxy import Wire


def kills_until_done(
    project: Project, wire: Wire, is_write: Callable[[bytes], bool], look: Callable[[], object]
) -> int:
    """How often a push was killed, at one more write each time; ``look`` looks at what each has left."""
    kills = 0
    while True:
        process = project.start("push")
        left = itertools.count(kills, -1)

        def kill_at_last(
            data: bytes, left: Iterator[int] = left, process: subprocess.Popen[str] = process
        ) -> bytes | None:
            if not is_write(data) or next(left):
                return data
            process.kill()
            return None

        wire.sent = kill_at_last
        process.communicate()
        look()
        if process.returncode == 0:
            wire.sent = lambda data: data
            return kills
        assert -signal.SIGKILL == process.returncode
        kills += 1
