"""A new version of an archive whose unchanged bytes are copied inside the service: what is sent, and what arrives."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from buildtools.archive.checksums import PART, checksums_of
from buildtools.archive.object_store.part_copier import JOINTS
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.archive.store import Basis, SharedRange
from tests.conftest import S3Service
from tests.faults.proxy import wire_to

OLD, NEW = b"1.4.2" * 50, b"1.10.0" * 60
FIRST, SECOND = Random(1).randbytes(2 * PART + (3 << 20)), Random(2).randbytes(7 << 20)


def archive(header: bytes) -> bytes:
    """Two large files, with a header before each and an end."""
    return header + FIRST + header + SECOND + header


def basis() -> Basis:
    """The old archive, and where the new one has its files."""
    second = [len(header) * 2 + len(FIRST) for header in (NEW, OLD)]
    return Basis(
        "daemon-1.tgz",
        (SharedRange(len(NEW), len(OLD), len(FIRST)), SharedRange(second[0], second[1], len(SECOND))),
    )


class Count:
    """The bytes that were sent; where nothing ``may_delete``, requests to delete are, with a wrong signature."""

    def __init__(self, *, may_delete: bool) -> None:
        self.size = 0
        self._may_delete = may_delete

    def __call__(self, data: bytes) -> bytes:
        self.size += len(data)
        if data.startswith(b"DELETE") and not self._may_delete:
            return data.replace(b"Signature=", b"Signature=0")
        return data


@contextmanager
def counting(s3: S3Service, *, may_delete: bool = True) -> Iterator[tuple[S3Store, Count]]:
    with wire_to(s3.endpoint.removeprefix("http://")) as wire:
        count = wire.sent = Count(may_delete=may_delete)
        environment = {**s3.environment, "AWS_ENDPOINT_URL_S3": f"http://{wire.address}"}
        yield S3Store.connect(f"s3://{s3.bucket()}/{secrets.token_hex(8)}", environment=environment), count


def send(store: S3Store, key: str, data: bytes, basis: Basis | None = None) -> bool:
    return store.upload(key, lambda out: out.write(data), checksums_of(data), basis=basis).is_new


def stored(store: S3Store, key: str) -> tuple[str | None, bool]:
    """The SHA-256 of what is there, and whether the service tells that by its checksum alone."""
    entry = store.head(key)
    assert entry
    expected = checksums_of(archive(NEW))
    return store.digest(key, deep=True), expected.agrees(entry.checksum)


@pytest.fixture(scope="module")
def expected() -> tuple[str, bool]:
    return checksums_of(archive(NEW)).sha256, True


def test_only_what_is_new_is_sent(s3: S3Service, expected: tuple[str, bool]) -> None:
    with counting(s3) as (store, count):
        send(store, "daemon-1.tgz", archive(OLD))
        before = count.size
        assert send(store, "daemon-2.tgz", archive(NEW), basis())
        assert count.size - before < len(archive(NEW)) / 50
        assert expected == stored(store, "daemon-2.tgz")
        assert ((), 0) == (store.list(JOINTS), store.discard_unfinished("", datetime.now(UTC) + timedelta(days=1)))


def test_who_may_not_delete_leaves_nothing_to_delete(s3: S3Service, expected: tuple[str, bool]) -> None:
    with counting(s3, may_delete=False) as (store, count):
        send(store, "daemon-1.tgz", archive(OLD))
        before = count.size
        assert send(store, "daemon-2.tgz", archive(NEW), basis())
        # The part that is all of one file is copied.
        assert 0 < count.size - before - len(archive(NEW)) + PART < len(archive(NEW)) / 50
        assert expected == stored(store, "daemon-2.tgz")
        assert () == store.list(JOINTS)


def test_nothing_is_joined_if_most_is_new(s3: S3Service) -> None:
    new = archive(NEW) + Random(3).randbytes(4 * PART)
    with counting(s3) as (store, count):
        send(store, "daemon-1.tgz", archive(OLD))
        before = count.size
        assert send(store, "daemon-2.tgz", new, basis())
        # The part that is all of one file takes one request.
        assert 0 < count.size - before - len(new) + PART < len(new) / 50
        assert checksums_of(new).sha256 == store.digest("daemon-2.tgz", deep=True)


@pytest.mark.parametrize("damage", ["gone", "another", "elsewhere"])
def test_what_is_not_there_as_it_was_is_sent(damage: str, s3: S3Service, expected: tuple[str, bool]) -> None:
    with counting(s3) as (store, count):
        known = basis()
        if damage == "another":
            send(store, "daemon-1.tgz", bytes(len(archive(OLD))))
        elif damage == "elsewhere":
            send(store, "daemon-1.tgz", archive(OLD))
            known = Basis(
                known.key, tuple(SharedRange(each.start, each.source + 1, each.size) for each in known.ranges)
            )
        before = count.size
        assert send(store, "daemon-2.tgz", archive(NEW), known)
        assert count.size - before > len(archive(NEW))
        assert expected == stored(store, "daemon-2.tgz")
        assert () == store.list(JOINTS)


def test_joints_that_a_killed_run_left_are_deleted_once_nobody_works_on_them(s3: S3Service) -> None:
    store = S3Store.connect(f"s3://{s3.bucket()}", environment=s3.environment)
    now = datetime.now(UTC)
    keys = [f"{JOINTS}{(now - timedelta(hours=age)):%Y%m%dT%H%M%SZ}-0f-0" for age in (1, 30)]
    for key in [*keys, f"{JOINTS}somebody-elses"]:
        store.create(key, b"joint", "text/plain")
    assert 1 == store.discard_unfinished("daemon/", now - timedelta(days=1))
    assert {keys[0], f"{JOINTS}somebody-elses"} == {entry.key for entry in store.list(JOINTS)}
