"""Registries as they are: what others than Distribution answer, and what is right then.

A real registry stands behind a server that changes single answers.
"""

from __future__ import annotations

import http.client
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.image.registry.capabilities import Capabilities
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Descriptor,
    Manifest,
    digest_of,
    encode,
)
from tests.servers import Quiet, serving

BLOB = b"the content of a blob"
DIGEST = digest_of(BLOB)


@dataclass
class Answer:
    """What the registry has answered, to be changed; ``headers`` are replaced, an empty value takes one away."""

    method: str
    path: str
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


Habit = Callable[[Answer], None]


@contextmanager
def before(host: str, habit: Habit, **options: Any) -> Iterator[Registry]:
    """A client of the registry at ``host``, whose answers go through ``habit``."""

    class Between(Quiet, BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            connection = http.client.HTTPConnection(host)
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            connection.request(self.command, self.path, body, {**headers, "Host": self.headers["Host"]})
            response = connection.getresponse()
            answer = Answer(self.command, self.path, response.status, response.read())
            answer.headers = {**dict(response.getheaders()), "Content-Length": response.getheader("Content-Length", "")}
            connection.close()
            habit(answer)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if value:
                    self.send_header(name, value)
            # Ends the connection, and says so: a client that is not told may ask once more while it is being closed.
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _pass_on  # noqa: N815  the names that http.server looks for

    with serving(Between) as address, closing(Registry(address, pause=0.001, **options)) as client:
        yield client


def replaced(answer: Answer, status: int, body: bytes = b"", kind: str = "application/json") -> None:
    answer.status, answer.body = status, body
    answer.headers = {"Content-Type": kind, "Content-Length": str(len(body))}


def once(method: str, part: str, change: Habit) -> Habit:
    """``change`` for the first answer to such a request."""
    left = threading.Semaphore(1)

    def habit(answer: Answer) -> None:
        if answer.method == method and part in answer.path and left.acquire(blocking=False):
            change(answer)

    return habit


def always(method: str, part: str, change: Habit) -> Habit:
    def habit(answer: Answer) -> None:
        if answer.method == method and part in answer.path:
            change(answer)

    return habit


@pytest.fixture
def repository() -> str:
    return f"capabilities-{secrets.token_hex(6)}"


def manifest(client: Registry, repository: str) -> Manifest:
    config = encode({"rootfs": {"diff_ids": ["sha256:1"]}})
    parts = [
        Descriptor(kind, client.put_blob(repository, blob), len(blob))
        for kind, blob in ((DOCKER_CONFIG, config), (DOCKER_LAYER, BLOB))
    ]
    return Manifest.make(parts[0], parts[1:])


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_success_for_a_manifest_is_one_if_it_is_there(registry: str, repository: str, status: int) -> None:
    with before(registry, always("PUT", "/manifests/", lambda answer: setattr(answer, "status", status))) as client:
        image = manifest(client, repository)
        assert image.digest == client.put_manifest(repository, "1.0", image)
        assert image == client.get_manifest(repository, "1.0")


def test_a_success_that_stored_nothing_is_not_a_success(registry: str, repository: str) -> None:
    def stores_nothing(answer: Answer) -> None:
        if "/manifests/" in answer.path:
            replaced(answer, 202 if answer.method == "PUT" else 404, b"{}")

    with before(registry, stores_nothing, replication_seconds=0) as client:
        image = manifest(client, repository)
        with pytest.raises(BuildToolsError, match=r"that it stored nothing, not sha256:"):
            client.put_manifest(repository, "2.0", image)


def test_a_digest_that_is_said_not_to_match_is_tried_again(registry: str, repository: str) -> None:
    error = b'{"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match uploaded content"}]}'
    with before(registry, once("PUT", "/manifests/", lambda answer: replaced(answer, 400, error))) as client:
        image = manifest(client, repository)
        assert image.digest == client.put_manifest(repository, "1.0", image)


@pytest.mark.parametrize("status", [200, 202, 204, 404])
def test_any_success_of_a_deletion_is_one(registry: str, repository: str, status: int) -> None:
    with before(registry, always("DELETE", "/manifests/", lambda answer: replaced(answer, status, b"{}"))) as client:
        assert client.delete_manifest(repository, DIGEST)


@pytest.mark.parametrize("size", [len(BLOB), 9_000_000], ids=["whole", "streamed"])
def test_an_upload_that_is_redirected_is_sent_there(registry: str, repository: str, size: int) -> None:
    def send_elsewhere(answer: Answer) -> None:
        if "/uploads/" in answer.path:
            replaced(answer, 307)
            answer.headers["Location"] = f"http://{registry}{answer.path}"

    blob = BLOB.ljust(size)
    with before(registry, send_elsewhere) as client:
        client.put_blob(repository, blob)
        assert blob == client.get_blob(repository, digest_of(blob))


def test_a_list_of_tags_that_names_itself_as_the_next_page_ends(registry: str, repository: str) -> None:
    def again(answer: Answer) -> None:
        answer.headers["Link"] = f'</v2/{repository}/tags/list?last=1.0&n=1000>; rel="next"'

    with before(registry, always("GET", "/tags/list", again)) as client:
        client.put_manifest(repository, "1.0", manifest(client, repository))
        assert {"1.0"} == {*client.tags(repository)}


@pytest.mark.parametrize("status", [400, 404, 405, 403])
def test_a_mount_that_is_declined_is_not_an_error(registry: str, repository: str, status: int) -> None:
    with before(registry, always("POST", "mount=", lambda answer: replaced(answer, status, b"{}"))) as client:
        client.put_blob(repository, BLOB)
        assert not client.mount_blob(f"{repository}/other", DIGEST, repository)


def without_length(answer: Answer) -> None:
    answer.headers["Content-Length"] = ""


@pytest.mark.parametrize(
    "change",
    [without_length, lambda answer: replaced(answer, 405), lambda answer: replaced(answer, 501)],
    ids=["no length", "405", "501"],
)
@pytest.mark.parametrize("has_ranges", [True, False])
def test_the_size_of_a_blob_is_found_out_where_head_does_not_tell_it(
    registry: str, repository: str, change: Habit, has_ranges: bool
) -> None:
    def whole(answer: Answer) -> None:
        if answer.method == "GET" and "/blobs/" in answer.path and answer.status == 206 and not has_ranges:
            replaced(answer, 200, BLOB, "application/octet-stream")
            without_length(answer)
        if answer.method == "HEAD" and "/blobs/" in answer.path:
            change(answer)

    with before(registry, whole) as client:
        client.put_blob(repository, BLOB)
        assert len(BLOB) == client.blob_size(repository, DIGEST)
        assert client.blob_size(repository, digest_of(b"another")) is None


@pytest.mark.parametrize("body", [b"<html><h1>Sign in</h1></html>", b""], ids=["a web page", "nothing"])
@pytest.mark.parametrize("status", [200, 404])
def test_what_is_not_from_a_registry_is_asked_again(registry: str, repository: str, status: int, body: bytes) -> None:
    kind = "text/html; charset=utf-8" if body else "application/json"
    for method, part in (("GET", "/manifests/"), ("GET", "/blobs/sha256:")):
        with before(registry, once(method, part, lambda answer: replaced(answer, status, body, kind))) as client:
            image = manifest(client, repository)
            client.put_manifest(repository, "1.0", image)
            assert image == client.get_manifest(repository, "1.0")
            assert BLOB == client.get_blob(repository, DIGEST)


def test_a_web_page_that_stays_is_an_outage(registry: str) -> None:
    page = always("GET", "/v2/", lambda answer: replaced(answer, 200, b"<html>", "text/html"))
    with before(registry, page) as client, pytest.raises(Unreachable, match="it answers 200 with a web page"):
        client.ping()


@pytest.mark.parametrize("header", ["", "Negotiate", "Digest realm=a", ",,,", "Basic"])
def test_a_401_that_cannot_be_met_is_one_message(registry: str, header: str) -> None:
    def challenge(answer: Answer) -> None:
        replaced(answer, 401, b"{}")
        answer.headers["WWW-Authenticate"] = header

    denied = pytest.raises(Refused, match=r"access to registry .* denied")
    with before(registry, always("GET", "/v2/", challenge)) as client, denied:
        client.ping()


def test_a_manifest_as_plain_text_is_taken(registry: str, repository: str) -> None:
    plain = always("GET", "/manifests/", lambda answer: answer.headers.update({"Content-Type": "text/plain"}))
    with before(registry, plain) as client:
        image = manifest(client, repository)
        client.put_manifest(repository, "1.0", image)
        assert Manifest(DOCKER_MANIFEST, image.body) == client.get_manifest(repository, "1.0")


def test_a_request_that_is_too_large_is_told_with_what_to_raise(registry: str, repository: str) -> None:
    # nginx says it by a web page.
    page = always("PUT", "/manifests/", lambda answer: replaced(answer, 413, b"<html>", "text/html"))
    with before(registry, page) as client:
        image = manifest(client, repository)
        expected = rf"does not accept a request of {len(image.body)} bytes \(413\): .*client_max_body_size"
        with pytest.raises(BuildToolsError, match=expected):
            client.put_manifest(repository, "1.0", image)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            400,
            "The image tag 'stage' already exists in the 'app' repository and cannot be overwritten because the "
            "repository is immutable.",
        ),
        (412, "Failed to process request due to 'widgets/app:stage' configured as immutable."),
    ],
    ids=["ECR", "Harbor"],
)
def test_a_tag_that_may_not_be_moved_is_told_with_what_to_do(
    registry: str, repository: str, status: int, message: str
) -> None:
    body = encode({"errors": [{"code": "DENIED", "message": message}]})
    with before(registry, always("PUT", "/manifests/", lambda answer: replaced(answer, status, body))) as client:
        expected = rf"/manifests/stage with {status}: .* immutable: exempt this tag from its rule for immutable tags$"
        with pytest.raises(BuildToolsError, match=expected):
            client.put_manifest(repository, "stage", manifest(client, repository))


def test_a_registry_whose_disk_is_full_says_so(registry: str, repository: str) -> None:
    # The answer of Distribution 2.8 on a full tmpfs.
    detail = {"DriverName": "filesystem", "Enclosed": {"Op": "write", "Path": "/var/lib/registry/docker", "Err": 28}}
    body = encode({"errors": [{"code": "UNKNOWN", "message": "unknown error", "detail": detail}]})
    full = always("POST", "/uploads/", lambda answer: replaced(answer, 500, body))
    with before(registry, full) as client:
        expected = r"fails \(it answers 500: unknown error \(No space left on device\)\): see its log"
        with pytest.raises(Unreachable, match=expected):
            client.put_blob(repository, BLOB)


def test_the_right_to_push_is_found_out_without_beginning_an_upload(registry: str, repository: str) -> None:
    requests: list[str] = []
    with before(registry, lambda answer: requests.append(f"{answer.method} {answer.path}")) as client:
        client.check_push_access(repository)
        assert [] == [request for request in requests if "uploads" in request]
        assert [] == client.tags(repository)


@pytest.mark.parametrize("status", [403, 405, 404])
def test_a_registry_that_takes_no_pushes_is_found_out_before(registry: str, repository: str, status: int) -> None:
    habit = always("PUT", "/manifests/", lambda answer: replaced(answer, status, b"{}"))
    with before(registry, habit) as client, pytest.raises(Refused):
        client.check_push_access(repository)


def test_capabilities_are_found_and_nothing_stays(registry: str, repository: str) -> None:
    requests: list[tuple[str, str, int]] = []
    with before(registry, lambda answer: requests.append((answer.method, answer.path, answer.status))) as client:
        assert Capabilities(encrypted=False, deletes=True) == client.capabilities(repository)
        client.put_manifest(repository, "1.0", manifest(client, repository))
        requests.clear()
        assert Capabilities(encrypted=False, deletes=True, mounts=True, ranges=True, sizes=True) == client.capabilities(
            repository
        )
        assert ["POST"] == [method for method, path, _ in requests if "uploads" in path]
        assert ["1.0"] == client.tags(repository)


def limited(answer: Answer) -> None:
    answer.headers |= {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}


@pytest.mark.parametrize(
    ("habit", "expected"),
    [
        (always("DELETE", "/manifests/", lambda answer: replaced(answer, 405)), {"deletes": False}),
        (always("DELETE", "/manifests/", lambda answer: replaced(answer, 403, b"{}")), {"deletes": False}),
        (always("POST", "mount=", lambda answer: replaced(answer, 404)), {"mounts": False}),
        (always("GET", "/blobs/", lambda answer: replaced(answer, 200, BLOB)), {"ranges": False}),
        (always("HEAD", "/blobs/", lambda answer: replaced(answer, 405)), {"sizes": False}),
        (
            always("GET", "/tags/list", lambda answer: replaced(answer, 403, b"{}")),
            {"mounts": None, "ranges": None, "sizes": None},
        ),
        (
            always("HEAD", "/manifests/", limited),
            {"requests_left": 76, "request_limit": 100, "limit_seconds": 21600},
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_missing_capability_is_found(
    registry: str, repository: str, habit: Habit, expected: dict[str, Any]
) -> None:
    with closing(Registry(registry)) as client:
        client.put_manifest(repository, "1.0", manifest(client, repository))
    usual = Capabilities(encrypted=False, deletes=True, mounts=True, ranges=True, sizes=True)
    with before(registry, habit) as client:
        assert replace(usual, **expected) == client.capabilities(repository)
