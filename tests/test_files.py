from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from buildtools.files import delete_partial_files, replacement, write_atomically

# Writes a part of a file, says so, and waits to be killed.
HALF_A_FILE = """
import sys
from pathlib import Path
from buildtools.files import replacement

with replacement(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_writer(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HALF_A_FILE, path], stdin=-1, stdout=-1) as writer:
        assert writer.stdout is not None
        assert b"half\n" == writer.stdout.readline()
        writer.kill()


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with replacement(file) as stream:
        stream.write(b"new")
        assert "old" == file.read_text()
    assert "new" == file.read_text()
    assert ["file"] == names(tmp_path)


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def fail() -> None:
        with replacement(file) as stream:
            stream.write(b"new")
            raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        fail()
    assert "old" == file.read_text()
    assert ["file"] == names(tmp_path)


def test_what_a_killed_writer_left_is_taken_over(tmp_path: Path) -> None:
    killed_writer(tmp_path / "file")
    assert [".file.partial"] == names(tmp_path)
    write_atomically(tmp_path / "file", b"new")
    assert ["file"] == names(tmp_path)
    assert b"new" == (tmp_path / "file").read_bytes()


def test_partial_files_are_deleted_but_not_one_that_is_being_written(tmp_path: Path) -> None:
    killed_writer(tmp_path / "abandoned")
    with replacement(tmp_path / "file") as stream:
        delete_partial_files(tmp_path)
        assert [".file.partial"] == names(tmp_path)
        stream.write(b"new")
    assert ["file"] == names(tmp_path)


def test_of_two_writers_of_one_file_each_writes_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with replacement(file) as stream:
        other = threading.Thread(target=write_atomically, args=(file, b"second"))
        other.start()
        stream.write(b"first")
    other.join()
    assert b"second" == file.read_bytes()
    assert ["file"] == names(tmp_path)
