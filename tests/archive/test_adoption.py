from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from buildtools import Conflict
from buildtools.archive import distribution
from buildtools.archive.adoption import adopt
from buildtools.archive.checksums import checksums_of
from buildtools.archive.distribution import Archive, Distribution
from buildtools.archive.object_store.s3_store import S3Store
from tests.conftest import S3Service

KEY = "daemon/daemon-1.0.tgz"


@pytest.fixture
def store(s3: S3Service) -> S3Store:
    return S3Store.connect(f"s3://{s3.bucket()}", environment=s3.environment)


def build(folder: Path, files: dict[str, str], root_name: str = "daemon-1.0") -> Archive:
    tree = folder / "tree"
    tree.mkdir(parents=True)
    for name, text in files.items():
        (tree / name).write_text(text)
    return distribution.save(Distribution("daemon", tree, "daemon-1.0.tgz", root_name, is_archive=False), 0, folder)


def stored(store: S3Store, folder: Path, archive: Archive) -> bytes:
    content = (folder / archive.file_name).read_bytes()
    store.upload(KEY, lambda out: out.write(content), archive.checksums)
    return content


def test_the_stores_archive_takes_the_place_of_ours_and_what_differs_is_named(store: S3Store, tmp_path: Path) -> None:
    first = build(tmp_path / "a", {"same": "x", "stamp": "1", "theirs": ""})
    content = stored(store, tmp_path / "a", first)
    ours = build(tmp_path / "b", {"same": "x", "stamp": "2", "ours": ""})
    adoption = adopt(store, KEY, ours, tmp_path / "b/daemon-1.0.tgz")
    assert first == adoption.archive
    assert (
        "daemon-1.0/ours (only in this build)",
        "daemon-1.0/stamp",
        "daemon-1.0/theirs (not in this build)",
    ) == adoption.differences
    assert content == (tmp_path / "b/daemon-1.0.tgz").read_bytes()
    assert {"tree", "daemon-1.0.tgz"} == {path.name for path in (tmp_path / "b").iterdir()}


def test_an_archive_of_another_version_is_not_adopted(store: S3Store, tmp_path: Path) -> None:
    stored(store, tmp_path / "a", build(tmp_path / "a", {"x": "1"}, root_name="daemon-2.0"))
    ours = build(tmp_path / "b", {"x": "2"})
    with pytest.raises(Conflict, match=r"not an archive of this version \(it holds daemon-2\.0\)"):
        adopt(store, KEY, ours, tmp_path / "b/daemon-1.0.tgz")
    assert ours.checksums == checksums_of((tmp_path / "b/daemon-1.0.tgz").read_bytes())


def flipped(content: bytes, position: int) -> bytes:
    return bytes(byte ^ (index == position % len(content)) for index, byte in enumerate(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:-8],
        lambda content: flipped(content, 501),
        # The checksum at the end: all entries can be read before it comes.
        lambda content: flipped(content, -8),
        lambda content: content + b"more",
    ],
    ids=["cut short", "empty", "without its end", "a byte changed", "another checksum", "more behind it"],
)
def test_a_damaged_archive_is_not_adopted(store: S3Store, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    build(tmp_path / "a", {str(n): str(n) for n in range(500)})
    store.create(KEY, damage((tmp_path / "a/daemon-1.0.tgz").read_bytes()), "application/gzip")
    ours = build(tmp_path / "b", {"x": "2"})
    with pytest.raises(Conflict, match="is damaged, or is not an archive of this commit"):
        adopt(store, KEY, ours, tmp_path / "b/daemon-1.0.tgz")
    assert ours.checksums == checksums_of((tmp_path / "b/daemon-1.0.tgz").read_bytes())
