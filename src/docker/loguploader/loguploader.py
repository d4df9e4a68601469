#!/usr/bin/env python3
"""Loads the gzip files of a folder into a BigQuery table, once through, oldest first; runit starts the next pass.

A file is removed only after its load job is done without errors. A job's id is made of the file's name and content: a
pass that was killed between load and removal does not have the file loaded a second time, since the next one finds the
job.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

USAGE = """\
usage: loguploader [--version | --help]

Loads each *.gz of a folder (newline-separated JSON) into a BigQuery table, oldest first, removes it when it is loaded,
and ends. Settings come from the environment:

  LOGUPLOADER_TABLE               PROJECT.DATASET.TABLE, which must exist; without PROJECT, the credentials' own
  LOGUPLOADER_FOLDER              the folder (default /mnt/upload)
  LOGUPLOADER_FOLDER_BYTES        warn when more than this waits there (default 1073741824)
  LOGUPLOADER_JOB_SECONDS         how long to wait for one load job (default 600)
  LOGUPLOADER_LOCATION            where the dataset lies, such as EU (default: BigQuery finds out)
  GOOGLE_APPLICATION_CREDENTIALS  a service account's key file (default /etc/loguploader/credentials.json)
  LOGUPLOADER_STATSD              HOST:PORT of a StatsD server, which is told of each file (default: none is told)
  LOGUPLOADER_STATSD_PREFIX       what its metrics begin with (default loguploader)
  BIGQUERY_EMULATOR_HOST          an address to speak to instead of Google's

A file that BigQuery refuses stays where it is and is reported by each pass, but sent again only under another name, or
where the reason was a passing one. Exit status: 0 all loaded, 1 something was not, 2 misused, 3 the credentials are
missing, damaged or refused.

Metrics: the counters uploaded and rows, rejected (refused for good, at each pass), retried (the next pass tries again),
failed (the pass could not go on); the gauges waiting and waiting_bytes, at the start of a pass.
"""

# https://cloud.google.com/bigquery/docs/error-messages: worth another job; all others come back the same.
TRANSIENT = frozenset(
    ["backendError", "internalError", "jobBackendError", "jobInternalError", "rateLimitExceeded", "quotaExceeded"]
)


class Failure(Exception):
    """The pass cannot go on; one line that says why."""

    status = 1


class NoCredentials(Failure):
    """Another key is needed: whoever starts the passes may fetch one."""

    status = 3


class Refusal(Exception):
    """This file was not loaded; the others may be."""

    counter = "rejected"


class Postponement(Refusal):
    """This file was not loaded, and the next pass tries again."""

    counter = "retried"


class Stopped(BaseException):
    """SIGTERM or SIGINT; no `except Exception` of a library may swallow it."""


@dataclass(frozen=True)
class Settings:
    """``table`` is as given; ``folder_bytes`` in bytes, ``job_seconds`` in seconds."""

    table: str
    folder: Path
    folder_bytes: int
    job_seconds: float
    location: str | None
    credentials: Path
    statsd: str
    statsd_prefix: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """:raises Failure: something is missing or is not a number."""
        table = environment.get("LOGUPLOADER_TABLE", "")
        if not re.fullmatch(r"([a-z0-9:.-]+\.)?\w+\.[\w $-]+", table):
            raise Failure("LOGUPLOADER_TABLE must name a table, as PROJECT.DATASET.TABLE or DATASET.TABLE")
        statsd = environment.get("LOGUPLOADER_STATSD", "")
        if statsd and not re.fullmatch(r"[^\s:]+:[0-9]{1,5}", statsd):
            raise Failure(f"LOGUPLOADER_STATSD={statsd}: HOST:PORT is needed")
        return cls(
            table=table,
            folder=Path(environment.get("LOGUPLOADER_FOLDER") or "/mnt/upload"),
            folder_bytes=_whole_number(environment, "LOGUPLOADER_FOLDER_BYTES", 1 << 30),
            job_seconds=_whole_number(environment, "LOGUPLOADER_JOB_SECONDS", 600),
            location=environment.get("LOGUPLOADER_LOCATION") or None,
            credentials=Path(environment.get("GOOGLE_APPLICATION_CREDENTIALS") or "/etc/loguploader/credentials.json"),
            statsd=statsd,
            statsd_prefix=environment.get("LOGUPLOADER_STATSD_PREFIX") or "loguploader",
        )


def _whole_number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not re.fullmatch(r"[1-9][0-9]{0,15}", text):
        raise Failure(f"{name}={text}: a whole number greater than 0 is needed")
    return int(text)


def waiting(folder: Path) -> dict[Path, int]:
    """The files to load, oldest first, and their sizes in bytes.

    Whoever brings a file moves it here under its last name; what begins with a dot is on its way.

    :raises Failure: the folder cannot be read.
    """
    try:
        found = [entry for entry in os.scandir(folder) if entry.name.endswith(".gz") and not entry.name.startswith(".")]
        files = [(entry.stat(), entry.name) for entry in found if entry.is_file(follow_symlinks=False)]
    except OSError as error:
        raise Failure(f"{folder} cannot be read: {error.strerror}") from None
    files.sort(key=lambda file: (file[0].st_mtime_ns, file[1]))
    return {folder / name: status.st_size for status, name in files}


def service_account(file: Path) -> dict[str, Any]:
    """The content of a service account's key file.

    :raises NoCredentials: it is not there, or is something else. Nothing of its content is in the message.
    """
    remedy = "put a service account's JSON key there, or name it in GOOGLE_APPLICATION_CREDENTIALS"
    try:
        key = json.loads(file.read_bytes())
    except OSError as error:
        raise NoCredentials(f"no credentials: {file}: {error.strerror}; {remedy}") from None
    except ValueError:
        raise NoCredentials(f"no credentials: {file} is not JSON; {remedy}") from None
    if not isinstance(key, dict) or key.get("type") != "service_account":
        raise NoCredentials(f"no credentials: {file} is not a service account's key; {remedy}")
    return key


class Loader:
    """Loads files into one table."""

    def __init__(self, settings: Settings) -> None:
        """:raises Failure: the credentials or the table's name are invalid."""
        # Here and not above: --version, --help and a missing key shall not wait for Google's client to be imported.
        import requests
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.cloud import bigquery
        from google.cloud.bigquery.retry import DEFAULT_RETRY
        from google.oauth2 import service_account as accounts

        key = service_account(settings.credentials)
        try:
            credentials = accounts.Credentials.from_service_account_info(key, scopes=list(bigquery.Client.SCOPE))
        except (ValueError, GoogleAuthError):
            raise NoCredentials(
                f"no credentials: the key in {settings.credentials} is damaged; make a new one"
            ) from None
        project = credentials.project_id
        if not project:
            raise NoCredentials(f"no credentials: the key in {settings.credentials} names no project; make a new one")
        self._client = bigquery.Client(project, credentials, location=settings.location)
        try:
            self._table = bigquery.TableReference.from_string(settings.table, default_project=project)
        except ValueError as error:
            raise Failure(f"LOGUPLOADER_TABLE={settings.table}: {error}") from None
        self._config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.NEWLINE_DELIMITED_JSON,
            write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
        )
        self._job_seconds = settings.job_seconds
        # Google's own limit is ten minutes; runit tries again at once.
        self._retry = DEFAULT_RETRY.with_timeout(10)
        self._not_found, self._conflict = exceptions.NotFound, exceptions.Conflict
        self._unauthorized = exceptions.Unauthorized
        self._silence = (requests.exceptions.RequestException, TransportError, exceptions.RetryError)
        self._api_error, self._auth_error = exceptions.GoogleAPIError, GoogleAuthError

    def load(self, file: Path) -> tuple[int, str]:
        """Loads one file and removes it; how many rows it had, and the id of the job that loaded them.

        :raises Refusal: it was not loaded, and stays.
        :raises Failure: nothing can be loaded: no access, or nobody answers.
        """
        try:
            with file.open("rb") as stream:
                done = self._load(file.name, stream)
                # Another file may have been moved here under the same name meanwhile; that one is not loaded.
                if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                    file.unlink()
            return done
        except self._silence as error:
            raise Failure(f"BigQuery does not answer: {_one_line(error)}") from None
        except OSError as error:
            raise Postponement(error.strerror or str(error)) from None
        except (self._auth_error, self._unauthorized) as error:
            raise NoCredentials(f"Google does not take the credentials: {_one_line(error)}") from None
        except self._api_error as error:
            raise Refusal(_one_line(error)) from None

    def _load(self, name: str, stream: BufferedReader) -> tuple[int, str]:
        digest = hashlib.file_digest(stream, "sha256")
        digest.update(f"\0{name}\0{self._table}".encode())
        base = re.sub(r"[^A-Za-z0-9_-]", "-", name)[:200] + f"-{digest.hexdigest()[:32]}"
        # A job's id cannot be used again: what failed in passing is taken up under the next number, by a later pass.
        for attempt in itertools.count(1):
            job_id = f"{base}-{attempt}"
            found = self._job(job_id)
            job = found or self._start(job_id, stream)
            error = self._error(job)
            if not error:
                break
            is_passing = error.get("reason") in TRANSIENT
            if not found or not is_passing:
                kind = Postponement if is_passing else Refusal
                raise kind(f"{_one_line(error.get('message'))} (job {job_id})")
        return int(job.output_rows or 0), job_id

    def _job(self, job_id: str) -> Any:
        try:
            return self._client.get_job(job_id, retry=self._retry)
        except self._not_found:
            return None

    def _start(self, job_id: str, stream: BufferedReader) -> Any:
        size = os.fstat(stream.fileno()).st_size
        try:
            return self._client.load_table_from_file(
                stream, self._table, rewind=True, size=size, job_id=job_id, job_config=self._config
            )
        except self._conflict:
            return self._client.get_job(job_id, retry=self._retry)

    def _error(self, job: Any) -> dict[str, str]:
        """Why the job failed, as BigQuery's ErrorProto; empty if it did not.

        :raises Refusal: it is not done in time.
        """
        until = time.monotonic() + self._job_seconds
        pause = 0.1
        while job.state != "DONE":
            if time.monotonic() > until:
                raise Postponement(
                    f"job {job.job_id} is not done after {self._job_seconds} s; the next pass looks again"
                )
            time.sleep(pause)
            pause = min(2 * pause, 5)
            job.reload(retry=self._retry)
        return job.error_result or {}


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:500]


class Metrics:
    """Tells a StatsD server, if there is one, a packet for each event: whether it hears them holds nothing up.

    https://github.com/statsd/statsd/blob/master/docs/metric_types.md
    """

    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.statsd_prefix
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM) if settings.statsd else None
        host, _, port = settings.statsd.partition(":")
        with contextlib.suppress(OSError):
            if self._socket:
                self._socket.connect((host, int(port)))

    def count(self, name: str, number: int = 1) -> None:
        """Adds to a counter."""
        self._send(f"{name}:{number}|c")

    def gauge(self, name: str, value: int) -> None:
        """Sets a gauge."""
        self._send(f"{name}:{value}|g")

    def _send(self, metric: str) -> None:
        # Nobody may be there; then an earlier packet's refusal is raised by a later one.
        with contextlib.suppress(OSError):
            if self._socket:
                self._socket.send(f"{self._prefix}.{metric}".encode())


def run(settings: Settings) -> bool:
    """One pass over the folder; whether all that was there is loaded.

    :raises Failure: the pass could not be made or was broken off.
    """
    metrics = Metrics(settings)
    try:
        return _pass(settings, metrics)
    except Failure:
        metrics.count("failed")
        raise


def _pass(settings: Settings, metrics: Metrics) -> bool:
    files = waiting(settings.folder)
    # First of all: whatever fails below, this is how somebody hears of it before the disk is full.
    size = sum(files.values())
    metrics.gauge("waiting", len(files))
    metrics.gauge("waiting_bytes", size)
    if size > settings.folder_bytes:
        say(
            f"warning: {len(files)} files wait in {settings.folder}, {size} bytes; the limit is {settings.folder_bytes}"
        )
    service_account(settings.credentials)
    if not files:
        return True
    loader = Loader(settings)
    refused = 0
    for file in files:
        try:
            rows, job_id = loader.load(file)
            say(f"loaded {file.name}: {rows} rows, job {job_id}")
            metrics.count("uploaded")
            metrics.count("rows", rows)
        except Refusal as refusal:
            refused += 1
            metrics.count(refusal.counter)
            say(f"not loaded: {file.name}: {refusal}")
    if refused:
        say(f"{refused} of {len(files)} files were not loaded and stay in {settings.folder}")
    return not refused


def say(line: str) -> None:
    """One line on standard error, where runit's log takes it from."""
    sys.stderr.write(f"loguploader: {line}\n")
    sys.stderr.flush()


def _stop(_signal_number: int, _frame: object) -> NoReturn:
    raise Stopped


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Exit status of one run."""
    if arguments == ["--version"]:
        sys.stdout.write(f"{environment.get('LOGUPLOADER_VERSION') or 'unknown'}\n")
        return 0
    if arguments == ["--help"]:
        sys.stdout.write(USAGE)
        return 0
    if arguments:
        say(f"unknown argument {arguments[0]}: see --help")
        return 2
    # As the first process of a container this one gets only the signals that it asks for.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        return 0 if run(Settings.read(environment)) else 1
    except Failure as failure:
        say(str(failure))
        return failure.status
    except Stopped:
        say("stopped; the next pass takes up what is left")
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
