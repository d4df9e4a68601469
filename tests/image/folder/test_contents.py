"""Digests of files, remembered between runs."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildtools.image.folder.contents import Contents


def much_later() -> int:
    """A clock by which every file of this test has been as it is for long."""
    return time.time_ns() + 3600 * 10**9


def digest(path: Path, contents: Contents) -> str:
    return contents.digest(str(path), path.lstat())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def replace_unnoticed(path: Path, data: bytes) -> None:
    """Other content under the same size and modification time, written when the clock of the file system moved on."""
    before = path.stat()
    assert before.st_size == len(data)
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert before.st_mtime_ns == path.stat().st_mtime_ns


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def test_a_digest_is_remembered_by_the_next_run(tmp_path: Path, file: Path) -> None:
    with Contents(tmp_path / "cache", clock=much_later) as contents:
        assert sha256(b"old") == digest(file, contents)
    status = file.lstat()
    file.unlink()  # so that the answer cannot come from reading it
    with Contents(tmp_path / "cache") as contents:
        assert sha256(b"old") == contents.digest(str(file), status)


def test_new_content_of_the_same_size_and_time_is_noticed(tmp_path: Path, file: Path) -> None:
    with Contents(tmp_path / "cache", clock=much_later) as contents:
        digest(file, contents)
    replace_unnoticed(file, b"new")
    with Contents(tmp_path / "cache", clock=much_later) as contents:
        assert sha256(b"new") == digest(file, contents)


def test_another_file_moved_into_the_place_is_noticed(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"new")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    with Contents(tmp_path / "cache", clock=much_later) as contents:
        digest(file, contents)
        other.replace(file)
        assert sha256(b"new") == digest(file, contents)


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, file: Path) -> None:
    with Contents(tmp_path / "cache") as contents:
        digest(file, contents)
    status = file.lstat()
    file.unlink()
    with Contents(tmp_path / "cache") as contents, pytest.raises(FileNotFoundError):
        contents.digest(str(file), status)


@pytest.mark.parametrize("damage", [b"", b"\x00", b"{}", b"0" * 64 + b"\n{}", b"[1]"])
def test_a_damaged_cache_is_an_empty_one(tmp_path: Path, file: Path, damage: bytes) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "contents").write_bytes(damage)
    with Contents(tmp_path / "cache", clock=much_later) as contents:
        assert sha256(b"old") == digest(file, contents)


def test_a_cache_in_which_one_digit_changed_is_not_believed(tmp_path: Path, file: Path) -> None:
    with Contents(tmp_path / "cache", clock=much_later) as contents:
        digest(file, contents)
    stored = tmp_path / "cache" / "contents"
    good = stored.read_bytes()
    stored.write_bytes(good.replace(sha256(b"old")[-4:].encode(), b"0000"))
    assert good != stored.read_bytes()
    with Contents(tmp_path / "cache") as contents:
        assert sha256(b"old") == digest(file, contents)


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, file: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way of the folder")
    with Contents(tmp_path / "cache", clock=much_later) as contents:
        assert sha256(b"old") == digest(file, contents)


def test_what_was_not_used_longest_goes_first(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(b"old")
    for used in (files[:2], files[:1], files[2:]):
        with Contents(tmp_path / "cache", most_entries=2, clock=much_later) as contents:
            for file in used:
                digest(file, contents)
    kept = (tmp_path / "cache" / "contents").read_text()
    assert [False, True, True] == [f'"{file}"' in kept for file in (files[0], files[1], files[2])]


def test_many_writers_leave_a_whole_cache(tmp_path: Path) -> None:
    files = [tmp_path / f"file{number}" for number in range(20)]
    for file in files:
        file.write_bytes(file.name.encode())

    def run(number: int) -> None:
        with Contents(tmp_path / "cache", clock=much_later) as contents:
            for file in files[number:] + files[:number]:
                digest(file, contents)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(20)))
    assert ["contents"] == [path.name for path in (tmp_path / "cache").iterdir()]
    stamps = [file.lstat() for file in files]
    for file in files:
        file.unlink()
    with Contents(tmp_path / "cache") as contents:
        assert [sha256(f.name.encode()) for f in files] == [
            contents.digest(str(f), s) for f, s in zip(files, stamps, strict=True)
        ]
