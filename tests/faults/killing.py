"""Killing a process at a request that it sends, and the place whose requests are watched.

The processes are forked from one that has imported everything: there are many to kill.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildtools.cancellation import Cancellation
from buildtools.events import unheard
from buildtools.run import Run
from buildtools.settings import Settings
from buildtools.task_context import TaskContext
from tests.conftest import S3Service
from tests.faults.proxy import wire_to
from tests.releases import ReleasePlace, release_place

_REQUEST = re.compile(rb"(?:GET|HEAD|PUT|POST|PATCH|DELETE) ")


_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload([__name__, "buildtools.pipeline", "botocore.session", "semver"])


class KillSwitch:
    """Counts the requests that a place gets, and kills who sends them before the ``at``-th of them arrives."""

    def __init__(self, place: ReleasePlace) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._left = 0
        self._process: Any = None

    def sent(self, data: bytes) -> bytes | None:
        """What a wire passes on."""
        with self._lock:
            if self._process and _REQUEST.match(data):
                self._left -= 1
                if self._left <= 0:
                    self._process.kill()
                    # What is under way on other connections does not arrive either.
                    return None
        return data

    def killed(self, at: int, work: Callable[[TaskContext], object]) -> bool:
        """Do ``work`` in a process; whether it was killed, for it may end without so many requests."""
        with self._lock:
            self._left = at
            # Where each setting comes from cannot be sent to another process.
            settings = replace(self.place.settings, origins={})
            self._process = _FORKING.Process(target=_do, args=(settings, self.place.environment, work))
            self._process.start()
        self._process.join()
        code, self._process = self._process.exitcode, None
        assert code in (0, -signal.SIGKILL)
        return bool(code)


def _do(settings: Settings, environment: Mapping[str, str], work: Callable[[TaskContext], object]) -> None:
    with TaskContext(Run(settings, environment, unheard, Cancellation(), settings.root / "cache")) as task:
        work(task)


@contextmanager
def killable_place(
    folder: Path, registry: str, s3: S3Service, environment: Mapping[str, str], **settings: Any
) -> Iterator[KillSwitch]:
    """A place of releases whose registry and store are reached over wires."""
    with (
        wire_to(registry) as to_registry,
        wire_to(s3.endpoint.removeprefix("http://")) as to_store,
        release_place(
            folder, to_registry.address, s3, environment, s3_endpoint=f"http://{to_store.address}", **settings
        ) as place,
    ):
        switch = KillSwitch(place)
        to_registry.sent = to_store.sent = switch.sent
        yield switch
