"""Buffers for layers on their way: in memory as long as they are small, and in files without a name above that."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from buildtools import BuildToolsError
from buildtools.memory import keep_freed_blocks

# Small layers and their compressed forms never touch the disk; anything above this goes to files in TMPDIR. Even a
# small agent can spare this much memory.
_MOST_IN_MEMORY = 32 * 1024 * 1024


class Spools:
    """Makes spools with files in ``folder``, which share ``memory`` bytes of memory. Thread-safe.

    A context manager that closes the files. They have no name, so a killed run leaves none.
    """

    def __init__(self, folder: Path, memory: int = _MOST_IN_MEMORY) -> None:
        keep_freed_blocks()
        self._folder = folder
        self._left = memory
        self._lock = threading.Lock()
        self._spools: list[Spool] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for spool in self._spools:
            spool.close()

    def make(self, most: int) -> Spool:
        """A spool for up to ``most`` bytes."""
        with self._lock:
            in_memory = most <= self._left
            self._left -= most if in_memory else 0
            spool = Spool(self._folder, most, in_memory, self._give_back)
            self._spools.append(spool)
            return spool

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


class Spool:
    """A buffer of up to ``most`` bytes, written once and read any number of times: in memory, or in a file.

    ``size`` is the number of bytes, once they are written.
    """

    def __init__(self, folder: Path, most: int, in_memory: bool, give_back: Callable[[int], None]) -> None:
        self.size = 0
        self._most = most
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._body = b"" if in_memory else None
        self._give_back = give_back

    @contextmanager
    def writer(self) -> Iterator[IO[bytes]]:
        """A context with the stream to write to.

        :raises BuildToolsError: if they do not fit on the disk.
        """
        if self._body is None:
            self.close()
            with _room(self._folder):
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  read until it is closed
                yield self._file
                self._file.flush()
                self.size = self._file.tell()
        else:
            with io.BytesIO() as memory:
                yield memory
                self._body = memory.getvalue()
                self.size = len(self._body)

    def open(self) -> IO[bytes]:
        """A stream of the bytes, from the beginning."""
        if self._body is not None:
            return io.BytesIO(self._body)
        assert self._file is not None
        return io.BufferedReader(_PositionedReader(self._file))

    def delete(self) -> None:
        """Free the memory or the file."""
        if self._body is None:
            self.close()
        else:
            self._body = b""
            self._give_back(self._most)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file:
            self._file.close()


class _PositionedReader(io.RawIOBase):
    """Reads a file at a position of its own. Others read the same file, which has no name to open it again by."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._file.fileno()).st_size}
        self._position = starts[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        block = os.pread(self._file.fileno(), len(buffer), self._position)
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BuildToolsError(
            f"layers cannot be written to {folder} ({error.strerror or error})",
            "free some space there, or set TMPDIR to another folder",
        ) from None
