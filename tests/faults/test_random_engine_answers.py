"""Whatever answers at an engine's address, there is a result or one message, never a traceback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildtools import BuildToolsError
from buildtools.image.builder import BuildRequest
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.build import build
from buildtools.image.engine.client import Engine
from tests.faults.raw_server import RawServer, json_documents, raw_server, responses

JSON = json_documents(
    (
        *("Id", "RepoTags", "Labels", "Config", "RootFS", "Layers", "Created", "message", "error", "Os"),
        *("Arch", "DriverStatus", "Size", "Type", "errorDetail", "status"),
    )
)
BODIES = (
    JSON
    | st.sampled_from([b"", b"OK", b"[]", b"[{}]", b'{"Id": 7}', b"[" * 5000, b"<html>", b"\xff\xfe", b"\0" * 1024])
    | st.binary(max_size=40)
)
FIELDS = st.tuples(
    st.sampled_from(
        (
            *(
                "Content-Type",
                "Content-Length",
                "Transfer-Encoding",
                "Connection",
                "Upgrade",
                "Api-Version",
                "Location",
            ),
            *("Libpod-Api-Version", "Docker-Experimental", "Ostype"),
        )
    ),
    st.sampled_from(
        ["", "1.41", "99.99", "x", "chunked", "7", "-1", "h2c", "Upgrade", "close", "application/json", "é"]
    ),
)
STATUSES = st.sampled_from([100, 101, 200, 201, 204, 301, 400, 403, 404, 409, 500, 502, 503, 999])
PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"


# Some are no HTTP at all, or a frame that looks like one of HTTP/2.
ANSWERS = responses(STATUSES, FIELDS, BODIES) | BODIES | st.just(PING) | BODIES.map(lambda body: bytes(9) + body)


def read_export(engine: Engine) -> None:
    with engine.exported(["sha256:a"]) as response:
        response.read()


OPERATIONS: list[Callable[[Engine, Path], object]] = [
    lambda engine, _: engine.platform,
    lambda engine, _: engine.containerd_store,
    lambda engine, _: engine.images("label"),
    lambda engine, _: engine.inspect("a:1"),
    lambda engine, _: engine.tag("sha256:a", "a:1"),
    lambda engine, _: engine.untag("a:1"),
    lambda engine, _: engine.pull("r.example/a:1", None),
    lambda engine, _: read_export(engine),
    lambda engine, folder: build(
        engine,
        BuildRequest("a", folder, folder / "Dockerfile", ("a:1",)),
        credentials=Credentials(folder, {}),
        environment={},
        report=lambda _: None,
        cancel=threading.Event(),
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with raw_server() as server:
        yield server


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    is_engine=st.booleans(),
    script=st.lists(ANSWERS, min_size=1, max_size=4),
    operation=st.sampled_from(range(len(OPERATIONS))),
)
def test_any_answer_gives_a_result_or_one_message(
    server: RawServer, tmp_path: Path, is_engine: bool, script: list[bytes], operation: int
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    server.play([PING, *script] if is_engine else script)
    with suppress(BuildToolsError), closing(Engine.connect({"DOCKER_HOST": f"tcp://{server.host}"})) as engine:
        OPERATIONS[operation](engine, tmp_path)
