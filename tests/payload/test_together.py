"""Daemon and uploader together: events in, rows out, under real runit, whatever happens to either meanwhile.

What may come twice, and how often: a daemon that is killed after it has moved a batch into the upload folder, and
before it has removed the spool files that the batch was made of, reads these again. That is at most one batch for each
kill, and the spool file that straddles its end. The uploader loads a file once: a job's id is made of its name and
content.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import EngineService
from tests.payload import bigquery
from tests.payload.bigquery import BigQuery
from tests.payload.conftest import ROOT, require
from tests.waiting import until

pytestmark = pytest.mark.exhaustive

EVENTS, A_ROUND, A_FILE, A_BATCH = 10_000, 1_000, 100, 500
# What somebody else is still writing.
NOT_YET = "half.json.gz.tmp"
# Fails, then gives half a key, then the whole one.
COMMAND = """\
echo >>{calls}; case $(wc -l <{calls}) in 1) exit 1 ;; 2) head -c 900 {key} ;; *) cat {key} ;; esac"""


@dataclass(frozen=True)
class Host:
    """A machine's folders, with a runsvdir over the two services."""

    folder: Path
    name: str
    environment: dict[str, str]

    def __post_init__(self) -> None:
        for name in ("spool", "work", "upload", "services/logdaemon", "services/loguploader/env"):
            (self.folder / name).mkdir(parents=True)

    def write_daemon(self, script: Path) -> None:
        options = f"--input {self.folder}/spool --work {self.folder}/work --upload {self.folder}/upload"
        limits = f"--batch-events {A_BATCH} --batch-seconds 1"
        run = self.folder / "services/logdaemon/run"
        run.write_text(f"#!/bin/sh\nexec 2>>{self.folder}/daemon.log\nexec {script} {options} {limits}\n")
        run.chmod(0o755)

    def write_uploader(self, image: str, **variables: str) -> None:
        service = self.folder / "services/loguploader"
        shutil.copytree(ROOT / "src/docker/loguploader/runit", service, dirs_exist_ok=True)
        own = {
            "IMAGE": image,
            "NAME": self.name,
            "FOLDER": str(self.folder / "upload"),
            "CREDENTIALS": str(self.folder / "key.json"),
            "DOCKER_OPTIONS": "--network host",
            "LOGUPLOADER_TABLE": "logs.shares",
            "PAUSE": "0",
            "PAUSE_AFTER_FAILURE": "1",
        }
        for name, value in {**own, **variables}.items():
            (service / "env" / name).write_text(value)

    @contextmanager
    def supervised(self) -> Iterator[None]:
        with (self.folder / "log").open("wb") as log:
            runsvdir = subprocess.Popen(
                [require("runsvdir"), self.folder / "services"], env=self.environment, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            # It then has each runsv end its service too, which TERM would leave alone.
            runsvdir.send_signal(signal.SIGHUP)
            runsvdir.wait(timeout=60)
            until(lambda: not self.pid("logdaemon") and not self.pid("loguploader"))
            self.docker("rm", "--force", self.name)

    def pid(self, service: str) -> int:
        """The process of a service; 0 where there is none."""
        supervise = self.folder / "services" / service / "supervise"
        with suppress(FileNotFoundError, ValueError):
            return int((supervise / "pid").read_text())
        return 0

    def docker(self, *arguments: str) -> int:
        return subprocess.run(["docker", *arguments], env=self.environment, capture_output=True).returncode

    def spool(self, name: str, numbers: range) -> None:
        """A file of events that is moved into the spool."""
        content = "".join(f'{{"n":{n},"page":"/{secrets.token_hex(8)}"}}\n' for n in numbers)
        half = self.folder / "spool" / f".{name}"
        half.write_text(content)
        half.rename(self.folder / "spool" / name)

    def left(self) -> list[str]:
        """The events that are still under way."""
        folders = (self.folder / "spool", self.folder / "upload")
        return [path.name for folder in folders for path in folder.iterdir() if not path.name.startswith(".")]


@pytest.fixture
def server() -> Iterator[BigQuery]:
    with bigquery.serve() as serving:
        yield serving


@pytest.fixture
def host(engine: EngineService, tmp_path: Path) -> Host:
    return Host(
        tmp_path,
        f"buildtools-test-{secrets.token_hex(4)}",
        {"PATH": os.environ["PATH"], "JAVA_TOOL_OPTIONS": "-Xshare:auto", **engine.environment},
    )


def test_ten_thousand_events_become_as_many_rows_whatever_is_killed(
    host: Host, server: BigQuery, logdaemon: Path, loguploader: str, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    (tmp_path / "whole.json").write_text(json.dumps(server.key(tmp_path)))
    host.write_daemon(logdaemon)
    counters = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    counters.bind(("127.0.0.1", 0))
    counters.settimeout(0.1)
    host.write_uploader(
        loguploader,
        BIGQUERY_EMULATOR_HOST=server.address,
        LOGUPLOADER_STATSD=f"127.0.0.1:{counters.getsockname()[1]}",
        CREDENTIALS_COMMAND=COMMAND.format(calls=tmp_path / "calls", key=tmp_path / "whole.json"),
    )
    # What somebody was writing when the machine went down.
    (tmp_path / "spool/.half").write_text('{"n":')
    (tmp_path / "upload/.half.json.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "upload" / NOT_YET).write_bytes(b"\x1f\x8b")
    kills = {"daemon": 0, "uploader": 0, "client": 0}
    with host.supervised():
        for start in range(0, EVENTS, A_ROUND):
            for first in range(start, start + A_ROUND, A_FILE):
                host.spool(f"{first:06}", range(first, first + A_FILE))
            if start == A_ROUND:
                refused_for_a_while(server, tmp_path / "calls")
            for _ in range(2):
                grows(server, host)
                victim = chance.choice(sorted(kills))
                kills[victim] += kill(host, victim)
        until(lambda: host.left() == [NOT_YET])
    numbers = sorted(row["n"] for row in server.rows)
    assert list(range(EVENTS)) == sorted(set(numbers)), seed
    assert len(numbers) - EVENTS <= kills["daemon"] * (A_BATCH + A_FILE), (seed, kills)
    counts = told(counters)
    assert (True, 0) == (counts["failed"] > 0, counts.get("rejected", 0))
    assert 0 < counts["uploaded"] <= len(server.jobs)


def grows(server: BigQuery, host: Host) -> None:
    """Wait until more is loaded, or all is."""
    before = len(server.rows)
    until(lambda: len(server.rows) > before or host.left() == [NOT_YET])


def kill(host: Host, victim: str) -> int:
    """Kill -9 the daemon, the uploader in its container, or the client of the container; whether it was there."""
    if victim == "uploader":
        return host.docker("kill", host.name) == 0
    pid = host.pid("logdaemon" if victim == "daemon" else "loguploader")
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, signal.SIGKILL)
            return 1
    return 0


def refused_for_a_while(server: BigQuery, calls: Path) -> None:
    """Have Google refuse the credentials, which were good, until others were fetched."""
    before = calls.read_text()
    assert 3 == len(before.splitlines())
    server.refuse_token = True
    until(lambda: calls.read_text() != before)
    server.refuse_token = False


def told(counters: socket.socket) -> dict[str, int]:
    """The sums of the counters that were told so far."""
    sums: dict[str, int] = {}
    with suppress(TimeoutError), counters:
        while True:
            name, _, value = counters.recv(1000).decode().partition(":")
            number, _, kind = value.partition("|")
            if kind == "c":
                name = name.removeprefix("loguploader.")
                sums[name] = sums.get(name, 0) + int(number)
    return sums
