from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from buildtools.archive import distribution, segment_map
from buildtools.archive.distribution import Archive, Distribution
from buildtools.archive.segment_cache import SegmentCache
from buildtools.archive.segment_map import Segment, shared_ranges
from buildtools.archive.store import SharedRange

EPOCH = 1_700_000_000
FOLDER = "s3://bucket/widgets/daemon"


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


def pack(tree: Path, version: str, cache: SegmentCache) -> Archive:
    daemon = Distribution("daemon", tree, f"{version}.tgz", f"daemon-{version}", is_archive=False)
    return distribution.save(daemon, EPOCH, tree.parent, cache=cache)


def test_what_two_versions_share_is_the_same_bytes_of_both(tree: Path, cache: SegmentCache) -> None:
    old = pack(tree, "1.4.2", cache)
    new = pack(tree, "1.10.0-rc.1", cache)
    segment_map.remember_object(cache, FOLDER, "daemon/daemon-1.4.2.tgz", old.sha256)
    basis = segment_map.last_basis(cache, FOLDER, new.sha256)
    assert basis
    assert "daemon/daemon-1.4.2.tgz" == basis.key
    theirs, ours = ((tree.parent / archive.file_name).read_bytes() for archive in (old, new))
    for each in basis.ranges:
        assert theirs[each.source : each.source + each.size] == ours[each.start : each.start + each.size]
    assert (2, True) == (len(basis.ranges), sum(each.size for each in basis.ranges) > 0.99 * len(ours))


def test_nothing_is_shared_with_what_is_not_remembered(tree: Path, cache: SegmentCache, tmp_path: Path) -> None:
    archive = pack(tree, "1.4.2", cache)
    assert segment_map.last_basis(cache, FOLDER, archive.sha256) is None
    segment_map.remember_object(cache, FOLDER, "daemon/daemon-1.4.1.tgz", "0" * 64)
    assert segment_map.last_basis(cache, FOLDER, archive.sha256) is None
    assert segment_map.last_basis(SegmentCache(tmp_path / "other"), FOLDER, archive.sha256) is None


def test_segments_that_follow_each_other_in_both_are_one_range() -> None:
    ours = [Segment("a", 10, 5), Segment("b", 15, 5), Segment("new", 20, 1), Segment("d", 21, 5), Segment("c", 26, 5)]
    theirs = [Segment("a", 0, 5), Segment("b", 5, 5), Segment("c", 10, 5), Segment("d", 15, 5)]
    assert (SharedRange(10, 0, 10), SharedRange(21, 15, 5), SharedRange(26, 10, 5)) == shared_ranges(ours, theirs)
