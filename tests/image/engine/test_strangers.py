"""Whatever answers where the engine should be, there is one clear message and the right exit code."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.cancellation import Cancellation
from buildtools.image.builder import BuildRequest
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.build import build
from buildtools.image.engine.buildkit.upgrade import upgrade
from buildtools.image.engine.client import Engine
from buildtools.image.engine.documents import configuration
from buildtools.image.engine.engine_builder import EngineBuilder
from buildtools.services import Services
from buildtools.settings import Settings
from tests.image.engine.strangers import response, stranger

PING = response("200 OK", b"OK", Api_Version="1.41")
PAGE = b"<html><body><h1>No</h1>\nnot here</body></html>"
# What Go writes where somebody speaks HTTP/2 to a server that cannot.
MOVED = b"HTTP/1.1 301 Moved Permanently\r\nLocation: /%2A\r\nConnection: close\r\n\r\n"
SETTINGS_FRAME = bytes.fromhex("000006040000000000000300000064")


def build_at(host: str, folder: Path) -> None:
    """Build a folder on what is at ``host``."""
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    request = BuildRequest(name="app", context=folder, dockerfile=folder / "Dockerfile", tags=("app:1",))
    with closing(Engine.connect({"DOCKER_HOST": host})) as engine:
        build(
            engine,
            request,
            credentials=Credentials(Path("/nonexistent"), {}),
            environment={},
            report=lambda event: None,
            cancel=threading.Event(),
        )


def list_images(host: str) -> None:
    with closing(Engine.connect({"DOCKER_HOST": host})) as engine:
        engine.images("label")


def answering(routes: dict[bytes, bytes]) -> Callable[[bytes], bytes]:
    """The first answer whose key is in a request."""
    return lambda request: next(answer for key, answer in routes.items() if key in request)


def test_an_image_that_is_listed_without_its_labels_is_not_taken_for_one_with_them(tmp_path: Path) -> None:
    listed = [
        {"Id": "sha256:1", "RepoTags": ["app:1"], "Created": 1, "Labels": labels}
        for labels in (None, {}, {"other": "x"}, {"label": "x"})
    ]
    routes = {b"/_ping": PING, b"/images/json": response("200 OK", json.dumps(listed).encode())}
    with stranger(tmp_path, answering(routes)) as host, closing(Engine.connect({"DOCKER_HOST": host})) as engine:
        assert [{"label": "x"}] == [image.labels for image in engine.images("label")]


def test_what_an_engine_says_nothing_of_is_no_error_where_its_content_cannot_be_read(tmp_path: Path) -> None:
    status = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    routes = {
        b"/_ping": PING,
        b"/info": response("200 OK", json.dumps(status).encode()),
        b"/images/app:1/json": response("200 OK", b'{"Id": "sha256:1", "Architecture": "", "RootFS": {}}'),
        b"/grpc": response("404 Not Found", b'{"message": "page not found"}', Content_Type="application/json"),
        b"PRI": MOVED,
    }
    with stranger(tmp_path, answering(routes)) as host, closing(Engine.connect({"DOCKER_HOST": host})) as engine:
        image = EngineBuilder(engine, Credentials(tmp_path, {}), {}).image("app:1")
    assert {"Id": "sha256:1", "Architecture": "", "RootFS": {}, "RepoTags": []} == image


def test_a_configuration_is_read_out_of_content_by_digest() -> None:
    config = {"architecture": "arm64", "os": "linux", "config": {"Env": ["A=1"]}, "rootfs": {"diff_ids": ["sha256:3"]}}
    content = {"sha256:1": {"config": {"digest": "sha256:2"}}, "sha256:2": config}
    read = configuration(lambda digest: json.dumps(content[digest]).encode(), "sha256:1")
    rootfs = {"Type": "layers", "Layers": ["sha256:3"]}
    assert {"Architecture": "arm64", "Os": "linux", "Config": {"Env": ["A=1"]}, "RootFS": rootfs} == read
    with pytest.raises(ValueError, match="digest is not a string"):
        configuration(lambda _: b"{}", "sha256:1")


def test_the_name_that_an_image_was_pulled_by_is_no_tag(tmp_path: Path) -> None:
    names = ["app:1", f"app@sha256:{'0' * 64}", "<none>:<none>"]
    listed = {"Id": "sha256:1", "RepoTags": names, "Created": 1, "Labels": {"label": "x"}}
    routes = {b"/_ping": PING, b"/images/json": response("200 OK", json.dumps([listed]).encode())}
    with stranger(tmp_path, answering(routes)) as host, closing(Engine.connect({"DOCKER_HOST": host})) as engine:
        assert [("app:1",)] == [image.tags for image in engine.images("label")]


def test_podman_is_refused_by_its_name(tmp_path: Path) -> None:
    ping = response("200 OK", b"OK", Server="Libpod/5.8.6 (linux)", Api_Version="1.44", Libpod_Api_Version="5.8.6")
    with stranger(tmp_path, lambda request: ping) as host, pytest.raises(Refused) as caught:
        Engine.connect({"DOCKER_HOST": host})
    assert f"what answers at {host} is Podman, whose Docker API lacks BuildKit" == caught.value.fact
    assert "set DOCKER_HOST to a Docker Engine 20.10 or newer, or `builder` to a BuildKit daemon" == caught.value.remedy


@pytest.mark.parametrize(
    "greeting", [SETTINGS_FRAME, SETTINGS_FRAME + bytes.fromhex("0000080700000000000000000000000001")]
)
def test_a_buildkit_daemon_is_refused_by_its_name(tmp_path: Path, greeting: bytes) -> None:
    with stranger(tmp_path, lambda request: greeting) as host, pytest.raises(Refused) as caught:
        Engine.connect({"DOCKER_HOST": host})
    assert f"what answers at {host} is a BuildKit daemon" == caught.value.fact


def test_what_needs_no_engine_goes_on_beside_one_that_cannot_build(tmp_path: Path) -> None:
    with stranger(tmp_path, lambda request: SETTINGS_FRAME) as host:
        services = Services(Settings(Path("/nonexistent")), {"DOCKER_HOST": host}, Cancellation())
        with closing(services):
            assert services.engine_if_any() is None


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (response("403 Forbidden", b'{"message": "denied by a plugin"}'), Refused, r"forbids GET /_ping.*by a plugin"),
        (response("503 Service Unavailable", PAGE), Unreachable, r"answers GET /_ping with 503"),
        (b"SSH-2.0-OpenSSH\r\n", Unreachable, r"\(SSH-2.0-OpenSSH\): start it"),
    ],
)
def test_what_answers_the_first_request_is_told_in_one_line(
    tmp_path: Path, answer: bytes, error: type[BuildToolsError], message: str
) -> None:
    with stranger(tmp_path, lambda request: answer) as host, pytest.raises(error, match=message) as caught:
        Engine.connect({"DOCKER_HOST": host})
    assert [] == str(caught.value).splitlines()[1:]


def test_an_engine_without_buildkit_is_refused(tmp_path: Path) -> None:
    missing = response("404 Not Found", b'{"message":"page not found"}\n')
    routes = {b"/_ping": PING, b"POST /": missing, b"PRI *": MOVED}
    with stranger(tmp_path, answering(routes)) as host, pytest.raises(Refused) as caught:
        build_at(host, tmp_path)
    assert f"the engine at {host} has no BuildKit" == caught.value.fact


@pytest.mark.parametrize("route", ["session", "grpc"])
def test_a_proxy_that_forbids_to_build_is_said_to_do_so(tmp_path: Path, route: str) -> None:
    page = response("403 Forbidden", PAGE, Content_Type="text/html")
    routes = {b"/_ping": PING, b"/session ": b"HTTP/1.1 101 UPGRADED\r\n\r\n"} | {f"/{route} ".encode(): page}
    with stranger(tmp_path, answering(routes)) as host, pytest.raises(Refused) as caught:
        build_at(host, tmp_path)
    assert f"{host} forbids POST /{route}, which is needed to build (403)" == caught.value.fact
    assert "SESSION=1, GRPC=1" in caught.value.remedy


def test_a_proxy_that_forbids_to_list_is_said_to_do_so(tmp_path: Path) -> None:
    routes = {b"/_ping": PING, b"/images/json": response("403 Forbidden", b'{"message": "not for you"}')}
    reason = r"forbids GET /v1\.41/images/json, which is needed to build \(not for you\)"
    with stranger(tmp_path, answering(routes)) as host, pytest.raises(Refused, match=reason):
        list_images(host)


def test_a_proxy_without_its_engine_is_an_outage(tmp_path: Path) -> None:
    routes = {b"/_ping": PING, b"/images/json": response("502 Bad Gateway", PAGE)}
    reason = r"answers GET /v1\.41/images/json with 502"
    with stranger(tmp_path, answering(routes)) as host, pytest.raises(Unreachable, match=reason):
        list_images(host)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("Id", "RepoTags", "RepoDigests", "Config", "OnBuild", "RootFS", "Layers", "Labels", "Created"),
        *("DriverStatus", "Os", "Arch", "message"),
    ]
)
DOCUMENTS = JSON | st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=3))
BODIES = (
    st.binary(max_size=60)
    | DOCUMENTS.map(lambda document: json.dumps(document).encode())
    | st.lists(DOCUMENTS, max_size=3).map(lambda documents: json.dumps(documents).encode())
    | st.sampled_from([PAGE, b"[" * 100_000, b"1" * 5000, b'{"Os": "linux", "Arch": "amd64"}'])
)
HEADS = st.sampled_from(
    [
        *(f"HTTP/1.1 {status}\r\n" for status in ("101 UPGRADED", "200 OK", "204 No Content", "301 Moved", "304 None")),
        *(
            f"HTTP/1.1 {status}\r\n"
            for status in ("400 Bad", "403 No", "404 Not Found", "500 Oops", "503 Busy", "999 ?")
        ),
        *(
            "HTTP/1.0 200 OK\r\n",
            "HTTP/2 200\r\n",
            "HTTP/1.1 abc\r\n",
            "HTTP/1.1 100 Continue\r\n",
            "SSH-2.0-x\r\n",
            "",
        ),
    ]
)
FIELDS = st.lists(
    st.sampled_from(
        [
            *(
                "Api-Version: 1.41",
                "Api-Version: ",
                "Api-Version: ../../x",
                "Api-Version: \u0661.\u0662",
                "Libpod-Api-Version: 5",
            ),
            *("Content-Length: 5", "Content-Length: -1", "Content-Length: x", "Transfer-Encoding: chunked"),
            *("Connection: close", "Content-Type: text/html", "no field", ": x", "X: \xff"),
        ]
    ),
    max_size=3,
)
ANSWERS = st.one_of(
    st.builds(
        lambda head, fields, body, is_cut: (
            head.encode() + "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n" * (not is_cut) + body
        ),
        *(HEADS, FIELDS, BODIES, st.booleans()),
    ),
    st.builds(lambda status, body: response(status, body), st.sampled_from(["200 OK", "404 No", "500 No"]), BODIES),
    st.binary(max_size=40),
)


class RandomEngine:
    """What answers at ``host`` with ``answer``, and with an engine's own answer where it is asked how it is."""

    def __init__(self) -> None:
        self.host = ""
        self.answer = b""
        self.ping = PING

    def respond(self, request: bytes) -> bytes:
        return self.ping if b"/_ping" in request else self.answer


@pytest.fixture(scope="module")
def random_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RandomEngine]:
    engine = RandomEngine()
    with stranger(tmp_path_factory.mktemp("random"), engine.respond) as engine.host:
        yield engine


@settings(max_examples=500, deadline=None)
@given(ping=ANSWERS)
def test_an_engine_that_greets_with_anything_is_used_or_an_expected_error(
    random_engine: RandomEngine, ping: bytes
) -> None:
    random_engine.ping = ping
    with suppress(BuildToolsError):
        Engine.connect({"DOCKER_HOST": random_engine.host}).close()


@settings(max_examples=500, deadline=None)
@given(answer=ANSWERS)
def test_an_engine_that_answers_anything_gives_a_result_or_an_expected_error(
    random_engine: RandomEngine, answer: bytes
) -> None:
    random_engine.ping, random_engine.answer = PING, answer
    with closing(Engine.connect({"DOCKER_HOST": random_engine.host})) as engine:
        for question in (
            *(lambda: engine.platform, lambda: engine.containerd_store, lambda: engine.images("label")),
            *(lambda: engine.inspect("app:1"), lambda: engine.tag("sha256:1", "app:1"), lambda: engine.untag("app:1")),
            lambda: upgrade(engine, f"/{secrets.token_hex(4)}")[0].close(),
        ):
            with suppress(BuildToolsError):
                question()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.binary(max_size=60) | st.binary(max_size=60).map(lambda frames: SETTINGS_FRAME + frames))
def test_a_build_through_anything_is_an_expected_error(
    random_engine: RandomEngine, tmp_path: Path, answer: bytes
) -> None:
    random_engine.ping, random_engine.answer = PING, b"HTTP/1.1 101 UPGRADED\r\n\r\n" + answer
    with pytest.raises(BuildToolsError):
        build_at(random_engine.host, tmp_path)
