"""What every store must do, whether the service vouches for contents with checksums or not."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from buildtools import BuildToolsError, Conflict, Refused
from buildtools.archive.checksums import PART, Sink, checksums_of
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.archive.store import StoredArchive, StoredObject
from buildtools.events import Event, Transferred
from buildtools.request_log import LOGGER
from tests.conftest import S3Service
from tests.faults.proxy import wire_to

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


def upload(store: S3Store, data: bytes) -> StoredArchive:
    return store.upload("daemon.tgz", writes(data), checksums_of(data))


def copy(store: S3Store, source: S3Store, data: bytes) -> StoredArchive:
    return store.copy("daemon.tgz", source, checksums_of(data))


@pytest.fixture(scope="module")
def bucket(s3: S3Service) -> str:
    return s3.bucket()


@pytest.fixture(params=[True, False], ids=["checksums", "no checksums"])
def store(request: pytest.FixtureRequest, s3: S3Service, bucket: str) -> S3Store:
    url = f"s3://{bucket}/{secrets.token_hex(8)}"
    return S3Store.connect(url, environment=s3.environment, checksums=request.param)


def test_an_empty_store_has_nothing_and_lets_write(store: S3Store) -> None:
    assert (None, None, None) == (store.head("a"), store.read("a"), store.digest("a"))
    assert () == store.list()
    assert () == store.check_access() == store.check_access()
    assert () == unfinished(store)


def test_created_content_is_read_back_and_never_created_twice(store: S3Store) -> None:
    assert store.create("releases/1.json", b"one", "application/json")
    assert not store.create("releases/1.json", b"two", "application/json")
    content = store.read("releases/1.json")
    assert content is not None
    assert b"one" == content.data
    assert sha256(b"one") == store.digest("releases/1.json")


def test_content_is_replaced_only_where_it_is_what_was_read(store: S3Store) -> None:
    store.create("channel", b"one", "application/json")
    first = store.read("channel")
    assert first is not None
    assert store.replace("channel", b"two", first.etag, "application/json")
    assert not store.replace("channel", b"three", first.etag, "application/json")
    assert not store.replace("no such channel", b"two", first.etag, "application/json")
    second = store.read("channel")
    assert second is not None
    assert b"two" == second.data


def test_a_listing_has_the_keys_below_a_prefix(store: S3Store) -> None:
    for key in ("a/1", "a/2", "b/1"):
        store.create(key, key.encode(), "text/plain")
    assert ["a/1", "a/2"] == [found.key for found in store.list("a/")]
    assert [("a/1", 3), ("a/2", 3), ("b/1", 3)] == [(found.key, found.size) for found in store.list()]


def test_many_objects_are_read_in_the_order_of_their_keys_and_missing_ones_are_none(store: S3Store) -> None:
    for key in ("a/1", "a b/ä+&?#", "empty"):
        store.create(key, key.encode() * (key != "empty"), "text/plain")
    contents = store.read_all(["a b/ä+&?#", "missing", "a/1", "empty"])
    assert ["a b/ä+&?#".encode(), None, b"a/1", b""] == [content.data if content else None for content in contents]
    assert [store.read("a/1")] == store.read_all(["a/1"])
    assert [] == store.read_all([])


def test_deleting_twice_is_not_an_error(store: S3Store) -> None:
    store.create("a", b"a", "text/plain")
    store.delete("a")
    store.delete("a")
    assert None is store.head("a")


@pytest.mark.parametrize("data", [b"", SMALL, LARGE, WHOLE_PARTS], ids=["empty", "small", "large", "whole parts"])
def test_an_upload_is_found_as_it_was_written(store: S3Store, data: bytes) -> None:
    assert StoredArchive("daemon.tgz", checksums_of(data), is_new=True) == upload(store, data)
    assert sha256(data) == store.digest("daemon.tgz") == store.digest("daemon.tgz", checksums_of(data))
    content = store.read("daemon.tgz")
    assert content is not None
    assert data == content.data


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_the_same_upload_again_writes_nothing(store: S3Store, data: bytes) -> None:
    upload(store, data)
    etag = described(store, "daemon.tgz").etag
    again = store.upload("daemon.tgz", never, checksums_of(data))
    assert StoredArchive("daemon.tgz", checksums_of(data), is_new=False) == again
    assert etag == described(store, "daemon.tgz").etag


@pytest.mark.parametrize("data", [SMALL, LARGE, WHOLE_PARTS], ids=["small", "large", "whole parts"])
def test_the_service_computes_the_checksum_that_we_compute(s3: S3Service, bucket: str, data: bytes) -> None:
    store = S3Store.connect(f"s3://{bucket}/{secrets.token_hex(8)}", environment=s3.environment)
    upload(store, data)
    assert checksums_of(data).composite == described(store, "daemon.tgz").checksum


def test_what_an_uploader_wrote_beside_an_object_proves_nothing(store: S3Store) -> None:
    key = "daemon.tgz"
    store._bucket.ask("put_object", key, Body=b"another", Metadata={"sha256": sha256(SMALL)})
    assert sha256(b"another") == store.digest(key, checksums_of(SMALL))
    with pytest.raises(Conflict, match="already exists with other content"):
        upload(store, SMALL)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_service_that_rejects_checksums_is_sent_none(s3: S3Service, bucket: str, data: bytes) -> None:
    url = f"s3://{bucket}/{secrets.token_hex(8)}"
    S3Store.connect(url, environment=s3.environment, checksums=False).upload(
        "daemon.tgz", writes(data), checksums_of(data)
    )
    assert "" == described(S3Store.connect(url, environment=s3.environment), "daemon.tgz").checksum


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_another_content_under_the_same_key_is_a_conflict(store: S3Store, data: bytes) -> None:
    upload(store, data)
    with pytest.raises(Conflict, match=r"daemon\.tgz already exists with other content") as caught:
        upload(store, data[:-1] + b"!")
    assert 3 == caught.value.exit_code
    assert sha256(data) == store.digest("daemon.tgz", deep=True)


def test_an_object_that_somebody_else_wrote_is_compared_by_its_content(store: S3Store, s3: S3Service) -> None:
    plain = S3Store.connect(store.location("").rstrip("/"), environment=s3.environment, checksums=False)
    plain.create("daemon.tgz", SMALL, "application/gzip")
    assert not store.upload("daemon.tgz", never, checksums_of(SMALL)).is_new


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_content_that_is_not_what_was_told_is_not_stored(store: S3Store, data: bytes) -> None:
    with pytest.raises(BuildToolsError, match="changed after it was packed"):
        store.upload("daemon.tgz", writes(data), checksums_of(b"another"))
    assert None is store.head("daemon.tgz")
    assert () == unfinished(store)


def test_a_writer_that_fails_leaves_nothing(store: S3Store) -> None:
    def fails(out: Sink) -> None:
        writes(WHOLE_PARTS)(out)
        raise BuildToolsError("a jar changed while it was packed")

    with pytest.raises(BuildToolsError, match="a jar changed"):
        store.upload("daemon.tgz", fails, checksums_of(WHOLE_PARTS))
    assert None is store.head("daemon.tgz")
    assert () == unfinished(store)


@pytest.mark.parametrize(("data", "sent"), [(SMALL, 0), (WHOLE_PARTS, 1)], ids=["small", "whole parts"])
def test_what_is_sent_appears_after_the_wait_before_its_end(store: S3Store, data: bytes, sent: int) -> None:
    waits = []

    def before_end() -> None:
        waits.append((store.head("daemon.tgz"), len(unfinished(store))))

    assert store.upload("daemon.tgz", writes(data), checksums_of(data), before_end=before_end).is_new
    assert [(None, sent)] == waits


@pytest.mark.parametrize("data", [SMALL, WHOLE_PARTS], ids=["small", "whole parts"])
def test_where_the_wait_before_the_end_fails_nothing_appears(store: S3Store, data: bytes) -> None:
    def before_end() -> None:
        raise BuildToolsError("an image failed")

    with pytest.raises(BuildToolsError, match="an image failed"):
        store.upload("daemon.tgz", writes(data), checksums_of(data), before_end=before_end)
    assert None is store.head("daemon.tgz")
    assert () == unfinished(store)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_what_the_caller_has_just_looked_for_is_not_looked_for_again(
    store: S3Store, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", LOGGER):
        assert store.upload("daemon.tgz", writes(data), checksums_of(data), is_absent=True).is_new
    assert caplog.messages[0].startswith(("s3 PUT", "s3 POST"))


@pytest.mark.parametrize("size", [100, PART + 1], ids=["small", "large"])
def test_what_has_appeared_since_the_caller_looked_is_kept(store: S3Store, size: int) -> None:
    ours, theirs = b"a" * size, b"b" * size
    upload(store, ours)
    assert not store.upload("daemon.tgz", writes(ours), checksums_of(ours), is_absent=True).is_new
    with pytest.raises(Conflict, match="already exists with other content"):
        store.upload("daemon.tgz", writes(theirs), checksums_of(theirs), is_absent=True)
    assert sha256(ours) == store.digest("daemon.tgz", deep=True)
    assert () == unfinished(store)


def test_bytes_are_reported_as_they_arrive(store: S3Store) -> None:
    heard: list[Event] = []
    store.upload("daemon.tgz", writes(WHOLE_PARTS), checksums_of(WHOLE_PARTS), subject="daemon", report=heard.append)
    assert [Transferred("daemon", PART, 2 * PART), Transferred("daemon", 2 * PART, 2 * PART)] == heard


@pytest.mark.parametrize("size", [100, PART + 1], ids=["small", "large"])
def test_who_comes_second_with_another_content_stops_with_a_conflict(store: S3Store, size: int) -> None:
    def write(out: Sink) -> None:
        upload(store, b"a" * size)
        out.write(b"b" * size)

    with pytest.raises(Conflict, match="already exists with other content"):
        store.upload("daemon.tgz", write, checksums_of(b"b" * size))
    assert sha256(b"a" * size) == store.digest("daemon.tgz", deep=True)
    assert () == unfinished(store)


@pytest.mark.parametrize("size", [100, PART + 1], ids=["small", "large"])
def test_who_comes_second_with_the_same_content_succeeds_without_writing(store: S3Store, size: int) -> None:
    def write(out: Sink) -> None:
        assert upload(store, b"a" * size).is_new
        out.write(b"a" * size)

    assert not store.upload("daemon.tgz", write, checksums_of(b"a" * size)).is_new
    assert () == unfinished(store)


@pytest.fixture
def source(store: S3Store, s3: S3Service) -> S3Store:
    """Another bucket of the same service."""
    return S3Store.connect(f"s3://{s3.bucket()}", environment=s3.environment)


@pytest.mark.parametrize("data", [b"", SMALL, LARGE, WHOLE_PARTS], ids=["empty", "small", "large", "whole parts"])
def test_an_archive_is_copied_from_another_store(store: S3Store, source: S3Store, data: bytes) -> None:
    upload(source, data)
    assert StoredArchive("daemon.tgz", checksums_of(data), is_new=True) == copy(store, source, data)
    assert sha256(data) == store.digest("daemon.tgz", deep=True)
    assert StoredArchive("daemon.tgz", checksums_of(data), is_new=False) == copy(store, source, data)
    assert () == unfinished(store)


def test_a_large_archive_of_the_same_service_does_not_pass_this_machine(
    s3: S3Service, bucket: str, source: S3Store
) -> None:
    upload(source, LARGE)
    received: list[int] = []

    def count(data: bytes) -> bytes:
        received.append(len(data))
        return data

    with wire_to(s3.endpoint.removeprefix("http://")) as wire:
        wire.sent = wire.answered = count
        environment = {**s3.environment, "AWS_ENDPOINT_URL_S3": f"http://{wire.address}"}
        store = S3Store.connect(f"s3://{bucket}/{secrets.token_hex(8)}", environment=environment)
        assert copy(store, S3Store.connect(source.location("").rstrip("/"), environment=environment), LARGE).is_new
        assert checksums_of(LARGE).composite == described(store, "daemon.tgz").checksum
    assert sum(received) < len(LARGE) / 100


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_copy_never_takes_the_place_of_another_content(store: S3Store, source: S3Store, data: bytes) -> None:
    upload(source, data)
    upload(store, b"another")
    with pytest.raises(Conflict, match="already exists with other content"):
        copy(store, source, data)
    assert sha256(b"another") == store.digest("daemon.tgz", deep=True)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_copy_of_what_is_not_there_or_another_content_is_not_stored(
    store: S3Store, source: S3Store, data: bytes
) -> None:
    for content in (None, data[:-1] + b"!"):
        if content:
            upload(source, content)
        with pytest.raises(BuildToolsError):
            copy(store, source, data)
        assert None is store.head("daemon.tgz")
    assert () == unfinished(store)


def test_of_many_creators_one_is_told_that_it_was_the_one(store: S3Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: store.create("manifest", b"%d" % n, "text/plain"), range(16)))
    content = store.read("manifest")
    assert content is not None
    assert [int(content.data)] == [n for n, created in enumerate(told) if created]


def test_a_bucket_that_is_not_there_is_told_by_whatever_is_asked(s3: S3Service) -> None:
    store = S3Store.connect("s3://no-such-bucket/widgets", environment=s3.environment)
    for ask in (
        lambda: store.head("a"),
        lambda: store.read("a"),
        lambda: store.digest("a"),
        store.list,
        lambda: store.create("a", b"a", "text/plain"),
        lambda: upload(store, SMALL),
    ):
        with pytest.raises(Refused, match="bucket no-such-bucket does not exist"):
            ask()
    assert 1 == len(store.check_access())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "does not know the S3 access key"),
        ("AWS_SECRET_ACCESS_KEY", "rejects the S3 secret key"),
    ],
)
def test_wrong_keys_are_told_before_anything_costs(s3: S3Service, bucket: str, name: str, words: str) -> None:
    store = S3Store.connect(f"s3://{bucket}", environment={**s3.environment, name: "wrong"})
    (reason,) = store.check_access()
    assert words in reason


@pytest.mark.parametrize("endpoint", ["me:hunter2@h", "http://me:hunter2@h:1", "http://me:hun/ter2@h", "http://[h"])
def test_an_endpoint_that_is_invalid_or_holds_a_login_is_refused_without_showing_it(endpoint: str) -> None:
    with pytest.raises(Refused, match=r"S3 endpoint") as caught:
        S3Store.connect("s3://bucket", endpoint=endpoint, environment={})
    assert "hun" not in str(caught.value)


def described(store: S3Store, key: str) -> StoredObject:
    found = store.head(key)
    assert found is not None
    return found


def unfinished(store: S3Store) -> tuple[str, ...]:
    """The keys of multipart uploads that were neither completed nor aborted."""
    response = store._bucket.ask("list_multipart_uploads", None, Prefix=store._prefix)
    return tuple(upload["Key"] for upload in response.get("Uploads", ()))
