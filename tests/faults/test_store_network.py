"""What the network can do to a store, done to a real one by a wire in between."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from random import Random

import pytest

from buildtools import Unreachable
from buildtools.archive.checksums import PART, Sink, checksums_of
from buildtools.archive.object_store.bucket import Patience
from buildtools.archive.object_store.s3_store import S3Store
from tests.conftest import S3Service
from tests.faults.proxy import Wire, wire_to

BRIEF = Patience(pause=0.01)
LARGE = Random(1).randbytes(PART + 1000)


@pytest.fixture(scope="module")
def bucket(s3: S3Service) -> str:
    return s3.bucket()


@pytest.fixture
def wire(s3: S3Service) -> Iterator[Wire]:
    with wire_to(s3.endpoint.removeprefix("http://")) as made:
        yield made


@pytest.fixture
def direct(s3: S3Service, bucket: str) -> S3Store:
    return S3Store.connect(f"s3://{bucket}/{secrets.token_hex(8)}", environment=s3.environment)


@pytest.fixture
def store(s3: S3Service, direct: S3Store, wire: Wire) -> S3Store:
    """The same objects as ``direct``, at the other end of the wire."""
    url = direct.location("").rstrip("/")
    return S3Store.connect(url, endpoint=f"http://{wire.address}", environment=s3.environment, patience=BRIEF)


def unfinished(store: S3Store) -> tuple[str, ...]:
    response = store._bucket.ask("list_multipart_uploads", None, Prefix=store._prefix)
    return tuple(upload["Key"] for upload in response.get("Uploads", ()))


def test_an_endpoint_that_dies_during_an_upload_is_unreachable_and_leaves_no_object(
    store: S3Store, direct: S3Store, wire: Wire
) -> None:
    def write(out: Sink) -> None:
        out.write(LARGE)
        wire.cut()
        out.write(LARGE)

    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:[0-9]+ cannot be reached .*try again") as caught:
        store.upload("daemon.tgz", write, checksums_of(LARGE + LARGE))
    assert 4 == caught.value.exit_code
    assert None is direct.head("daemon.tgz")
    assert direct.upload("daemon.tgz", lambda out: out.write(LARGE), checksums_of(LARGE)).is_new


def test_a_download_that_always_breaks_off_is_unreachable(store: S3Store, direct: S3Store, wire: Wire) -> None:
    direct.upload("daemon.tgz", lambda out: out.write(LARGE), checksums_of(LARGE))
    seen = 0

    def half(data: bytes) -> bytes | None:
        nonlocal seen
        seen += len(data)
        return data if seen < PART // 2 else None

    wire.answered = half
    with pytest.raises(Unreachable, match="cannot be reached"):
        store.digest("daemon.tgz", deep=True)


def test_a_download_that_breaks_off_goes_on_where_it_broke_off(store: S3Store, direct: S3Store, wire: Wire) -> None:
    direct.upload("daemon.tgz", lambda out: out.write(LARGE), checksums_of(LARGE))
    size = 0

    def half(data: bytes) -> bytes | None:
        nonlocal size
        size += len(data)
        if size < PART // 2:
            return data
        wire.answered = lambda data: data
        return None

    wire.answered = half
    assert hashlib.sha256(LARGE).hexdigest() == store.digest("daemon.tgz", deep=True)


def test_a_part_that_is_damaged_on_its_way_is_sent_again(store: S3Store, direct: S3Store, wire: Wire) -> None:
    seen = 0

    def damage(data: bytes) -> bytes:
        nonlocal seen
        seen += len(data)
        # So long a piece so late is from the middle of the first part, no headers.
        if seen < PART // 2 or len(data) < 1 << 16:
            return data
        wire.sent = lambda data: data
        return data[:-1] + bytes([data[-1] ^ 1])

    wire.sent = damage
    assert store.upload("daemon.tgz", lambda out: out.write(LARGE), checksums_of(LARGE)).is_new
    assert hashlib.sha256(LARGE).hexdigest() == direct.digest("daemon.tgz", deep=True)
    assert () == unfinished(direct)


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_an_answer_that_is_lost_is_not_a_conflict_with_oneself(
    store: S3Store, direct: S3Store, wire: Wire, data: bytes
) -> None:
    lost: list[bytes] = []

    def forget(answer: bytes) -> bytes | None:
        wire.answered = lambda data: data
        lost.append(answer)
        return None

    def sent(request: bytes) -> bytes:
        if b"if-none-match: *" in request.lower() and not lost:
            wire.answered = forget
        return request

    wire.sent = sent
    stored = store.upload("daemon.tgz", lambda out: out.write(data), checksums_of(data))
    assert lost[0].startswith(b"HTTP/1.1 200")
    assert hashlib.sha256(data).hexdigest() == stored.checksums.sha256 == direct.digest("daemon.tgz", deep=True)
    assert () == unfinished(direct)
