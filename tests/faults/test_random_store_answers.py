"""Whatever an S3 service sends, the store ends with a result or with one message, never with a traceback."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildtools import BuildToolsError
from buildtools.archive.checksums import checksums_of
from buildtools.archive.object_store.bucket import Patience
from buildtools.archive.object_store.s3_store import S3Store
from tests.faults.raw_server import RawServer, raw_server, responses

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "very-secret"}
IMPATIENT = Patience(connecting=2, silence=2, retrying=2, attempts=2, pause=0)
CONTENT = b"content"

TEXTS = st.sampled_from(
    ["", "true", "false", "maybe", "7", "-1", "1e9", "a/b", "p/a", "2026-01-01T00:00:00Z", "x" * 300]
)
TAGS = st.sampled_from(
    (
        *("ListBucketResult", "ListMultipartUploadsResult", "InitiateMultipartUploadResult", "Error", "Contents"),
        *("Key", "Size", "ETag", "IsTruncated", "NextContinuationToken", "UploadId", "Upload", "Initiated", "Code"),
        *("Message", "Bucket", "Prefix", "CompleteMultipartUploadResult", "Nonsense"),
    )
)
XML = st.recursive(
    TEXTS,
    lambda inner: st.builds(lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>", TAGS, st.lists(inner, max_size=4)),
    max_leaves=8,
).map(str.encode)
CODES = st.sampled_from(["NoSuchKey", "NoSuchBucket", "AccessDenied", "SlowDown", "PreconditionFailed", "", "ä", "{0}"])
ENTRIES = st.lists(
    st.builds(
        lambda kind, parts: f"<{kind}>{''.join(f'<{tag}>{text}</{tag}>' for tag, text in parts)}</{kind}>",
        st.sampled_from(["Contents", "Upload"]),
        st.lists(
            st.tuples(st.sampled_from(["Key", "Size", "ETag", "UploadId", "Initiated"]), TEXTS), max_size=4, unique=True
        ),
    ),
    max_size=3,
).map(lambda entries: f"<List><IsTruncated>false</IsTruncated>{''.join(entries)}</List>".encode())
BODIES = (
    XML
    | ENTRIES
    | CODES.map(lambda code: f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
    | st.sampled_from([b"", CONTENT, b"<html>502</html>", b"<a>", b"<?xml version='1.0'?>", b"\xff\xfe", b"{}"])
    | st.binary(max_size=30)
)
FIELDS = st.tuples(
    st.sampled_from(
        (
            *("ETag", "Content-Type", "Last-Modified", "Content-Range", "x-amz-checksum-sha256", "x-amz-request-id"),
            *("Transfer-Encoding", "Content-Length", "Location", "x-amz-bucket-region", "x-amz-meta-sha256", "Date"),
            *("x-amz-object-lock-retain-until-date", "x-amz-missing-meta", "x-amz-mp-parts-count"),
        )
    ),
    st.sampled_from(
        ["", '"etag"', "chunked", "7", "-1", "bytes 0-6/7", "yesterday", "us-east-1", "é", "http://[", "0"]
    ),
)
STATUSES = st.sampled_from([100, 200, 204, 206, 301, 304, 307, 400, 403, 404, 405, 409, 412, 416, 429, 500, 501, 503])

ANSWERS = responses(STATUSES, FIELDS, BODIES)

OPERATIONS: list[Callable[[S3Store], object]] = [
    lambda store: store.check_access(),
    lambda store: store.check_access(dry_run=True),
    lambda store: store.head("a"),
    lambda store: store.read("a"),
    lambda store: store.read_all(["a", "b"]),
    lambda store: store.digest("a", checksums_of(CONTENT)),
    lambda store: store.download("a", io.BytesIO()),
    lambda store: store.create("a", CONTENT, "text/plain"),
    lambda store: store.replace("a", CONTENT, '"etag"', "text/plain"),
    lambda store: store.list("a"),
    lambda store: store.delete("a"),
    lambda store: store.discard_unfinished("a", datetime.now(UTC)),
    lambda store: store.upload("a", lambda out: out.write(CONTENT), checksums_of(CONTENT)),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with raw_server() as server:
        yield server


@pytest.fixture(scope="module")
def store(server: RawServer) -> S3Store:
    # Made once: botocore takes a quarter of a second for a client.
    return S3Store.connect("s3://bucket/p", endpoint=f"http://{server.host}", environment=KEYS, patience=IMPATIENT)


# urllib3 leaves the socket of a response that it cannot read to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    script=st.lists(ANSWERS, min_size=1, max_size=4),
    operation=st.sampled_from(range(len(OPERATIONS))),
)
def test_any_answer_gives_a_result_or_one_message(
    server: RawServer, store: S3Store, script: list[bytes], operation: int
) -> None:
    server.play(script)
    with suppress(BuildToolsError):
        OPERATIONS[operation](store)
