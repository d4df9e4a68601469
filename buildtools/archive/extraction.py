"""Verify and unpack a release's ``.tgz`` while it is downloaded from the store.

Only the last byte proves that the content is the release's. So nothing in it may reach outside the folder that it is
unpacked into, whatever it is:

* The path of an entry is relative and has no ``..``. All are below one root folder, which is stripped.
* Files, folders, symbolic links and hard links are unpacked. Devices, pipes, and setuid or setgid files are refused.
* Symbolic links are created last, so that nothing is written through one. The target of each is relative; any ``..``
  are at its beginning, and lead no higher than the root folder. Such a path stays inside whatever other links it goes
  through, because the same is true of each of them.
* A hard link refers to an earlier file in the same archive.
* Owners are ignored. Only the owner may write.

``tarfile`` has a filter for this since Python 3.11.4, and Debian 12 has 3.11.2. That filter asks the file system where
links lead, but here they do not exist yet; and it drops setuid bits silently.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import select
import stat
import tarfile
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from itertools import takewhile
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import IO, Any, cast

from buildtools import Drifted, Refused
from buildtools.archive.store import ArtifactStore

_CHUNK = 1 << 20
# tarfile copies twice whatever it reads beyond a request.
_BLOCK = 1 << 16
_POLL_MILLISECONDS = 100
# The most that others may get: to read, and to execute or enter.
_FILE_MODE = _FOLDER_MODE = 0o755


def unpack(store: ArtifactStore, key: str, sha256: str, folder: Path, progress: Callable[[int], object]) -> None:
    """Unpack an archive from the store into a new ``folder``; ``progress`` is called with the size of each block.

    :raises Drifted: if the store does not have it, or has other bytes; the caller must delete what was unpacked.
    :raises Refused: if it is not a gzipped tar with one root folder, or has an entry that is not unpacked.
    :raises OSError: if the folder cannot be written.
    """
    reader, writer = os.pipe()
    download: Future[str] = Future()
    # An interrupted run does not wait for the thread, because the store may have stopped answering.
    Thread(target=_download, args=(download, store, key, writer, progress), name="download", daemon=True).start()
    refusal = ""
    with open(reader, "rb", buffering=0) as stream:  # noqa: PTH123  a descriptor
        try:
            _Extraction(folder).run(stream)
        except _NotUnpacked as error:
            refusal = str(error)
        # Only the whole archive shows whether it was invalid from the start or is damaged.
        while stream.read(_CHUNK):
            pass
    stored_sha256 = download.result()
    location, remedy = store.location(key), "restore it from a backup, or fetch another version"
    if not stored_sha256:
        raise Drifted(f"{location} does not exist", remedy)
    if stored_sha256 != sha256:
        difference = f"sha256 {stored_sha256[:12]} instead of {sha256[:12]}"
        raise Drifted(f"{location} has other content than was released ({difference})", remedy)
    if refusal:
        raise Refused(
            f"{location} is not unpacked ({refusal})", "release a version whose archive is built without that"
        )


def _download(
    result: Future[str], store: ArtifactStore, key: str, descriptor: int, progress: Callable[[int], object]
) -> None:
    """Set ``result`` to the SHA-256 of an object that is copied into a pipe; empty if it does not exist."""
    try:
        with open(descriptor, "wb", buffering=0) as pipe:
            out = _HashingPipe(pipe, progress)
            sha256 = out.sha256.hexdigest() if store.download(key, out) else ""
        result.set_result(sha256)
    except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
        result.set_exception(error)


class _HashingPipe:
    def __init__(self, pipe: io.RawIOBase, progress: Callable[[int], object]) -> None:
        with suppress(OSError):
            # Some systems do not permit a buffer of this size.
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _CHUNK)
        self.sha256 = hashlib.sha256()
        self._pipe = pipe
        self._progress = progress

    def write(self, data: bytes, /) -> None:
        self.sha256.update(data)
        self._progress(len(data))
        _write_all(self._pipe, data)


def _write_all(out: io.RawIOBase, data: bytes) -> None:
    # A buffered file would report a full disk a second time when it is closed.
    rest = memoryview(data)
    while rest:
        rest = rest[out.write(rest) :]


class _Abandonable(io.RawIOBase):
    """What arrives in a pipe, until it is closed: a thread that waits for more then sees the end of it.

    Without this, whoever joins that thread would wait as long as a store does not answer.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = cast(io.FileIO, pipe)
        self._arrival = select.poll()
        self._arrival.register(pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        while not self.closed:
            if self._arrival.poll(_POLL_MILLISECONDS):
                return self._pipe.readinto(buffer)
        return 0


class _NotUnpacked(Exception):
    """An entry is not unpacked; the message says why."""


class _Extraction:
    """Unpacks one tar into a folder that nobody else writes to.

    Paths are relative to the root folder of the archive, which itself is the empty path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = ""
        self._folders = {PurePosixPath()}
        self._files: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}

    def run(self, stream: IO[bytes]) -> None:
        from isal import igzip_threaded, isal_zlib

        unreadable: Any = (tarfile.TarError, gzip.BadGzipFile, isal_zlib.error, EOFError)
        # tarfile raises these for nonsensical headers.
        unreadable += (ValueError, OverflowError, RecursionError)
        self._folder.mkdir()
        self._folder.chmod(_FOLDER_MODE)
        try:
            with (
                # It inflates in a thread of its own, while this one writes files.
                igzip_threaded.open(content := _Abandonable(stream), "rb") as tar,  # type: ignore[no-untyped-call]  # it has no stubs
                closing(content),
                tarfile.open(fileobj=tar, mode="r|", bufsize=_BLOCK) as archive,
            ):
                for entry in archive:
                    self._take(archive, entry)
        except unreadable as error:
            raise _NotUnpacked(f"it cannot be read as a gzipped tar: {error}") from None
        if not self._root:
            raise _NotUnpacked("it is empty")
        for path, target in self._links.items():
            (self._folder / path).symlink_to(target)

    def _take(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path = self._path(entry.name, entry.name)
        if entry.isdir():
            self._make_folder(path)
            (self._folder / path).chmod(entry.mode & _FOLDER_MODE | stat.S_IRWXU)
            return
        if not path.name:
            raise _NotUnpacked(f"{entry.name} is not a folder, and everything must be below one root folder")
        self._make_room(path)
        target = self._folder / path
        if entry.isreg():
            self._write_file(target, entry, archive)
            self._files.add(path)
        elif entry.islnk():
            source = self._path(entry.linkname, entry.name)
            if source not in self._files:
                raise _NotUnpacked(f"{entry.name} is a hard link to {entry.linkname}, which is not a file before it")
            os.link(self._folder / source, target, follow_symlinks=False)
            self._files.add(path)
        elif entry.issym():
            self._links[path] = _safe_target(entry, path)
        else:
            raise _NotUnpacked(f"{entry.name} is a device or a pipe")

    def _path(self, name: str, entry_name: str) -> PurePosixPath:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise _NotUnpacked(f"{entry_name} leads out of the folder")
        if not path.parts:
            return path
        root, *rest = path.parts
        self._root = self._root or root
        if root != self._root:
            raise _NotUnpacked(f"{entry_name} is beside the root folder {self._root}")
        return PurePosixPath(*rest)

    def _make_folder(self, path: PurePosixPath) -> None:
        if path in self._folders:
            return
        if path in self._files or path in self._links:
            raise _NotUnpacked(f"{path} is a folder and something else")
        self._make_folder(path.parent)
        (self._folder / path).mkdir()
        (self._folder / path).chmod(_FOLDER_MODE)
        self._folders.add(path)

    def _make_room(self, path: PurePosixPath) -> None:
        """Create the parent folders of a path.

        As in every tar program, an earlier entry with the same path is replaced.
        """
        if path in self._folders:
            raise _NotUnpacked(f"{path} is a folder and something else")
        self._make_folder(path.parent)
        self._links.pop(path, None)
        if path in self._files:
            (self._folder / path).unlink()
            self._files.remove(path)

    def _write_file(self, target: Path, entry: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        if entry.mode & (stat.S_ISUID | stat.S_ISGID):
            raise _NotUnpacked(f"{entry.name} would run as its owner or group (setuid, setgid)")
        # Of a stream, only what is below the buffer can seek, forward.
        content = cast(Any, archive.extractfile(entry)).raw
        pieces: Any = entry.sparse or [(0, entry.size)]
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0) as out:  # noqa: PTH123  a descriptor
            # A few bytes of an archive can name a hole that no disk has room for, so holes are left as holes.
            for start, size in pieces:
                content.seek(start)
                out.seek(start)
                while size and (block := content.read(min(size, _CHUNK))):
                    _write_all(out, block)
                    size -= len(block)
                if size:
                    raise _NotUnpacked(f"{entry.name} ends too early")
            out.truncate(entry.size)
            os.fchmod(out.fileno(), entry.mode & _FILE_MODE | stat.S_IRUSR | stat.S_IWUSR)
            os.utime(out.fileno(), (entry.mtime, entry.mtime))


def _safe_target(entry: tarfile.TarInfo, path: PurePosixPath) -> str:
    """The target of a symbolic link, if it is inside."""
    target = PurePosixPath(entry.linkname)
    ups = len(list(takewhile(lambda part: part == "..", target.parts)))
    is_inside = ups < len(path.parts) and ".." not in target.parts[ups:] and not target.is_absolute()
    if not is_inside or not entry.linkname or "\0" in entry.linkname:
        raise _NotUnpacked(f"{entry.name} is a link to {entry.linkname}, which may lead out of the folder")
    return entry.linkname
