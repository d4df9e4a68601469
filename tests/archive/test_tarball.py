from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildtools import BuildToolsError, Refused
from buildtools.archive import tarball

EPOCH = 1_700_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A distribution's folder with something of everything that is allowed."""
    root = tmp_path / "daemon"
    (root / "bin").mkdir(parents=True)
    (root / "lib").mkdir()
    (root / "empty").mkdir(mode=0o700)
    (root / "bin/daemon").write_text("#!/bin/sh\n")
    (root / "bin/daemon").chmod(0o700)
    (root / "lib/a.jar").write_bytes(bytes(700_000))
    (root / "lib/a-b.jar").write_text("jar")
    os.link(root / "lib/a.jar", root / "lib/same.jar")
    (root / "lib/latest.jar").symlink_to("a.jar")
    (root / "lib" / ("long-" * 30)).write_text("long")
    (root / "lib/naïve ☃.txt").write_text("not ASCII")
    (root / "empty.txt").touch()
    return root


def packed(source: Path, root_name: str = "daemon-1.0", epoch: int = EPOCH) -> bytes:
    out = io.BytesIO()
    tarball.pack(source, root_name, epoch, out)
    return out.getvalue()


def unpacked(tar: bytes, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", folder], input=tar, check=True, stderr=subprocess.STDOUT, stdout=subprocess.PIPE)
    return folder


def test_tar_unpacks_the_same_tree(tree: Path, tmp_path: Path) -> None:
    made = unpacked(packed(tree), tmp_path / "unpacked")
    assert [made / "daemon-1.0"] == list(made.iterdir())
    difference = subprocess.run(
        ["diff", "--recursive", "--no-dereference", tree, made / "daemon-1.0"], capture_output=True, text=True
    )
    assert (0, "") == (difference.returncode, difference.stdout)
    assert Path("a.jar") == (made / "daemon-1.0/lib/latest.jar").readlink()
    assert 0o755 == (made / "daemon-1.0/bin/daemon").stat().st_mode & 0o777
    assert 0o644 == (made / "daemon-1.0/lib/a.jar").stat().st_mode & 0o777
    assert EPOCH == (made / "daemon-1.0/lib/a.jar").stat().st_mtime


def test_tar_lists_sorted_entries_that_belong_to_nobody(tree: Path) -> None:
    listing = subprocess.run(
        ["tar", "-tv", "--utc", "--numeric-owner", "--quoting-style=literal"],
        input=packed(tree),
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert (
        f"""\
drwxr-xr-x 0/0               0 2023-11-14 22:13 daemon-1.0/
drwxr-xr-x 0/0               0 2023-11-14 22:13 daemon-1.0/bin/
-rwxr-xr-x 0/0              10 2023-11-14 22:13 daemon-1.0/bin/daemon
drwxr-xr-x 0/0               0 2023-11-14 22:13 daemon-1.0/empty/
-rw-r--r-- 0/0               0 2023-11-14 22:13 daemon-1.0/empty.txt
drwxr-xr-x 0/0               0 2023-11-14 22:13 daemon-1.0/lib/
-rw-r--r-- 0/0               3 2023-11-14 22:13 daemon-1.0/lib/a-b.jar
-rw-r--r-- 0/0          700000 2023-11-14 22:13 daemon-1.0/lib/a.jar
lrwxrwxrwx 0/0               0 2023-11-14 22:13 daemon-1.0/lib/latest.jar -> a.jar
-rw-r--r-- 0/0               4 2023-11-14 22:13 daemon-1.0/lib/{"long-" * 30}
-rw-r--r-- 0/0               9 2023-11-14 22:13 daemon-1.0/lib/naïve ☃.txt
-rw-r--r-- 0/0          700000 2023-11-14 22:13 daemon-1.0/lib/same.jar
"""
        == listing
    )


def test_the_owner_has_no_name(tree: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(tree))) as tar:
        assert {("", "", 0, 0)} == {(entry.uname, entry.gname, entry.uid, entry.gid) for entry in tar}


def test_a_copy_made_later_by_another_umask_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    before = packed(tree)
    copy = tmp_path / "copy"
    for name in sorted((path.relative_to(tree) for path in tree.rglob("*")), reverse=True):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (tree / name).is_symlink():
            (copy / name).symlink_to((tree / name).readlink())
        elif (tree / name).is_dir():
            (copy / name).mkdir(exist_ok=True)
        else:
            shutil.copyfile(tree / name, copy / name)
    (copy / "lib/a.jar").chmod(0o606)
    (copy / "bin/daemon").chmod(0o711)
    assert hashlib.sha256(before).hexdigest() == hashlib.sha256(packed(copy)).hexdigest()


def test_extended_headers_appear_only_where_a_name_needs_one(tree: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(tree))) as tar:
        extended = {entry.name.removeprefix("daemon-1.0/lib/"): set(entry.pax_headers) for entry in tar}
    assert {"long-" * 30: {"path"}, "naïve ☃.txt": {"path"}} == {name: keys for name, keys in extended.items() if keys}


def test_names_that_are_not_text_are_kept_byte_for_byte(tmp_path: Path) -> None:
    root = tmp_path / "daemon"
    root.mkdir()
    (root / os.fsdecode(b"caf\xe9")).write_text("latin")
    made = unpacked(packed(root), tmp_path / "unpacked")
    assert [b"caf\xe9"] == [os.fsencode(found.name) for found in (made / "daemon-1.0").iterdir()]


def test_the_whole_is_a_number_of_records(tree: Path) -> None:
    assert 0 == len(packed(tree)) % 10240


def test_a_socket_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control.sock"))
        with pytest.raises(BuildToolsError, match=r"control\.sock is neither a file, a folder nor a symbolic link"):
            packed(tmp_path)


class Meddler(io.BytesIO):
    """A sink that does something to the tree once, when the file's header goes by."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        super().__init__()
        self.meddle = meddle

    def write(self, data: object, /) -> int:
        assert isinstance(data, bytes)
        if data.startswith(b"daemon-1.0/big"):
            self.meddle()
        return super().write(data)


@pytest.mark.parametrize("size", [10, 3 << 20], ids=["shrinks", "grows"])
def test_a_file_that_changes_its_size_while_it_is_read_is_an_error(tmp_path: Path, size: int) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(2 << 20))
    with pytest.raises(BuildToolsError, match="big changed while it was packed"):
        tarball.pack(tmp_path, "daemon-1.0", EPOCH, Meddler(lambda: os.truncate(big, size)))


def test_a_full_disk_is_not_blamed_on_the_entry_that_is_being_packed(tree: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left on device"):
        tarball.pack(tree, "daemon-1.0", EPOCH, full)


def test_a_file_that_is_rewritten_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(2 << 20))
    os.utime(big, (EPOCH, EPOCH))
    with pytest.raises(BuildToolsError, match="big changed while it was packed"):
        tarball.pack(tmp_path, "daemon-1.0", EPOCH, Meddler(lambda: big.write_bytes(bytes(2 << 20))))


def finished(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(entry)
    return path


@pytest.mark.parametrize(
    "names",
    [("daemon-1.0/", "daemon-1.0/bin/", "daemon-1.0/bin/daemon"), ("daemon-1.0/lib/a.jar",), ("./", "./daemon-1.0/a")],
)
def test_the_root_folder_of_a_finished_archive_is_found(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert "daemon-1.0" == tarball.root_folder(finished(tmp_path / "a.tgz", *names))


@pytest.mark.parametrize(
    ("names", "held"),
    [
        (("a/x", "b/x"), "holds a, b"),
        (("daemon-1.0/x", "README"), "holds README, daemon-1.0"),
        (("README",), "holds README"),
        (("../x",), r"holds \.\."),
        ((), "holds nothing"),
    ],
)
def test_anything_but_one_root_folder_is_refused(tmp_path: Path, names: tuple[str, ...], held: str) -> None:
    with pytest.raises(Refused, match=f"exactly one root folder, but {held}"):
        tarball.root_folder(finished(tmp_path / "a.tgz", *names))


def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    whole = finished(tmp_path / "a.tgz", *(f"daemon-1.0/{n}" for n in range(2000))).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refused, match=r"cut\.tgz cannot be read as a gzipped tar"):
        tarball.root_folder(tmp_path / "cut.tgz")


def test_an_archive_that_is_not_gzipped_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.tgz").write_bytes(packed(tmp_path))
    with pytest.raises(Refused, match=r"plain\.tgz cannot be read as a gzipped tar"):
        tarball.root_folder(tmp_path / "plain.tgz")


def test_progress_is_told_within_a_large_file(tree: Path) -> None:
    (tree / "large").write_bytes(bytes(5 << 20))
    heard: list[tuple[int, int]] = []
    tarball.pack(tree, "daemon-1.0", EPOCH, io.BytesIO(), lambda size, total: heard.append((size, total)))
    assert len(heard) >= 6
    assert sorted(heard) == heard
    assert heard[-1][0] == heard[-1][1]
