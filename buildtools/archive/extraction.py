"""A ``.tgz`` of a release, checked and unpacked while it comes out of the store.

What is unpacked is not proven to be the release's before its last byte has come. So nothing in it may reach outside of
the folder that it is unpacked into, whatever it is:

* The path of an entry is relative and has no ``..``. All are below one root folder, which is left out.
* Files, folders, symbolic links and hard links are unpacked. A device, a pipe, and a file that would run as its owner
  or group (setuid, setgid) are refused.
* Symbolic links are made last, so that nothing is written through one. The target of each is relative; its ``..`` stand
  at its beginning, and lead no higher than the root folder. A path that begins like that stays inside whatever other
  links it goes through, since the same is true of each of them.
* A hard link leads to a file that came before in the same archive.
* Owners are left out. Only the owner may write.

``tarfile`` has a filter for such things since Python 3.11.4, and Debian 12 has 3.11.2. It asks the file system where
links lead, which are not made yet here, and it drops the bits of setuid in silence.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import takewhile
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import IO, Any, cast

from buildtools import Drifted, Refused
from buildtools.archive.store import ArtifactStore

_CHUNK = 1 << 20
# What tarfile reads beyond what it is asked for, it copies twice.
_BLOCK = 1 << 16
# What others may be given: to read, and to run or look into.
_FILE_MODE = _FOLDER_MODE = 0o755


def unpack(store: ArtifactStore, key: str, sha256: str, folder: Path, progress: Callable[[int], object]) -> None:
    """Unpack an archive of the store into a new ``folder``; ``progress`` is told the size of each block that comes.

    :raises Drifted: the store does not have it, or has other bytes; what was unpacked is to be thrown away.
    :raises Refused: it is not a gzipped tar with one root folder, or holds what is not unpacked.
    :raises OSError: the folder cannot be written.
    """
    reader, writer = os.pipe()
    download: Future[str] = Future()
    # Nobody waits for the thread of an interrupted run: the store may have fallen silent.
    Thread(target=_download, args=(download, store, key, writer, progress), name="download", daemon=True).start()
    refusal = ""
    with open(reader, "rb", buffering=0) as stream:  # noqa: PTH123  a descriptor
        try:
            _Extraction(folder).run(stream)
        except _NotUnpacked as error:
            refusal = str(error)
        # Whether the archive was wrong from the beginning or is damaged, only all of it tells.
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
    """Give ``result`` the SHA-256 of an object, whose bytes go into a pipe; an empty one where there is none."""
    try:
        with open(descriptor, "wb", buffering=0) as pipe:
            out = _HashingPipe(pipe, progress)
            sha256 = out.sha256.hexdigest() if store.download(key, out) else ""
        result.set_result(sha256)
    except BaseException as error:  # noqa: BLE001  it is raised where the result is waited for
        result.set_exception(error)


class _HashingPipe:
    def __init__(self, pipe: io.RawIOBase, progress: Callable[[int], object]) -> None:
        with suppress(OSError):
            # Some systems do not let a user have as much.
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _CHUNK)
        self.sha256 = hashlib.sha256()
        self._pipe = pipe
        self._progress = progress

    def write(self, data: bytes, /) -> None:
        self.sha256.update(data)
        self._progress(len(data))
        _write_all(self._pipe, data)


def _write_all(out: io.RawIOBase, data: bytes) -> None:
    # A file with a buffer would complain a second time of a disk that is full, when it is closed.
    rest = memoryview(data)
    while rest:
        rest = rest[out.write(rest) :]


class _NotUnpacked(Exception):
    """An entry that is not unpacked, and why."""


class _Extraction:
    """Unpacks one tar into a folder that nobody else writes to.

    Paths are relative to the root folder of the archive, without it; that itself is the empty path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = ""
        self._folders = {PurePosixPath()}
        self._files: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}

    def run(self, stream: IO[bytes]) -> None:
        from isal import igzip, isal_zlib

        unreadable: Any = (tarfile.TarError, gzip.BadGzipFile, isal_zlib.error, EOFError)
        # What tarfile raises where a header makes no sense.
        unreadable += (ValueError, RecursionError)
        self._folder.mkdir()
        self._folder.chmod(_FOLDER_MODE)
        try:
            content = igzip.open(stream, "rb")  # type: ignore[no-untyped-call]  # its stubs leave this module out
            with tarfile.open(fileobj=content, mode="r|", bufsize=_BLOCK) as archive:
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
        """Make what a path is below. An earlier entry of the same path goes away, as with every tar program."""
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
        content = cast(IO[bytes], archive.extractfile(entry))
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0) as out:  # noqa: PTH123  a descriptor
            while block := content.read(_CHUNK):
                _write_all(out, block)
            os.fchmod(out.fileno(), entry.mode & _FILE_MODE | stat.S_IRUSR | stat.S_IWUSR)
            os.utime(out.fileno(), (entry.mtime, entry.mtime))


def _safe_target(entry: tarfile.TarInfo, path: PurePosixPath) -> str:
    """Where a symbolic link leads, if that is inside."""
    target = PurePosixPath(entry.linkname)
    ups = len(list(takewhile(lambda part: part == "..", target.parts)))
    is_inside = ups < len(path.parts) and ".." not in target.parts[ups:] and not target.is_absolute()
    if not is_inside or not entry.linkname or "\0" in entry.linkname:
        raise _NotUnpacked(f"{entry.name} is a link to {entry.linkname}, which may lead out of the folder")
    return entry.linkname
