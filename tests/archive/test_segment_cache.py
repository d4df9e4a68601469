from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildtools.archive.segment_cache import SegmentCache, name_of

ORIGIN = (b"codec", b"content")


class Compressor:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return b"compressed"


@pytest.fixture
def compress() -> Compressor:
    return Compressor()


def entry(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_compressed_once_is_not_compressed_again(tmp_path: Path, compress: Compressor) -> None:
    results = [SegmentCache(tmp_path / "segments").segment(name_of(ORIGIN), compress) for _ in range(3)]
    assert ([b"compressed"] * 3, 1) == (results, compress.count)


@pytest.mark.parametrize("origin", [(b"other codec", b"content"), (b"codec", b"other"), (b"code", b"ccontent")])
def test_another_origin_is_another_entry(origin: tuple[bytes, bytes], tmp_path: Path, compress: Compressor) -> None:
    cache = SegmentCache(tmp_path)
    cache.segment(name_of(ORIGIN), compress)
    cache.segment(name_of(origin), compress)
    assert 2 == compress.count


@pytest.mark.parametrize(
    "damaged",
    [lambda data: b"", lambda data: data[:-1], lambda data: data[:40] + b"X" + data[41:], lambda data: b"X" + data[1:]],
    ids=["empty", "cut short", "in its bytes", "in its seal"],
)
def test_an_entry_that_was_damaged_is_made_again(damaged, tmp_path: Path, compress: Compressor) -> None:  # type: ignore[no-untyped-def]  # of bytes to bytes
    cache = SegmentCache(tmp_path)
    cache.segment(name_of(ORIGIN), compress)
    whole = entry(tmp_path).read_bytes()
    entry(tmp_path).write_bytes(damaged(whole))
    assert b"compressed" == cache.segment(name_of(ORIGIN), compress)
    assert (2, whole) == (compress.count, entry(tmp_path).read_bytes())


def test_an_entry_under_the_name_of_another_is_not_believed(tmp_path: Path, compress: Compressor) -> None:
    cache = SegmentCache(tmp_path)
    cache.segment(name_of((b"codec", b"other")), lambda: b"other")
    other = entry(tmp_path)
    cache.segment(name_of(ORIGIN), compress)
    (mine,) = set(tmp_path.iterdir()) - {other}
    other.replace(mine)
    assert b"compressed" == cache.segment(name_of(ORIGIN), compress)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, compress: Compressor) -> None:
    cache = SegmentCache(tmp_path)
    for number in range(4):
        cache.segment(name_of((b"codec", bytes([number]))), lambda: bytes(100))
        for path in tmp_path.iterdir():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    cache.segment(name_of((b"codec", bytes([0]))), compress)
    cache.trim(limit=300)
    cache.segment(name_of((b"codec", bytes([0]))), compress)
    cache.segment(name_of((b"codec", bytes([3]))), compress)
    assert (2, 0) == (len(list(tmp_path.iterdir())), compress.count)


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, compress: Compressor) -> None:
    (tmp_path / "file").touch()
    cache = SegmentCache(tmp_path / "file" / "segments")
    assert b"compressed" == cache.segment(name_of(ORIGIN), compress)
    cache.trim()


def test_runs_side_by_side_share_it(tmp_path: Path) -> None:
    def run(_: int) -> list[bytes]:
        cache = SegmentCache(tmp_path)
        contents = [bytes([number]) * 1000 for number in range(50)]
        return [cache.segment(name_of((b"codec", content)), lambda content=content: content) for content in contents]  # type: ignore[misc]  # bound at once

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert [results[0]] * 4 == results
    assert 50 == len(list(tmp_path.iterdir()))
