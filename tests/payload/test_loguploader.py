"""The uploader's own image, run by the engine, against a server that speaks BigQuery's load jobs."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EngineService
from tests.payload import bigquery
from tests.payload.bigquery import BigQuery
from tests.payload.conftest import ROOT, VERSION, require
from tests.waiting import until


@dataclass
class Uploader:
    """A folder to upload, and how to run a container over it as this user."""

    image: str
    folder: Path
    key: Path
    server: BigQuery
    engine: EngineService

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        settings = {
            "BIGQUERY_EMULATOR_HOST": self.server.address,
            "LOGUPLOADER_TABLE": "logs.shares",
            **variables,
        }
        command = [require("docker"), "run", "--rm", "--network", "host", "--read-only", "--cap-drop", "ALL"]
        command += ["--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{self.folder}:/mnt/upload"]
        if self.key.exists():
            command += ["--volume", f"{self.key}:/etc/loguploader/credentials.json:ro"]
        for name, value in settings.items():
            command += ["--env", f"{name}={value}"]
        return subprocess.Popen(
            [*command, "--name", self.name, self.image, *arguments],
            env={"PATH": os.environ["PATH"], **self.engine.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def name(self) -> str:
        return f"buildtools-test-{self.folder.parent.name}"

    def run(self, *arguments: str, **variables: str) -> tuple[int, list[str]]:
        """Exit status, and what it says."""
        process = self.start(*arguments, **variables)
        _, said = process.communicate(timeout=120)
        return process.returncode, said.splitlines()

    def signal(self, number: signal.Signals) -> None:
        subprocess.run(
            [require("docker"), "kill", "--signal", number.name, self.name],
            env={"PATH": os.environ["PATH"], **self.engine.environment},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def batch(self, name: str, *rows: dict[str, Any], age: int = 0) -> Path:
        return self.file(name, gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)), age=age)

    def file(self, name: str, content: bytes, *, age: int = 0) -> Path:
        file = self.folder / name
        file.write_bytes(content)
        os.utime(file, (1_700_000_000 - age, 1_700_000_000 - age))
        return file

    def left(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())


@contextmanager
def statsd() -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """An address that metrics can be sent to, and what has come there so far, without its prefix."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)

        def packets() -> list[str]:
            came = []
            with suppress(BlockingIOError):
                while True:
                    came.append(listening.recv(1000).decode().removeprefix("loguploader."))
            return came

        yield f"127.0.0.1:{listening.getsockname()[1]}", packets


@pytest.fixture
def server() -> Iterator[BigQuery]:
    with bigquery.serve() as serving:
        yield serving


@pytest.fixture
def uploader(loguploader: str, engine: EngineService, server: BigQuery, tmp_path: Path) -> Uploader:
    folder, key = tmp_path / secrets.token_hex(4) / "upload", tmp_path / "key.json"
    folder.mkdir(parents=True)
    key.write_text(json.dumps(server.key(tmp_path)))
    return Uploader(loguploader, folder, key, server, engine)


def test_version_is_the_text_the_image_was_built_with(uploader: Uploader) -> None:
    process = uploader.start("--version")
    assert (f"{VERSION}\n", "") == process.communicate(timeout=120)


def test_files_are_loaded_oldest_first_and_removed(uploader: Uploader) -> None:
    files = [uploader.batch("b.gz", {"n": 1}, {"n": 2}, age=20), uploader.batch("a.gz", {"n": 3}, age=10)]
    size = sum(file.stat().st_size for file in files)
    uploader.batch(".c.gz", {"n": 4})
    uploader.batch("d.gz.tmp", {"n": 5})
    with statsd() as (address, packets):
        status, said = uploader.run(LOGUPLOADER_STATSD=address)
        counts = ["uploaded:1|c", "rows:2|c", "uploaded:1|c", "rows:1|c"]
        assert ["waiting:2|g", f"waiting_bytes:{size}|g", *counts] == packets()
    assert (0, [{"n": 1}, {"n": 2}, {"n": 3}]) == (status, uploader.server.rows)
    assert [".c.gz", "d.gz.tmp"] == uploader.left()
    assert [
        "loguploader: loaded b.gz: 2 rows",
        "loguploader: loaded a.gz: 1 rows",
    ] == [line.split(", job")[0] for line in said]
    (first, _) = uploader.server.jobs.values()
    assert {
        "createDisposition": "CREATE_NEVER",
        "destinationTable": {"projectId": "widgets", "datasetId": "logs", "tableId": "shares"},
        "sourceFormat": "NEWLINE_DELIMITED_JSON",
        "writeDisposition": "WRITE_APPEND",
    } == first["configuration"]["load"]


def test_large_file_goes_up_in_a_resumable_upload(uploader: Uploader) -> None:
    uploader.batch("big.gz", {"x": secrets.token_hex(6_000_000)})
    assert 0 == uploader.run()[0]
    assert 1 == len(uploader.server.rows)
    assert [] == uploader.left()


def test_nothing_to_load_is_a_success(uploader: Uploader) -> None:
    assert (0, []) == uploader.run()


def test_refused_file_stays_and_the_others_are_loaded(uploader: Uploader) -> None:
    uploader.file("bad.gz", gzip.compress(b'{"n":'), age=10)
    uploader.batch("good.gz", {"n": 1})
    for _ in range(2):
        with statsd() as (address, packets):
            status, said = uploader.run(LOGUPLOADER_STATSD=address)
            assert "rejected:1|c" in packets()
        assert (1, ["bad.gz"], [{"n": 1}]) == (status, uploader.left(), uploader.server.rows)
        assert said[0].startswith("loguploader: not loaded: bad.gz: Error while reading data")
        assert said[-1].endswith("files were not loaded and stay in /mnt/upload")
        # The second pass finds the failed job, and does not send the file again.
        assert 2 == uploader.server.uploads

    (uploader.folder / "bad.gz").rename(uploader.folder / "bad-again.gz")
    assert 1 == uploader.run()[0]
    assert 3 == uploader.server.uploads


def test_job_that_failed_in_passing_is_made_again_by_the_next_pass(uploader: Uploader) -> None:
    uploader.server.broken_jobs = 2
    uploader.batch("a.gz", {"n": 1})
    with statsd() as (address, packets):
        assert [1, 1, 0] == [uploader.run(LOGUPLOADER_STATSD=address)[0] for _ in range(3)]
        assert ["retried:1|c", "retried:1|c", "uploaded:1|c", "rows:1|c"] == [
            packet for packet in packets() if packet.endswith("c")
        ]
    assert ([], [{"n": 1}]) == (uploader.left(), uploader.server.rows)
    assert ["-1", "-2", "-3"] == [job_id[-2:] for job_id in uploader.server.jobs]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_pass_that_was_ended_while_a_job_ran_does_not_load_twice(uploader: Uploader, number: signal.Signals) -> None:
    uploader.server.held = True
    uploader.batch("a.gz", {"n": 1})
    process = uploader.start()
    assert uploader.server.polled.wait(60)
    uploader.signal(number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert (0, "loguploader: stopped; the next pass takes up what is left\n") == (process.returncode, said)
    assert ["a.gz"] == uploader.left()

    uploader.server.held = False
    uploader.server.finish_jobs()
    assert 0 == uploader.run()[0]
    assert ([], [{"n": 1}], 1) == (uploader.left(), uploader.server.rows, uploader.server.uploads)


def test_job_that_takes_too_long_is_left_to_the_next_pass(uploader: Uploader) -> None:
    uploader.server.held = True
    uploader.batch("a.gz", {"n": 1})
    status, said = uploader.run(LOGUPLOADER_JOB_SECONDS="1")
    assert (1, ["a.gz"]) == (status, uploader.left())
    assert "is not done after 1 s; the next pass looks again" in said[0]


def test_missing_credentials_end_it_in_one_line(uploader: Uploader) -> None:
    uploader.key.unlink()
    uploader.batch("a.gz", {"n": 1})
    status, said = uploader.run()
    assert (3, ["a.gz"], 0) == (status, uploader.left(), uploader.server.uploads)
    assert [
        "loguploader: no credentials: /etc/loguploader/credentials.json: No such file or directory; "
        "put a service account's JSON key there, or name it in GOOGLE_APPLICATION_CREDENTIALS"
    ] == said


@pytest.mark.parametrize("damage", ["not json", "other kind", "private key", "no project", "refused"])
def test_damaged_credentials_end_it_in_one_line_that_does_not_tell_them(uploader: Uploader, damage: str) -> None:
    key = json.loads(uploader.key.read_text())
    secret = key["private_key"].splitlines()[1]
    if damage == "private key":
        key["private_key"] = key["private_key"].replace(secret, secret[:-5])
    elif damage == "other kind":
        key["type"] = "authorized_user"
    elif damage == "no project":
        del key["project_id"]
    elif damage == "refused":
        uploader.server.refuse_token = True
    uploader.key.write_text(json.dumps(key)[: -1 if damage == "not json" else None])
    uploader.batch("a.gz", {"n": 1})
    status, said = uploader.run()
    assert (3, ["a.gz"], 1) == (status, uploader.left(), len(said))
    told = "Google does not take the credentials: " if damage == "refused" else "no credentials: "
    assert said[0].startswith(f"loguploader: {told}")
    assert secret[:20] not in said[0]


def test_growing_folder_is_warned_of_even_without_credentials(uploader: Uploader) -> None:
    uploader.key.unlink()
    size = uploader.batch("a.gz", {"n": 1}).stat().st_size
    _, said = uploader.run(LOGUPLOADER_FOLDER_BYTES="10")
    assert f"loguploader: warning: 1 files wait in /mnt/upload, {size} bytes; the limit is 10" == said[0]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"LOGUPLOADER_TABLE": "shares"},
            "LOGUPLOADER_TABLE must name a table, as PROJECT.DATASET.TABLE or DATASET.TABLE",
        ),
        ({"LOGUPLOADER_JOB_SECONDS": "soon"}, "LOGUPLOADER_JOB_SECONDS=soon: a whole number greater than 0 is needed"),
        ({"LOGUPLOADER_STATSD": "here"}, "LOGUPLOADER_STATSD=here: HOST:PORT is needed"),
        ({"LOGUPLOADER_FOLDER": "/nowhere"}, "/nowhere cannot be read: No such file or directory"),
    ],
)
def test_bad_setting_is_one_line(uploader: Uploader, variables: dict[str, str], message: str) -> None:
    assert (1, [f"loguploader: {message}"]) == uploader.run(**variables)


def test_unknown_argument_is_misuse(uploader: Uploader) -> None:
    assert (2, ["loguploader: unknown argument --once: see --help"]) == uploader.run("--once")


def test_image_runs_as_a_user_without_rights(uploader: Uploader) -> None:
    shown = subprocess.run(
        [require("docker"), "inspect", "--format", "{{.Config.User}}", uploader.image],
        env={"PATH": os.environ["PATH"], **uploader.engine.environment},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "app\n" == shown.stdout


def test_silent_server_ends_it_in_one_line(uploader: Uploader) -> None:
    uploader.batch("a.gz", {"n": 1})
    uploader.batch("b.gz", {"n": 2})
    status, said = uploader.run(BIGQUERY_EMULATOR_HOST="http://127.0.0.1:1")
    assert (1, ["a.gz", "b.gz"], 1) == (status, uploader.left(), len(said))
    assert said[0].startswith("loguploader: BigQuery does not answer: ")


def test_runit_starts_pass_after_pass(uploader: Uploader, tmp_path: Path) -> None:
    service = tmp_path / "loguploader"
    shutil.copytree(ROOT / "src/docker/loguploader/runit", service)
    (service / "env").mkdir()
    variables = {
        "IMAGE": uploader.image,
        "NAME": uploader.name,
        "FOLDER": str(uploader.folder),
        "CREDENTIALS": str(uploader.key),
        "DOCKER_OPTIONS": "--network host",
        "LOGUPLOADER_TABLE": "logs.shares",
        "BIGQUERY_EMULATOR_HOST": uploader.server.address,
    }
    for name, value in variables.items():
        (service / "env" / name).write_text(value)
    environment = {"PATH": os.environ["PATH"], **uploader.engine.environment}
    # The container that a killed docker left behind, under the name that is wanted.
    subprocess.run([require("docker"), "create", "--name", uploader.name, uploader.image], env=environment, check=True)

    uploader.batch("a.gz", {"n": 1})
    with (tmp_path / "log").open("wb") as log:
        runsv = subprocess.Popen([require("runsv"), service], env=environment, stdout=log)
    try:
        until(lambda: uploader.server.rows == [{"n": 1}])
        uploader.batch("b.gz", {"n": 2})
        until(lambda: uploader.server.rows == [{"n": 1}, {"n": 2}])
        until(lambda: uploader.left() == [])
    finally:
        runsv.terminate()
        runsv.wait(timeout=60)
        subprocess.run([require("docker"), "rm", "--force", uploader.name], env=environment, check=True)
    assert 2 == (tmp_path / "log").read_text().count("loguploader: loaded ")
