from __future__ import annotations

import secrets
from pathlib import Path
from random import Random

import pytest

from buildtools.archive import distribution, segment_map
from buildtools.archive.distribution import Archive, Distribution
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.archive.segment_cache import SegmentCache
from buildtools.archive.segment_map import Segment, shared_ranges
from buildtools.archive.store import Content, SharedRange
from tests.conftest import S3Service

EPOCH = 1_700_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "lib").mkdir(parents=True)
    for number, size in enumerate((3_000_000, 100, 1_000_000)):
        (folder / "lib" / f"{number}.jar").write_bytes(Random(number).randbytes(size))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> SegmentCache:
    return SegmentCache(tmp_path / "segments")


@pytest.fixture
def store(s3: S3Service) -> S3Store:
    return S3Store.connect(f"s3://{s3.bucket()}/{secrets.token_hex(8)}", environment=s3.environment)


def pack(tree: Path, version: str, cache: SegmentCache) -> Archive:
    daemon = Distribution("daemon", tree, f"{version}.tgz", f"daemon-{version}", is_archive=False)
    return distribution.save(daemon, EPOCH, tree.parent, cache=cache)


def test_what_two_versions_share_is_the_same_bytes_of_both(tree: Path, cache: SegmentCache, store: S3Store) -> None:
    assert segment_map.last_map(store, "daemon") is None
    for version in ("1.4.1", "1.4.2"):
        old, last = pack(tree, version, cache), segment_map.last_map(store, "daemon")
        segment_map.remember(store, "daemon", last, f"daemon/daemon-{version}.tgz", old.segments)
    new = pack(tree, "1.10.0-rc.1", SegmentCache(tree.parent / "another agent's"))
    basis = segment_map.basis_of(segment_map.last_map(store, "daemon"), new.segments)
    assert basis
    assert "daemon/daemon-1.4.2.tgz" == basis.key
    theirs, ours = ((tree.parent / archive.file_name).read_bytes() for archive in (old, new))
    for each in basis.ranges:
        assert theirs[each.source : each.source + each.size] == ours[each.start : each.start + each.size]
    assert (2, True) == (len(basis.ranges), sum(each.size for each in basis.ranges) > 0.99 * len(ours))


@pytest.mark.parametrize(
    "rows",
    ["1", "[1]", '[["a", 1]]', '[["a", "1", 1]]', '[[["a"], 1, 1]]'],
    ids=["number", "row", "short", "text", "list"],
)
def test_a_map_that_is_none_is_no_basis(rows: str) -> None:
    document = f'{{"schema": 1, "archive": "daemon.tgz", "segments": {rows}}}'
    assert segment_map.basis_of(Content(document.encode(), "etag"), (Segment("a", 0, 1),)) is None


def test_segments_that_follow_each_other_in_both_are_one_range() -> None:
    ours = [Segment("a", 10, 5), Segment("b", 15, 5), Segment("new", 20, 1), Segment("d", 21, 5), Segment("c", 26, 5)]
    theirs = [Segment("a", 0, 5), Segment("b", 5, 5), Segment("c", 10, 5), Segment("d", 15, 5)]
    assert (SharedRange(10, 0, 10), SharedRange(21, 15, 5), SharedRange(26, 10, 5)) == shared_ranges(ours, theirs)
