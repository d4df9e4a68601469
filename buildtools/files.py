"""Files written so that nobody ever sees half of one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_SUFFIX = ".partial"


@contextmanager
def replacement(path: Path) -> Iterator[IO[bytes]]:
    """A file to write; it takes the place of the one at ``path`` when the block ends, and is deleted if that raises.

    Until then it lies beside it as ``.NAME.partial`` and is locked, so whoever else writes the same file waits. What a
    killed run left is not locked: the next one that writes the file takes it over.

    :raises OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}{_SUFFIX}")
    with _lock(partial) as stream:
        try:
            stream.truncate()
            yield stream
            stream.flush()
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def delete_partial_files(folder: Path) -> None:
    """Delete what killed runs left in a folder: the partial files that nobody is writing."""
    for partial in folder.glob(f".*{_SUFFIX}"):
        with suppress(OSError), partial.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


@contextmanager
def _lock(partial: Path) -> Iterator[IO[bytes]]:
    while True:
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as stream:
            # Some network file systems have no locks; there two writers at once would damage each other's file, which
            # the one that comes second notices by its checksum.
            with suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            # Who had the lock before has given the file its name, or has deleted it.
            if _is_at(partial, stream):
                yield stream
                return


def _is_at(path: Path, stream: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at ``path``, whose folder is made if need be; a reader sees the old or the new, never a part.

    :raises OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as stream:
        stream.write(data)


def write_private(file: Path, text: str) -> None:
    """Write ``text`` to ``file``, mode 0600, replacing what was there in one step."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:  # noqa: PTH123  a descriptor
        stream.write(text)
    new.replace(file)
