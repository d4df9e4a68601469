"""What every store must do, whether the service vouches for contents with checksums or not."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from buildtools import BuildToolsError, Conflict, Refused
from buildtools.archive.gzip import Sink
from buildtools.archive.store import Store, StoredObject
from buildtools.archive.upload import PART
from buildtools.events import Event, Transferred
from tests.conftest import S3Service

SMALL = b"a small archive"
LARGE = Random(1).randbytes(PART + 1000)
WHOLE_PARTS = LARGE[: PART // 2] * 4


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def writes(data: bytes) -> Callable[[Sink], None]:
    def write(out: Sink) -> None:
        for start in range(0, len(data), 1 << 20):
            out.write(data[start : start + (1 << 20)])

    return write


def never(out: Sink) -> None:
    raise AssertionError("nothing was to be written")


@pytest.fixture(scope="module")
def bucket(s3: S3Service) -> str:
    return s3.bucket()


@pytest.fixture(params=[True, False], ids=["checksums", "no checksums"])
def store(request: pytest.FixtureRequest, s3: S3Service, bucket: str) -> Store:
    url = f"s3://{bucket}/{secrets.token_hex(8)}"
    return Store.connect(url, environment=s3.environment, checksums=request.param)


def test_an_empty_store_has_nothing_and_lets_write(store: Store) -> None:
    assert () == store.check_access()
    assert (None, None, None) == (store.head("a"), store.read("a"), store.digest("a"))
    assert () == store.list()


def test_created_content_is_read_back_and_never_created_twice(store: Store) -> None:
    assert store.create("releases/1.json", b"one", "application/json")
    assert not store.create("releases/1.json", b"two", "application/json")
    content = store.read("releases/1.json")
    assert content is not None
    assert b"one" == content.data
    assert sha256(b"one") == store.digest("releases/1.json")


def test_content_is_replaced_only_where_it_is_what_was_read(store: Store) -> None:
    store.create("channel", b"one", "application/json")
    first = store.read("channel")
    assert first is not None
    assert store.replace("channel", b"two", first.etag, "application/json")
    assert not store.replace("channel", b"three", first.etag, "application/json")
    assert not store.replace("no such channel", b"two", first.etag, "application/json")
    second = store.read("channel")
    assert second is not None
    assert b"two" == second.data


def test_a_listing_has_the_keys_below_a_prefix(store: Store) -> None:
    for key in ("a/1", "a/2", "b/1"):
        store.create(key, key.encode(), "text/plain")
    assert ["a/1", "a/2"] == [found.key for found in store.list("a/")]
    assert [("a/1", 3), ("a/2", 3), ("b/1", 3)] == [(found.key, found.size) for found in store.list()]


def test_deleting_twice_is_no_error(store: Store) -> None:
    store.create("a", b"a", "text/plain")
    store.delete("a")
    store.delete("a")
    assert None is store.head("a")


@pytest.mark.parametrize("data", [b"", SMALL, LARGE, WHOLE_PARTS], ids=["empty", "small", "large", "whole parts"])
def test_an_upload_is_found_as_it_was_written(store: Store, data: bytes) -> None:
    stored = store.upload("daemon.tgz", writes(data))
    assert (len(data), sha256(data), True) == (stored.size, stored.sha256, stored.written)
    assert sha256(data) == store.digest("daemon.tgz") == store.digest("daemon.tgz", deep=True)
    content = store.read("daemon.tgz")
    assert content is not None
    assert data == content.data


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("known", [True, False], ids=["known sha256", "unknown sha256"])
def test_the_same_upload_again_writes_nothing(store: Store, data: bytes, known: bool) -> None:
    digest = sha256(data) if known else ""
    first = store.upload("daemon.tgz", writes(data), sha256=digest)
    etag = described(store, "daemon.tgz").etag
    again = store.upload("daemon.tgz", never if known else writes(data), sha256=digest)
    assert (True, False) == (first.written, again.written)
    assert (first.size, first.sha256, first.checksum) == (again.size, again.sha256, again.checksum)
    assert etag == described(store, "daemon.tgz").etag


def test_a_known_sha256_is_told_without_reading_the_object(store: Store) -> None:
    store.upload("daemon.tgz", writes(LARGE), sha256=sha256(LARGE))
    assert sha256(LARGE) == described(store, "daemon.tgz").sha256


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_service_that_rejects_checksums_is_sent_none(s3: S3Service, bucket: str, data: bytes) -> None:
    url = f"s3://{bucket}/{secrets.token_hex(8)}"
    Store.connect(url, environment=s3.environment, checksums=False).upload("daemon.tgz", writes(data))
    assert "" == described(Store.connect(url, environment=s3.environment), "daemon.tgz").checksum


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("known", [True, False], ids=["known sha256", "unknown sha256"])
def test_another_content_under_the_same_key_is_a_conflict(store: Store, data: bytes, known: bool) -> None:
    store.upload("daemon.tgz", writes(data))
    other = data[:-1] + b"!"
    with pytest.raises(Conflict, match=r"daemon\.tgz already exists with other content") as caught:
        store.upload("daemon.tgz", writes(other), sha256=sha256(other) if known else "")
    assert 3 == caught.value.exit_code
    assert sha256(data) == store.digest("daemon.tgz", deep=True)


def test_an_object_that_somebody_else_wrote_is_compared_by_its_content(store: Store, s3: S3Service) -> None:
    plain = Store.connect(store.location("").rstrip("/"), environment=s3.environment, checksums=False)
    plain.create("daemon.tgz", SMALL, "application/gzip")
    assert not store.upload("daemon.tgz", writes(SMALL)).written
    assert not store.upload("daemon.tgz", never, sha256=sha256(SMALL)).written


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_content_that_is_not_what_was_told_is_not_stored(store: Store, data: bytes) -> None:
    with pytest.raises(BuildToolsError, match="changed after it was packed"):
        store.upload("daemon.tgz", writes(data), sha256=sha256(b"another"))
    assert None is store.head("daemon.tgz")
    assert () == unfinished(store)


def test_a_writer_that_fails_leaves_nothing(store: Store) -> None:
    def fails(out: Sink) -> None:
        writes(WHOLE_PARTS)(out)
        raise BuildToolsError("a jar changed while it was packed")

    with pytest.raises(BuildToolsError, match="a jar changed"):
        store.upload("daemon.tgz", fails)
    assert None is store.head("daemon.tgz")
    assert () == unfinished(store)


def test_bytes_are_reported_as_they_arrive(store: Store) -> None:
    heard: list[Event] = []
    store.upload("daemon.tgz", writes(WHOLE_PARTS), subject="daemon", report=heard.append)
    assert [Transferred("daemon", PART), Transferred("daemon", 2 * PART)] == heard


@pytest.mark.parametrize("size", [100, PART + 1], ids=["small", "large"])
def test_who_comes_second_with_another_content_stops_with_a_conflict(store: Store, size: int) -> None:
    def write(out: Sink) -> None:
        store.upload("daemon.tgz", lambda first: first.write(b"a" * size))
        out.write(b"b" * size)

    with pytest.raises(Conflict, match="already exists with other content"):
        store.upload("daemon.tgz", write)
    assert sha256(b"a" * size) == store.digest("daemon.tgz", deep=True)
    assert () == unfinished(store)


@pytest.mark.parametrize("size", [100, PART + 1], ids=["small", "large"])
def test_who_comes_second_with_the_same_content_succeeds_without_writing(store: Store, size: int) -> None:
    def write(out: Sink) -> None:
        assert store.upload("daemon.tgz", lambda first: first.write(b"a" * size)).written
        out.write(b"a" * size)

    second = store.upload("daemon.tgz", write)
    assert (False, sha256(b"a" * size)) == (second.written, second.sha256)
    assert () == unfinished(store)


def test_of_many_creators_one_is_told_that_it_was_the_one(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: store.create("manifest", b"%d" % n, "text/plain"), range(16)))
    content = store.read("manifest")
    assert content is not None
    assert [int(content.data)] == [n for n, created in enumerate(told) if created]


def test_a_bucket_that_is_not_there_is_told_by_whatever_is_asked(s3: S3Service) -> None:
    store = Store.connect("s3://no-such-bucket/widgets", environment=s3.environment)
    for ask in (
        lambda: store.head("a"),
        lambda: store.read("a"),
        lambda: store.digest("a"),
        store.list,
        lambda: store.create("a", b"a", "text/plain"),
        lambda: store.upload("a", writes(SMALL)),
    ):
        with pytest.raises(Refused, match="bucket no-such-bucket does not exist"):
            ask()
    assert 1 == len(store.check_access())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "does not know the S3 access key"),
        ("AWS_SECRET_ACCESS_KEY", "finds the S3 secret key wrong"),
    ],
)
def test_wrong_keys_are_told_before_anything_costs(s3: S3Service, bucket: str, name: str, words: str) -> None:
    store = Store.connect(f"s3://{bucket}", environment={**s3.environment, name: "wrong"})
    (complaint,) = store.check_access()
    assert words in complaint


@pytest.mark.parametrize("endpoint", ["me:hunter2@h", "http://me:hunter2@h:1", "http://me:hun/ter2@h", "http://[h"])
def test_an_endpoint_that_is_none_or_holds_a_login_is_refused_without_showing_it(endpoint: str) -> None:
    with pytest.raises(Refused, match=r"endpoint of S3") as caught:
        Store.connect("s3://bucket", endpoint=endpoint, environment={})
    assert "hun" not in str(caught.value)


def described(store: Store, key: str) -> StoredObject:
    found = store.head(key)
    assert found is not None
    return found


def unfinished(store: Store) -> tuple[str, ...]:
    """The keys of multipart uploads that were neither completed nor aborted."""
    answer = store._client.list_multipart_uploads(Bucket=store._bucket, Prefix=store._prefix)
    return tuple(upload["Key"] for upload in answer.get("Uploads", ()))
