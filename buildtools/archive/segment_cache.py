"""A cache of compressed segments, so that a new version of a distribution is compressed only where it is new.

An entry is a file whose name is a digest of everything that determines its bytes: codec and content. It begins with a
seal, the CRC-32 of that name and of the bytes; an entry that is damaged, or has another name, is ignored. A digest as
seal would prove no more, since whoever can write here can write one too. Entries are written atomically, so concurrent
runs can share them; losing one only costs time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from buildtools.files import delete_partial_files, write_atomically

# About ten versions of a daemon of which half changes each time.
LIMIT = 1 << 30
_SEAL = 4


class SegmentCache:
    """A folder of compressed segments; the least recently used ones are deleted first. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def segment(self, name: str, compress: Callable[[], bytes]) -> bytes:
        """The result of ``compress``, which ``name`` stands for, computed now or in an earlier run."""
        data = self.read(name)
        if data is None:
            data = compress()
            self.write(name, data)
        return data

    def read(self, name: str) -> bytes | None:
        """An entry's bytes; None if there is none, or it is damaged."""
        path = self._folder / name
        with suppress(OSError):
            with path.open("rb", buffering=0) as entry:
                seal, data = entry.read(_SEAL), entry.readall()
            if seal == _seal(name, data):
                os.utime(path)
                return data
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write an entry, if the folder can be written."""
        with suppress(OSError):
            write_atomically(self._folder / name, _seal(name, data) + data)

    def trim(self, limit: int = LIMIT) -> None:
        """Delete the least recently used entries until all together have at most ``limit`` bytes."""
        with suppress(OSError):
            delete_partial_files(self._folder)
            entries = [(entry.stat(), entry.path) for entry in os.scandir(self._folder)]
            size = sum(status.st_size for status, _ in entries)
            for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
                if size <= limit:
                    break
                # Another run may have deleted it.
                Path(path).unlink(missing_ok=True)
                size -= status.st_size


def name_of(origin: Sequence[bytes]) -> str:
    """The name of what follows from ``origin`` alone."""
    return sha256(b"".join(sha256(part).digest() for part in origin)).hexdigest()


def _seal(name: str, data: bytes) -> bytes:
    import deflate

    crc: int = deflate.crc32(data, deflate.crc32(name.encode()))
    return crc.to_bytes(_SEAL)
