"""Archives that are unpacked, and what in them is not."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import secrets
import subprocess
import tarfile
from pathlib import Path
from random import Random

import pytest

from buildtools import BuildToolsError, Drifted, Refused
from buildtools.archive.extraction import unpack
from buildtools.archive.object_store.s3_store import S3Store
from tests.conftest import S3Service

FILE, FOLDER, SYMLINK, LINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
Entry = tuple[tarfile.TarInfo, bytes]


@pytest.fixture(scope="module")
def store(s3: S3Service) -> S3Store:
    return S3Store.connect(f"s3://{s3.bucket()}/widgets", environment=s3.environment)


def entry(name: str, kind: bytes = FILE, target: str = "", mode: int = 0o644, text: bytes = b"") -> Entry:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode, member.size, member.mtime = kind, target, mode, len(text), 1_700_000_000
    return member, text


def tgz(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=form) as out:
        for member, text in entries:
            out.addfile(member, io.BytesIO(text))
    return buffer.getvalue()


def unpacked(store: S3Store, folder: Path, content: bytes, sha256: str = "") -> Path:
    key = f"{secrets.token_hex(8)}.tgz"
    assert store.create(key, content, "application/gzip")
    unpack(store, key, sha256 or hashlib.sha256(content).hexdigest(), folder, lambda _: None)
    return folder


def listing(folder: Path) -> dict[str, tuple[str, int, int, bytes]]:
    """What is below a folder: kind and target, mode, links, and content or time of change."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        kind = f"link to {path.readlink()}" if path.is_symlink() else "folder" if path.is_dir() else "file"
        content = path.read_bytes() + str(status.st_mtime).encode() if kind == "file" else b""
        found[str(path.relative_to(folder))] = kind, status.st_mode & 0o7777, status.st_nlink, content
    return found


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_hole_in_a_file_takes_no_room(store: S3Store, tmp_path: Path, form: str) -> None:
    tree, archive = tmp_path / "daemon-1.0", tmp_path / "daemon.tgz"
    tree.mkdir()
    with (tree / "data").open("wb") as out:
        for start, content in ((0, b"head"), (1 << 40, b"middle"), (1 << 41, b"x" * 3_000_000)):
            out.seek(start)
            out.write(content)
        out.truncate(1 << 42)
    subprocess.run(["tar", f"--format={form}", "-C", tmp_path, "-Sczf", archive, tree.name], check=True)
    data = unpacked(store, tmp_path / "actual", archive.read_bytes()) / "data"
    assert ((1 << 42), True) == (data.stat().st_size, data.stat().st_blocks * 512 < 4_000_000)
    with data.open("rb") as file:
        for start, content in ((0, b"head"), (1 << 40, b"middle"), ((1 << 41) + 2_999_996, b"xxxx")):
            file.seek(start)
            assert content.ljust(8, b"\0") == file.read(8)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_tree_comes_out_as_gnu_tar_unpacks_it(store: S3Store, tmp_path: Path, form: str) -> None:
    tree = tmp_path / "daemon-1.0"
    (tree / "lib" / "empty").mkdir(parents=True)
    (tree / "lib" / ("long" * 24)).write_bytes(Random(1).randbytes(3_000_000))
    (tree / "lib" / "ein Süßes.txt").write_text("text")
    (tree / "run").symlink_to("lib/empty")
    (tree / "lib" / "up").symlink_to("../lib/empty")
    os.link(tree / "lib" / ("long" * 24), tree / "hard")
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "private").write_text("for the owner")
    (tree / "private").chmod(0o600)
    file, expected = tmp_path / "daemon.tgz", tmp_path / "expected"
    subprocess.run(["tar", f"--format={form}", "-C", tmp_path, "-czf", file, tree.name], check=True)
    expected.mkdir()
    subprocess.run(["tar", "-C", expected, "--strip-components=1", "-xzf", file], check=True)
    assert listing(expected) == listing(unpacked(store, tmp_path / "actual", file.read_bytes()))


def test_a_gzip_of_several_members_and_an_archive_with_dots_are_read(store: S3Store, tmp_path: Path) -> None:
    content = gzip.decompress(
        tgz(entry("./d", FOLDER, mode=0o755), entry("./d/./a", text=b"1"), entry("d//b", text=b"2"))
    )
    members = b"".join(gzip.compress(content[start : start + 1000]) for start in range(0, len(content), 1000))
    assert {"a", "b"} == listing(unpacked(store, tmp_path / "actual", members)).keys()


def test_nobody_but_the_owner_may_write_and_bits_of_folders_are_dropped(store: S3Store, tmp_path: Path) -> None:
    content = tgz(entry("d", FOLDER, mode=0o7777), entry("d/s", FOLDER, mode=0o2570), entry("d/f", mode=0o1666))
    folder = unpacked(store, tmp_path / "actual", content)
    assert [0o755, 0o750, 0o644] == [path.stat().st_mode & 0o7777 for path in (folder, folder / "s", folder / "f")]


def test_rights_do_not_depend_on_who_fetches(store: S3Store, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = unpacked(store, tmp_path / "actual", tgz(entry("d/lib/a")))
    finally:
        os.umask(before)
    assert [0o755, 0o755, 0o644] == [
        path.stat().st_mode & 0o7777 for path in (folder, folder / "lib", folder / "lib/a")
    ]


def test_the_later_of_two_entries_of_one_path_counts(store: S3Store, tmp_path: Path) -> None:
    entries = [entry("d/a", text=b"1"), entry("d/b", LINK, "d/a"), entry("d/a", text=b"2"), entry("d/c", SYMLINK, "a")]
    folder = unpacked(store, tmp_path / "actual", tgz(*entries, entry("d/c", text=b"3")))
    assert {"a": b"2", "b": b"1", "c": b"3"} == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("/etc/x")], "/etc/x leads out of the folder"),
        ([entry("d/../../x")], "leads out of the folder"),
        ([entry("../d/x")], "leads out of the folder"),
        ([entry("d/a"), entry("e/a")], "e/a is beside the root folder d"),
        ([entry("d")], "d is not a folder, and everything must be below one root folder"),
        ([entry("d/a", SYMLINK, "/etc/passwd")], "d/a is a link to /etc/passwd, which may lead out of the folder"),
        ([entry("d/a", SYMLINK, "..")], "may lead out of the folder"),
        ([entry("d/a/b", SYMLINK, "../../d")], "may lead out of the folder"),
        ([entry("d/u/up", SYMLINK, ".."), entry("d/a", SYMLINK, "u/up/..")], "may lead out of the folder"),
        ([entry("d/a", SYMLINK, "")], "may lead out of the folder"),
        ([entry("d/a", SYMLINK, "b"), entry("d/a/x")], "a is a folder and something else"),
        ([entry("d/a", SYMLINK, "b"), entry("d/a", FOLDER)], "a is a folder and something else"),
        ([entry("d/a", FOLDER), entry("d/a", SYMLINK, "b")], "a is a folder and something else"),
        ([entry("d/a"), entry("d/a/b")], "a is a folder and something else"),
        ([entry("d/a", LINK, "/etc/passwd")], "d/a leads out of the folder"),
        ([entry("d/a", LINK, "d/b"), entry("d/b")], "d/a is a hard link to d/b, which is not a file before it"),
        ([entry("d/a", SYMLINK, "b"), entry("d/c", LINK, "d/a")], "which is not a file before it"),
        ([entry("d/a", LINK, "d/a")], "which is not a file before it"),
        ([entry("d/a", mode=0o4755)], "d/a would run as its owner or group (setuid, setgid)"),
        ([entry("d/a", mode=0o2755)], "d/a would run as its owner or group (setuid, setgid)"),
        ([entry("d/a", tarfile.CHRTYPE)], "d/a is a device or a pipe"),
        ([entry("d/a", tarfile.BLKTYPE)], "d/a is a device or a pipe"),
        ([entry("d/a", tarfile.FIFOTYPE)], "d/a is a device or a pipe"),
        ([entry(".", FOLDER)], "it is empty"),
        ([], "it is empty"),
    ],
)
def test_what_is_not_safe_is_not_unpacked(store: S3Store, tmp_path: Path, entries: list[Entry], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        unpacked(store, tmp_path / "out", tgz(*entries))
    assert caught.value.fact.endswith(f"{reason})")
    assert ["out"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    "fields",
    [
        {"mtime": "1e30"},
        {"mtime": "nan"},
        {"size": "99999999999"},
        {"GNU.sparse.map": "a,b", "GNU.sparse.size": "9"},
        {"GNU.sparse.map": "0,99999999999", "GNU.sparse.size": "9"},
    ],
)
def test_a_header_that_makes_no_sense_is_refused(store: S3Store, tmp_path: Path, fields: dict[str, str]) -> None:
    member, text = entry("d/a", text=b"text")
    member.pax_headers = fields
    with pytest.raises(Refused, match="is not unpacked"):
        unpacked(store, tmp_path / "out", tgz((member, text)))


NOT_ARCHIVES = {
    "nothing": b"",
    "a text": b"text",
    "cut short": tgz(entry("d/a"))[:-20],
    "a text in gzip": gzip.compress(b"text"),
    "a long text in gzip": gzip.compress(b"x" * 2000),
    "with a block of a type that there is not": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xff",
}


@pytest.mark.parametrize("content", NOT_ARCHIVES.values(), ids=NOT_ARCHIVES)
def test_what_is_not_an_archive_is_told_apart_from_damage(store: S3Store, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Refused, match="it cannot be read as a gzipped tar"):
        unpacked(store, tmp_path / "a", content)
    with pytest.raises(Drifted, match=r"has other content than was released \(sha256 .* instead of 000000000000\)"):
        unpacked(store, tmp_path / "b", content, "0" * 64)


def test_an_unsafe_archive_that_was_not_released_is_damage(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(Drifted, match="has other content than was released"):
        unpacked(store, tmp_path / "out", tgz(entry("/etc/x")), "0" * 64)


def test_an_archive_that_is_not_there_is_drift(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(Drifted, match=r"none\.tgz does not exist"):
        unpack(store, "none.tgz", "0" * 64, tmp_path / "out", lambda _: None)


def test_whoever_counts_the_bytes_can_stop_it(store: S3Store, tmp_path: Path) -> None:
    content = tgz(entry("d/a", text=os.urandom(4_000_000)))
    assert store.create("large.tgz", content, "application/gzip")

    def stop(size: int) -> None:
        raise BuildToolsError(f"stopped after {size} bytes")

    with pytest.raises(BuildToolsError, match="stopped after 1048576 bytes"):
        unpack(store, "large.tgz", hashlib.sha256(content).hexdigest(), tmp_path / "out", stop)


@pytest.mark.parametrize("size", [4_000_000, 1_001_000])
def test_a_file_that_cannot_be_written_in_full_is_an_error(store: S3Store, tmp_path: Path, size: int) -> None:
    content = tgz(entry("d/a", text=os.urandom(size)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    key = f"{secrets.token_hex(8)}.tgz"
    assert store.create(key, content, "application/gzip")
    # As on a disk that is full, the last block that fits is written in part.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_500, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            unpack(store, key, hashlib.sha256(content).hexdigest(), tmp_path / "out", lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_nothing_leads_out_whatever_an_archive_holds(store: S3Store, tmp_path: Path) -> None:
    random = Random(20_261_129)
    outcomes = {True: 0, False: 0}
    for number in range(150):
        folder = tmp_path / str(number) / "out"
        folder.parent.mkdir()
        entries = [random_entry(random) for _ in range(random.randint(1, 6))]
        try:
            unpacked(store, folder, tgz(*entries))
        except Refused:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
            # Links may lead in a circle, which Path.resolve does not take.
            places = [Path(os.path.realpath(path)) for path in folder.rglob("*")]
            assert [] == [place for place in places if not place.is_relative_to(folder)]
        assert ["out"] == [path.name for path in folder.parent.iterdir()]
    assert 20 < outcomes[True] < 130


def random_entry(random: Random) -> Entry:
    def path(most: int) -> str:
        return "/".join(random.choices(["a", "b", "c", "..", "."], [9, 9, 9, 1, 1], k=random.randint(1, most)))

    kind = random.choices([FILE, FOLDER, SYMLINK, LINK], [3, 2, 4, 1])[0]
    target = f"d/{path(2)}" if kind == LINK else random.choice(["", "", "../", "../../"]) + path(2)
    return entry(f"d/{path(3)}", kind, target if kind in (SYMLINK, LINK) else "")
