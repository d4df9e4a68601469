"""Atomic file writes: a reader never sees half a file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_SUFFIX = ".partial"


@contextmanager
def replacement(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A file to write. When the block ends it replaces the one at ``path``; if the block raises, it is deleted.

    It gets what the umask leaves of ``mode``.

    Until then it is ``.NAME.partial`` in the same folder, and locked, so another writer of the same file waits. A
    killed run leaves it unlocked, and the next writer takes it over.

    :raises OSError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}{_SUFFIX}")
    with _lock(partial, mode) as stream:
        try:
            stream.truncate()
            yield stream
            stream.flush()
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def delete_partial_files(folder: Path) -> None:
    """Delete the partial files that killed runs left in a folder; those still being written stay."""
    for partial in folder.glob(f".*{_SUFFIX}"):
        with suppress(OSError), partial.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


@contextmanager
def _lock(partial: Path, mode: int) -> Iterator[IO[bytes]]:
    while True:
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, mode), "r+b") as stream:
            # Some network file systems have no locks. Two writers at once would damage each other's file there; the
            # second one notices by its checksum.
            with suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            # The previous holder of the lock has renamed or deleted this file.
            if is_at(partial, stream.fileno()):
                yield stream
                return


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file or folder is the one that is now at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at ``path``, creating its folder if needed. A reader sees the old content or the new.

    :raises OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as stream:
        stream.write(data)


def write_private(file: Path, text: str) -> None:
    """Write ``text`` to ``file`` with mode 0600, replacing any previous file atomically."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:  # noqa: PTH123  a descriptor
        stream.write(text)
    new.replace(file)
