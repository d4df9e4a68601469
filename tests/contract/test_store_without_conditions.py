"""A service that ignores ``If-None-Match`` and ``If-Match``, as some do that speak S3.

It is the usual one behind a server that takes these headers away and signs the requests anew.
"""

from __future__ import annotations

import http.client
import secrets
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from buildtools import Conflict, Refused
from buildtools.archive.checksums import checksums_of
from buildtools.archive.object_store.s3_store import S3Store
from tests.conftest import S3Service
from tests.servers import Quiet, serving

_LOST = ("if-none-match", "if-match", "authorization", "x-amz-date", "host", "connection", "accept-encoding")


@pytest.fixture(scope="module")
def forgetful(s3: S3Service) -> Iterator[str]:
    """The endpoint of the service."""
    signer = S3SigV4Auth(Credentials(s3.access_key, s3.secret_key), "s3", s3.region)
    host = urlsplit(s3.endpoint).netloc

    class Forgetful(Quiet, BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _LOST}
            request = AWSRequest(self.command, s3.endpoint + self.path, headers=headers, data=body)
            signer.add_auth(request)
            connection = http.client.HTTPConnection(host)
            connection.request(self.command, self.path, body, dict(request.headers.items()))
            response = connection.getresponse()
            content = response.read()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            size = response.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", size)
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815  the names that http.server looks for

    with serving(Forgetful) as address:
        yield f"http://{address}"


def connect(forgetful: str, s3: S3Service, *, allowed: bool) -> S3Store:
    url = f"s3://{s3.bucket()}/{secrets.token_hex(8)}"
    return S3Store.connect(url, endpoint=forgetful, environment=s3.environment, conditional_writes=not allowed)


def test_it_is_found_out_before_a_release_writes(forgetful: str, s3: S3Service) -> None:
    store = connect(forgetful, s3, allowed=False)
    for _ in range(2):
        (reason,) = store.check_access()
        assert "overwrites an object in spite of If-None-Match" in reason
        assert reason.endswith("or set s3_conditional_writes = false and publish one at a time")


def test_it_is_found_out_before_anything_is_replaced(forgetful: str, s3: S3Service) -> None:
    store = connect(forgetful, s3, allowed=False)
    store.create("a", b"first", "text/plain")
    for _ in range(2):
        with pytest.raises(Refused, match="overwrites an object in spite of If-Match"):
            store.replace("a", b"second", '"0"', "text/plain")
    entry = store.read("a")
    assert entry is not None
    assert b"first" == entry.data


def test_it_can_be_allowed_and_then_nothing_that_is_there_is_overwritten(forgetful: str, s3: S3Service) -> None:
    store = connect(forgetful, s3, allowed=True)
    assert () == store.check_access() == store.check_access()
    assert [True, False] == [store.create("a", content, "text/plain") for content in (b"first", b"second")]
    entry = store.read("a")
    assert entry is not None
    assert b"first" == entry.data
    assert [True, False] == [store.replace("a", content, entry.etag, "text/plain") for content in (b"second", b"third")]
    assert store.upload("b", lambda out: out.write(b"archive"), checksums_of(b"archive")).is_new
    with pytest.raises(Conflict, match="already exists with other content"):
        store.upload("b", lambda out: out.write(b"another"), checksums_of(b"another"))
    # It also is where it has appeared since the upload began.
    with pytest.raises(Conflict, match="already exists with other content"):
        store.upload(
            "c",
            lambda out: out.write(b"another"),
            checksums_of(b"another"),
            before_end=lambda: store.create("c", b"archive", "text/plain"),
        )
