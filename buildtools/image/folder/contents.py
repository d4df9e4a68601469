"""Digests of files, cached between runs as long as the file's status is unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType

from buildtools.files import write_atomically

_CHUNK = 1 << 20

# With paths of a hundred characters these are 45 MB. In a project with more files, the least recently used are read
# again.
_MOST_ENTRIES = 200_000

# A file that was changed less than this before it was read may change again with the same time stamps, because these
# are only as precise as the file system's clock, at worst (FAT) two seconds. Git calls this racy and does the same:
# https://git-scm.com/docs/racy-git
_RACY_NANOSECONDS = 2_000_000_000


class Contents:
    """SHA-256 digests of files, with a cache in ``directory``; a context manager that saves it at the end.

    A cached digest is valid while size, inode, modification time and change time are the same. A user cannot set the
    change time, so content that was replaced with the same size and modification time is noticed.

    Two processes may use one cache: each replaces it as a whole, and a lost entry only costs reading a file again. A
    damaged cache counts as empty. It is loaded on first use; it may be shared between threads. Unless ``learn``,
    nothing is saved. ``clock`` returns nanoseconds since the epoch.
    """

    def __init__(
        self,
        directory: Path,
        *,
        learn: bool = True,
        most_entries: int = _MOST_ENTRIES,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._file = directory / "contents"
        self._learn = learn
        self._most_entries = most_entries
        self._clock = clock
        self._recent: dict[str, str] = {}
        self._is_new = False

    def __enter__(self) -> Contents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.save()

    @cached_property
    def _entries(self) -> dict[str, str]:
        return _load(self._file)

    def digest(self, path: str, status: os.stat_result) -> str:
        """The hexadecimal digest of the file at ``path`` whose status was just read.

        :raises OSError: if it cannot be read.
        """
        entry = self._entries.get(path)
        stamp = _stamp(status)
        if entry and entry.startswith(stamp):
            self._recent[path] = entry
            return entry[len(stamp) :]
        start = self._clock()
        digest, status = _read(path)
        if status.st_ctime_ns < start - _RACY_NANOSECONDS:
            self._entries[path] = self._recent[path] = f"{_stamp(status)}{digest}"
            self._is_new = True
        return digest

    def save(self) -> None:
        """Write new entries atomically; above the limit, the least recently used are dropped."""
        if not self._is_new or not self._learn:
            return
        entries = {path: entry for path, entry in self._entries.items() if path not in self._recent} | self._recent
        self._is_new = False
        for path in list(entries)[: max(0, len(entries) - self._most_entries)]:
            del entries[path]
        text = json.dumps(entries, separators=(",", ":")).encode()
        # Without the cache, files are only read again.
        with suppress(OSError):
            write_atomically(self._file, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def _load(file: Path) -> dict[str, str]:
    try:
        seal, _, text = file.read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() == seal:
            entries: dict[str, str] = json.loads(text)
            return entries
    except (OSError, ValueError):
        pass
    return {}


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} "


def _read(path: str) -> tuple[str, os.stat_result]:
    # The status before reading: a change during it gets a later change time than the cached one.
    sha = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123  one of thousands in a row
        status = os.fstat(stream.fileno())
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest(), status
