"""What the network and the servers in it can do to a registry's client."""

from __future__ import annotations

import io
import json
import secrets
import time
from collections.abc import Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random

import pytest

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.image.docker.credentials import Credentials
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import Damaged, digest_of
from tests.contract.registries import own_registry
from tests.faults.answers import answering
from tests.faults.proxy import wire_to
from tests.faults.uploads import resumable_uploads
from tests.servers import Quiet, serving

# Sent apart from the request that ends the upload, and with it.
LARGE, SMALL = (Random(1).randbytes(size) for size in (9_000_000, 3_000_000))
DIGEST = digest_of(LARGE)


def upload(client: Registry, repository: str, content: bytes = LARGE) -> None:
    client.upload_blob(repository, digest_of(content), len(content), lambda: io.BytesIO(content))


def test_an_upload_goes_on_where_the_connection_broke() -> None:
    with resumable_uploads(1_000_000, 1_700_000) as server, closing(Registry(server.host, pause=0.001)) as client:
        upload(client, "app")
    assert {DIGEST: LARGE} == server.stored
    assert len(LARGE) == server.total
    last = len(LARGE) - 1
    assert ["", f"1000000-{last}", f"1700000-{last}"] == server.ranges


def test_an_upload_that_never_gets_on_is_given_up() -> None:
    with resumable_uploads(*[0] * 50) as server, closing(Registry(server.host, pause=0.001)) as client:
        with pytest.raises(Unreachable, match="cannot be reached"):
            upload(client, "app")
        assert 6 == len(server.ranges)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("dies", ["while sending", "before the answer"])
def test_a_real_registry_gets_a_blob_whose_connection_broke(registry: str, dies: str, content: bytes) -> None:
    repository = f"test-{secrets.token_hex(6)}"
    carried = 0
    broken = False

    def sent(data: bytes) -> bytes | None:
        nonlocal carried, broken
        carried += len(data)
        if dies == "while sending" and carried > 1_000_000 and not broken:
            broken = True
            return None
        return data

    def answered(data: bytes) -> bytes | None:
        nonlocal broken
        if dies == "before the answer" and carried > len(content) and not broken:
            broken = True
            return None
        return data

    with wire_to(registry) as wire:
        wire.sent, wire.answered = sent, answered
        with closing(Registry(wire.address, pause=0.001)) as client:
            upload(client, repository, content)
            assert broken
            assert content == client.get_blob(repository, digest_of(content))


def test_a_download_goes_on_where_the_connection_broke(registry: str) -> None:
    repository = f"test-{secrets.token_hex(6)}"
    with closing(Registry(registry)) as client:
        upload(client, repository)
    breaks, carried, ranges = [1_000_000, 4_000_000], 0, list[str]()

    def sent(data: bytes) -> bytes:
        ranges.extend(line.decode() for line in data.splitlines() if line.startswith(b"Range: "))
        return data

    def answered(data: bytes) -> bytes | None:
        nonlocal carried
        carried += len(data)
        if breaks and carried > breaks[0]:
            breaks.pop(0)
            return None
        return data

    blocks = list[bytes]()
    with wire_to(registry) as wire:
        wire.sent, wire.answered = sent, answered
        with closing(Registry(wire.address, pause=0.001)) as client:
            assert client.download_blob(repository, DIGEST, blocks.append)
    assert (LARGE, 2) == (b"".join(blocks), len(ranges))


@pytest.mark.parametrize("damage", [0, 1])
def test_a_registry_that_sends_all_again_after_a_break_is_read_on(damage: int) -> None:
    cuts = iter([2_000_000, 5_000_000])

    class Forgetful(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(LARGE)))
            self.end_headers()
            self.wfile.write(LARGE[: next(cuts, len(LARGE) - damage)] + bytes(damage))
            self.close_connection = True

    blocks = list[bytes]()
    with serving(Forgetful) as host, closing(Registry(host, pause=0.001)) as client:
        if damage:
            with pytest.raises(Damaged, match="bytes whose digest is"):
                client.download_blob("app", DIGEST, blocks.append)
        else:
            assert client.download_blob("app", DIGEST, blocks.append)
            assert b"".join(blocks) == LARGE


def test_a_download_goes_where_the_registry_sends_it_and_goes_on_there() -> None:
    parts = iter([(200, 0, 2_000_000), (206, 2_000_000, len(LARGE))])
    authorizations = list[str]()

    class Elsewhere(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, start, end = next(parts)
            authorizations.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Range", f"bytes {start}-{len(LARGE) - 1}/{len(LARGE)}")
            self.send_header("Content-Length", str(len(LARGE) - start))
            self.end_headers()
            self.wfile.write(LARGE[start:end])
            self.close_connection = True

    blocks = list[bytes]()
    with serving(Elsewhere) as elsewhere:
        redirect = (307, {"Location": f"http://{elsewhere}/blob"})
        with answering(redirect, redirect) as server, closing(Registry(server.host, pause=0.001)) as client:
            assert client.download_blob("app", DIGEST, blocks.append)
    assert (LARGE, ["", ""]) == (b"".join(blocks), authorizations)


def test_a_download_that_never_gets_on_is_given_up() -> None:
    requests = list[str]()

    class Broken(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.close_connection = True

    with (
        serving(Broken) as host,
        closing(Registry(host, pause=0.001)) as client,
        pytest.raises(Unreachable, match="cannot be reached"),
    ):
        client.download_blob("app", DIGEST, lambda _: None)
    assert 5 == len(requests)


def test_a_web_page_is_not_a_blob() -> None:
    blocks = list[bytes]()
    page = (200, {"Content-Type": "text/html"})
    with (
        answering(*[page] * 5) as server,
        closing(Registry(server.host, pause=0.001)) as client,
        pytest.raises(Unreachable, match="with a web page"),
    ):
        client.download_blob("app", DIGEST, blocks.append)
    assert [] == blocks


def test_a_small_blob_whose_answer_is_lost_is_there(registry: str) -> None:
    repository, body = f"test-{secrets.token_hex(6)}", b"a configuration"
    sending = lost = False

    def sent(data: bytes) -> bytes | None:
        nonlocal sending
        sending = sending or data.startswith(b"PUT ")
        return data

    def answered(data: bytes) -> bytes | None:
        nonlocal lost
        if sending and not lost:
            lost = True
            return None
        return data

    with wire_to(registry) as wire, closing(Registry(wire.address, pause=0.001)) as client:
        wire.sent, wire.answered = sent, answered
        digest = client.put_blob(repository, body)
        assert lost
        assert body == client.get_blob(repository, digest)


def test_a_blob_that_was_changed_on_the_way_is_noticed(registry: str) -> None:
    repository = f"test-{secrets.token_hex(6)}"
    body = b"the true content of a blob"
    with wire_to(registry) as wire, closing(Registry(wire.address)) as client:
        digest = client.put_blob(repository, body)
        wire.answered = lambda data: data.replace(b"true", b"fake")
        with pytest.raises(BuildToolsError, match=rf"{repository} {digest} with bytes whose digest is"):
            client.get_blob(repository, digest)


@pytest.mark.parametrize(
    "answer", [(503, {}), (500, {}), (429, {}), (429, {"Retry-After": "0"}), (503, {"Retry-After": "soon"})]
)
def test_a_busy_registry_is_asked_again(answer: tuple[int, Mapping[str, str]]) -> None:
    with answering(answer, answer) as script, closing(Registry(script.host, pause=0.001)) as client:
        client.ping()
    assert 3 == len(script.asked)


def test_a_busy_token_service_is_asked_again_when_it_allows() -> None:
    asked: list[float] = []

    class Tokens(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, headers, status = b"{}", {}, 200
            if self.path.startswith("/token"):
                asked.append(time.monotonic())
                body = b'{"token": "a"}'
                if asked[-1] - asked[0] < 1:
                    status, headers = 429, {"Retry-After": "1"}
            elif "Authorization" not in self.headers:
                status = 401
                headers = {"WWW-Authenticate": f'Bearer realm="http://{self.headers["Host"]}/token"'}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with serving(Tokens) as host, closing(Registry(host, pause=0.001)) as client:
        client.ping()
    assert 2 == len(asked)


@pytest.mark.parametrize(
    ("status", "fact"), [(503, "cannot be reached"), (500, "fails"), (429, "allows no more requests for now")]
)
def test_a_registry_that_stays_busy_is_an_outage(status: int, fact: str) -> None:
    with answering(*[(status, {})] * 99) as script, closing(Registry(script.host, pause=0.001)) as client:
        with pytest.raises(Unreachable, match=rf"{script.host} {fact} \(it answers {status}\)"):
            client.ping()
        assert 5 == len(script.asked)


@pytest.mark.parametrize(("status", "error"), [(400, BuildToolsError), (403, Refused), (404, BuildToolsError)])
def test_what_is_refused_is_not_asked_again(status: int, error: type[BuildToolsError]) -> None:
    with answering((status, {})) as script, closing(Registry(script.host, pause=0.001)) as client:
        with pytest.raises(error):
            client.ping()
        assert 1 == len(script.asked)


def test_an_answer_that_is_not_a_list_of_tags_is_told() -> None:
    told = pytest.raises(BuildToolsError, match="answers for app tags with what is not a list of tags")
    with answering() as script, closing(Registry(script.host, pause=0.001)) as client, told:
        client.tags("app")


def test_the_login_is_not_sent_to_where_a_registry_redirects(tmp_path: Path) -> None:
    with answering() as elsewhere, answering() as script:
        script.left += [
            (401, {"WWW-Authenticate": 'Basic realm="r"'}),
            (307, {"Location": f"http://{elsewhere.host}/away"}),
        ]
        (tmp_path / "config.json").write_text(
            json.dumps({"auths": {script.host: {"username": "me", "password": "hunter2"}}})
        )
        with closing(Registry(script.host, Credentials(tmp_path, {}))) as client:
            client.ping()
        assert ["/v2/", "/v2/ Basic bWU6aHVudGVyMg=="] == script.asked
        assert ["/away"] == elsewhere.asked


def test_a_way_to_log_in_is_found_among_several_headers(tmp_path: Path) -> None:
    with answering((401, {"WWW-Authenticate": 'Negotiate\r\nWWW-Authenticate: Basic realm="r"'})) as script:
        (tmp_path / "config.json").write_text(
            json.dumps({"auths": {script.host: {"username": "me", "password": "hunter2"}}})
        )
        with closing(Registry(script.host, Credentials(tmp_path, {}))) as client:
            client.ping()
        assert ["/v2/", "/v2/ Basic bWU6aHVudGVyMg=="] == script.asked


def test_a_registry_that_comes_back_is_used_again(tmp_path: Path, environment: Mapping[str, str]) -> None:
    with own_registry(tmp_path, environment) as own, closing(Registry(own.host, pause=0.001)) as client:
        client.ping()
        own.stop()
        with pytest.raises(Unreachable):
            client.ping()
        own.start()
        client.ping()
