"""A server that speaks as much of BigQuery as a load job needs, and Google's token endpoint, over real HTTP.

https://cloud.google.com/bigquery/docs/reference/rest/v2/jobs and .../api-uploads. Loads are atomic: a file with one bad
row fails the job and leaves no row, as there.

``python -m tests.payload.bigquery HOST:PORT FOLDER`` serves at a port, tells its rows at ``/rows``, and leaves in the
folder a key, a batch to upload, and last a file ``ready``.
"""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.servers import in_service

PROJECT = "widgets"
TOKEN = "ya29.token"
EMAIL = "loader@widgets.example"


@dataclass
class BigQuery:
    """What the server knows. A test changes how it behaves, and reads what became of it."""

    address: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: int = 0
    refuse_token: bool = False
    broken_jobs: int = 0
    """So many jobs to come fail with ``backendError``."""
    held: bool = False
    """Jobs stay as they are and do not become done."""
    polled: threading.Event = field(default_factory=threading.Event)
    _pending: dict[str, tuple[dict[str, Any], bytes]] = field(default_factory=dict)

    def key(self, folder: Path) -> dict[str, str]:
        """A service account's key whose tokens this server hands out."""
        made = subprocess.run(
            ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            capture_output=True,
            check=True,
            text=True,
            cwd=folder,
        )
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": made.stdout,
            "client_email": EMAIL,
            "token_uri": f"{self.address}/token",
        }

    def begin(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """The job as it begins; None if there is one of this id."""
        job_id = job["jobReference"]["jobId"]
        if job_id in self.jobs:
            return None
        self.jobs[job_id] = {**job, "kind": "bigquery#job", "id": f"{PROJECT}:{job_id}", "status": {"state": "RUNNING"}}
        return self.jobs[job_id]

    def load(self, job: dict[str, Any], content: bytes) -> None:
        self.uploads += 1
        self._pending[job["jobReference"]["jobId"]] = (job, content)

    def finish_jobs(self) -> None:
        for job, content in self._pending.values():
            if self.broken_jobs:
                self.broken_jobs -= 1
                error = {"reason": "backendError", "message": "Backend error. Job aborted."}
            else:
                error = self._store(job, content)
            job["status"] = {"state": "DONE", **({"errorResult": error, "errors": [error]} if error else {})}
        self._pending.clear()

    def _store(self, job: dict[str, Any], content: bytes) -> dict[str, str]:
        try:
            rows = [json.loads(line) for line in gzip.decompress(content).splitlines()]
        except (ValueError, OSError) as error:
            return {"reason": "invalid", "message": f"Error while reading data, error message: {error}"}
        self.rows += rows
        job["statistics"] = {"load": {"outputRows": str(len(rows))}}
        return {}


@contextmanager
def serve(host: str = "127.0.0.1", port: int = 0) -> Iterator[BigQuery]:
    """A server on a free port of loopback, or where else it is called to."""
    server = ThreadingHTTPServer((host, port), _Handler)
    server.state = BigQuery(f"http://{host}:{server.server_port}")  # type: ignore[attr-defined]  # for the handler
    with in_service(server):
        yield server.state  # type: ignore[attr-defined]  # set above


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> BigQuery:
        state: BigQuery = self.server.state  # type: ignore[attr-defined]  # set by serve()
        return state

    def do_GET(self) -> None:
        if self.path == "/rows":
            return self._answer(200, self.state.rows)
        found = re.fullmatch(rf"/bigquery/v2/projects/{PROJECT}/jobs/([A-Za-z0-9_-]+)", urlsplit(self.path).path)
        if not self._is_known() or not found:
            return self._error(401 if found else 404)
        job = self.state.jobs.get(found[1])
        if job is None:
            return self._error(404)
        answer = json.loads(json.dumps(job))
        if not self.state.held:
            self.state.finish_jobs()
        self.state.polled.set()
        return self._answer(200, answer)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url = urlsplit(self.path)
        if url.path == "/token":
            return self._token(parse_qs(body.decode()))
        if not self._is_known():
            return self._error(401)
        if url.path != f"/upload/bigquery/v2/projects/{PROJECT}/jobs":
            return self._error(404)
        kind = parse_qs(url.query)["uploadType"]
        if kind == ["multipart"]:
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary
            _, first, second, _ = body.split(b"--" + boundary[1].encode())
            metadata, content = (part.partition(b"\r\n\r\n")[2][:-2] for part in (first, second))
            job = self.state.begin(json.loads(metadata))
            if job is None:
                return self._error(409)
            self.state.load(job, content)
            return self._answer(200, job)
        assert kind == ["resumable"]
        job = self.state.begin(json.loads(body))
        if job is None:
            return self._error(409)
        location = f"{self.state.address}/resumable/{job['jobReference']['jobId']}"
        return self._answer(200, {}, Location=location)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        job = self.state.jobs[self.path.removeprefix("/resumable/")]
        self.state.load(job, content)
        return self._answer(200, job)

    def _token(self, form: dict[str, list[str]]) -> None:
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        if self.state.refuse_token:
            return self._answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        return self._answer(200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})

    def _is_known(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def _error(self, status: int) -> None:
        self._answer(status, {"error": {"code": status, "message": f"status {status}", "errors": []}})

    def _answer(self, status: int, body: object, **headers: str) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name that the base class gives it
        del format, args


def _main(address: str, folder: Path) -> None:
    host, _, port = address.partition(":")
    with serve(host, int(port)) as state:
        (folder / "key.json").write_text(json.dumps(state.key(folder)))
        (folder / "upload").mkdir()
        (folder / "upload/batch.gz").write_bytes(gzip.compress(b'{"n": 1}\n{"n": 2}\n'))
        (folder / "ready").touch()
        signal.pause()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
