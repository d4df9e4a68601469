"""Whatever an S3 service answers becomes one message with a next step and the right exit code, and holds no secret."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.archive.checksums import checksums_of
from buildtools.archive.object_store.bucket import Patience
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.request_log import LOGGER
from buildtools.sandbox.process import free_ports
from tests.servers import Quiet, serving

BRIEF = Patience(pause=0.01)
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "very-secret"}


@dataclass
class Service:
    """A service that gives the same answer to everything."""

    url: str = ""
    status: int = 200
    code: str = ""
    asked: list[str] = field(default_factory=list)
    algorithms: list[str | None] = field(default_factory=list)

    def store(self, environment: dict[str, str] = KEYS) -> S3Store:
        return S3Store.connect("s3://bucket/widgets", endpoint=self.url, environment=environment, patience=BRIEF)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.command)
            made.algorithms.append(self.headers["x-amz-sdk-checksum-algorithm"])
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{made.code}</Code><Message>as told</Message></Error>".encode()
            self.send_response(made.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            made.asked.append(self.command)
            # botocore asks by HEAD where a bucket is that has moved, as often as it is told so.
            self.send_response(404 if made.status == 301 else made.status)
            self.end_headers()

        do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  named by http.server

    with serving(Handler) as address:
        made.url = f"http://{address}"
        yield made


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (404, "NoSuchBucket", Refused, "bucket bucket does not exist at 127.0.0.1:.*: create it"),
        (403, "AccessDenied", Refused, "denies s3:PutObject on s3://bucket/widgets/key: grant"),
        (403, "InvalidAccessKeyId", Refused, "does not know the S3 access key: set AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", Refused, "rejects the S3 secret key: correct AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", Refused, "expired: renew AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", Refused, "this machine's clock is wrong: set the clock"),
        (301, "PermanentRedirect", Refused, "another region: set AWS_REGION"),
        (501, "NotImplemented", Refused, "set s3_conditional_writes = false .*, set s3_checksums = false"),
        (400, "BadDigest", Unreachable, "damaged on its way .*: try again"),
        (413, "EntityTooLarge", Refused, "an upload of this size .*client_max_body_size"),
        (507, "XMinioStorageFull", Unreachable, "has no space left for .*: make room there"),
        (418, "Teapot", BuildToolsError, r"refuses s3://bucket/widgets/key \(Teapot: as told\)"),
    ],
)
def test_a_refusal_is_told_with_what_to_do(
    service: Service, status: int, code: str, kind: type[BuildToolsError], words: str
) -> None:
    service.status, service.code = status, code
    store = service.store()
    with pytest.raises(kind, match=words) as caught:
        store.create("key", b"data", "text/plain")
    assert kind is type(caught.value)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "ExpiredToken", "the S3 session token has expired: renew"),
        (403, "RequestTimeTooSkewed", "clock is wrong: set"),
        (403, "AccessDenied", "denies s3:GetObject on s3://bucket/widgets/key: grant"),
    ],
)
def test_why_head_is_refused_is_told_though_its_answer_has_no_body(
    service: Service, status: int, code: str, words: str
) -> None:
    service.status, service.code = status, code
    with pytest.raises(Refused, match=words):
        service.store().head("key")
    assert ["HEAD", "GET"] == [service.asked[0], service.asked[-1]]


def test_an_object_comes_with_what_a_bucket_with_object_lock_demands(service: Service) -> None:
    service.status, service.code = 404, "NoSuchKey"
    store = service.store()
    store.create("key", b"data", "text/plain")
    with pytest.raises(Unreachable, match="is not there after it was written"):
        store.upload("archive", lambda out: out.write(b"data"), checksums_of(b"data"))
    assert ["SHA256", "SHA256"] == [each for each in service.algorithms if each]


def test_a_service_that_asks_to_wait_is_asked_four_times(service: Service) -> None:
    service.status, service.code = 503, "SlowDown"
    store = service.store()
    with pytest.raises(Unreachable, match=r"is not ready for .* \(SlowDown: as told\): try again later"):
        store.read("key")
    assert ["GET"] * 4 == service.asked


def test_a_refusal_is_not_asked_for_again(service: Service) -> None:
    service.status, service.code = 403, "AccessDenied"
    with pytest.raises(Refused):
        service.store().read("key")
    assert ["GET"] == service.asked


def test_rights_that_are_lacking_are_named_all_at_once_and_each_once(service: Service) -> None:
    service.status, service.code = 403, "AccessDenied"
    writing, listing = service.store().check_access()
    assert "denies s3:PutObject on s3://bucket/widgets/.buildtools-access" in writing
    assert "denies s3:ListBucket on s3://bucket/widgets/" in listing
    assert ["GET", "POST", "PUT"] == sorted(service.asked)


def test_each_request_is_one_line_of_the_log_without_a_secret(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger=LOGGER)
    service.status, service.code = 503, "SlowDown"
    with pytest.raises(Unreachable):
        service.store().create("key", b"data", "text/plain")
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert 4 == len(lines)
    assert lines[0].startswith(f"s3 PUT {service.url}/bucket/widgets/key 503, 4 bytes sent, 0 received, ")
    assert lines[3].endswith(", attempt 4")
    assert not any(secret in line for line in lines for secret in (*KEYS.values(), "Signature"))


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (404, "NoSuchBucket", Refused, "bucket bucket does not exist"),
        (
            403,
            "AccessDenied",
            Refused,
            "denies s3:GetObject on s3://bucket/widgets/key: .*s3:ListBucket: without",
        ),
        (200, "", Unreachable, "try again"),
    ],
)
def test_reading_many_objects_is_refused_as_reading_one_is(
    service: Service, status: int, code: str, kind: type[BuildToolsError], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    service.status, service.code = status, code
    with caplog.at_level("DEBUG", LOGGER), pytest.raises(kind, match=words):
        service.store().read_all(["key"])
    assert "/bucket/widgets/key?X-Amz-Algorithm=***&X-Amz-Credential=***&" in caplog.text
    assert "AKIDEXAMPLE" not in caplog.text


def test_a_store_hides_its_keys(service: Service) -> None:
    assert "very-secret" not in repr(service.store())
    assert "very-secret" not in repr(vars(service.store()._bucket))


def test_missing_credentials_are_refused_by_their_names(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # botocore looks for profiles and instance roles by the process's own environment.
    for name in (*KEYS, "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Refused, match=r"no S3 credentials found .*: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        service.store({}).read("key")
    assert [] == service.asked


@pytest.mark.parametrize("name", [*KEYS, "AWS_SESSION_TOKEN"])
def test_a_part_of_a_key_is_refused_by_its_name(service: Service, name: str) -> None:
    with pytest.raises(Refused, match=f"{name} is set without AWS_.*: set them together"):
        service.store({name: "very-secret"})


def test_an_unknown_profile_is_refused(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Refused, match=r"no S3 credentials found .*nobody.*AWS_PROFILE"):
        service.store({"AWS_PROFILE": "nobody"})


def test_a_configuration_file_of_aws_that_is_damaged_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(Refused, match=r"^AWS's own configuration is not valid .*config.*AWS_CONFIG_FILE$"):
        service.store({})


def test_an_endpoint_that_is_down_is_unreachable() -> None:
    (port,) = free_ports(1)
    store = Service(f"http://127.0.0.1:{port}").store()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+ cannot be reached \(\[Errno 111\] Connection refused\)"):
        store.check_access()


def test_a_service_on_loopback_is_asked_without_the_proxy(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    service.status, service.code = 404, "NoSuchKey"
    assert None is service.store().read("key")
    assert ["GET"] == service.asked


@pytest.mark.parametrize("url", ["", "bucket/prefix", "s3://", "https://bucket/prefix"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(Refused, match=r"invalid artifacts URL .*: give s3://BUCKET"):
        S3Store.connect(url, environment=KEYS)


def test_an_endpoint_that_is_not_a_url_is_refused() -> None:
    with pytest.raises(Refused, match="'nonsense' is not a valid S3 endpoint: give s3_endpoint as https://HOST"):
        S3Store.connect("s3://bucket", endpoint="nonsense", environment=KEYS)
