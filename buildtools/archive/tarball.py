"""Deterministic tar: the same tree gives the same bytes, whoever packs it, wherever and whenever.

The format is POSIX.1-2001 (pax) with plain ustar headers wherever they suffice, so extended headers appear only for
names of more than 100 bytes, names outside ASCII, and files of 8 GiB and more.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from buildtools import BuildToolsError, Refused
from buildtools.archive.checksums import Sink
from buildtools.archive.deflation import BLOCK

_CHUNK = BLOCK
# The content of a file of at least this size gets its own segments.
_LARGE = 128 << 10


def pack(
    source: Path,
    root_name: str,
    epoch: int,
    out: Sink,
    progress: Callable[[int, int], object] = lambda *_: None,
    set_apart: Callable[[], object] = lambda: None,
) -> None:
    """Write the tree below ``source`` as a tar whose single root folder is ``root_name``.

    Entries are written folder by folder, sorted by the bytes of their names. The owner is 0:0 without names, every time
    is ``epoch``, and modes are 755 (folders, and files their owner may execute) or 644. Symbolic links are kept as they
    are, hard links become files. ``progress`` is called about every megabyte with the bytes packed and the total, both
    approximate. ``set_apart`` is called before and after the content of each large file, because headers change between
    versions.

    :raises BuildToolsError: if an entry is neither file, folder nor link, cannot be read, or changes while it is read.
    :raises OSError: if ``out`` cannot be written.
    """
    entries = list(_entries(source, root_name))
    meter = _Meter(out, sum(_size(path) for path, _ in entries), progress)
    for path, name in entries:
        try:
            _write_entry(path, name, epoch, meter, set_apart)
        except OSError as error:
            if error is meter.failure:
                raise
            raise BuildToolsError(f"{path} cannot be packed ({error.strerror})", "correct it and run again") from None
    meter.tell()
    # A tar ends with two empty blocks and is padded to a full record, as in every tar program.
    end = 2 * tarfile.BLOCKSIZE
    out.write(bytes(end + -(meter.size + end) % tarfile.RECORDSIZE))


class _Meter:
    """A sink that passes on to ``out``, and reports now and then how much of ``total`` bytes that was.

    ``failure`` is the error of ``out``, if it failed: the entry that was being packed is not at fault then.
    """

    def __init__(self, out: Sink, total: int, progress: Callable[[int, int], object]) -> None:
        self.size = 0
        self.failure: OSError | None = None
        self._out = out
        self._total = total
        self._progress = progress
        self._told_size = 0

    def write(self, data: bytes, /) -> None:
        """Write all of ``data``."""
        try:
            self._out.write(data)
        except OSError as error:
            self.failure = error
            raise
        self.size += len(data)
        if self.size - self._told_size >= _CHUNK:
            self.tell()

    def tell(self) -> None:
        """Report the bytes so far."""
        self._told_size = self.size
        self._progress(min(self.size, self._total), self._total)


def _size(path: Path) -> int:
    """The packed size of an entry; 0 if it cannot be read, which is an error when it is packed."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    content = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return tarfile.BLOCKSIZE + content + -content % tarfile.BLOCKSIZE


def _entries(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    yield folder, name
    try:
        with os.scandir(folder) as entries:
            children = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise BuildToolsError(f"{folder} cannot be read ({error.strerror})", "correct it and run again") from None
    for child in children:
        if child.is_dir(follow_symlinks=False):
            yield from _entries(Path(child.path), f"{name}/{child.name}")
        else:
            yield Path(child.path), f"{name}/{child.name}"


def _write_entry(path: Path, name: str, epoch: int, out: Sink, set_apart: Callable[[], object]) -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime = epoch
    status = path.lstat() if "/" in name else path.stat()
    if stat.S_ISREG(status.st_mode):
        _write_file(path, entry, out, set_apart)
        return
    if stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o755
    elif stat.S_ISLNK(status.st_mode):
        entry.type = tarfile.SYMTYPE
        entry.mode = 0o777
        entry.linkname = str(path.readlink())
    else:
        raise BuildToolsError(
            f"{path} is neither a file, a folder nor a symbolic link", "remove it from the distribution's folder"
        )
    _write_header(entry, out)


def _write_header(entry: tarfile.TarInfo, out: Sink) -> None:
    out.write(entry.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape"))


def _write_file(path: Path, entry: tarfile.TarInfo, out: Sink, set_apart: Callable[[], object]) -> None:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        entry.size = left = status.st_size
        entry.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        _write_header(entry, out)
        is_large = left >= _LARGE
        if is_large:
            set_apart()
        while left and (chunk := stream.read(min(_CHUNK, left))):
            out.write(chunk)
            left -= len(chunk)
        after = os.fstat(stream.fileno())
        if left or (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise BuildToolsError(f"{path} changed while it was packed", "let the build finish before packing")
    if is_large:
        set_apart()
    out.write(bytes(-entry.size % tarfile.BLOCKSIZE))


def root_folder(archive: Path) -> str:
    """The name of the single root folder in a finished ``.tgz``; reads all of it, unpacks nothing.

    :raises Refused: if it is not a gzipped tar, is truncated, or has anything beside one root folder.
    """
    with archive.open("rb") as stream:
        entries = read_entries(stream, archive.name)
    roots = {name.partition("/")[0] for name in entries}
    root = next(iter(roots), "")
    is_folder = any(name != root or kind == tarfile.DIRTYPE for name, (kind, *_) in entries.items())
    if len(roots) != 1 or not is_folder or root in ("", ".."):
        names = ", ".join(sorted(roots)) or "nothing"
        raise Refused(
            f"{archive.name} must hold exactly one root folder, but holds {names}", "put everything below NAME-VERSION/"
        )
    return root


def read_entries(stream: IO[bytes], name: str) -> dict[str, tuple[object, ...]]:
    """The entries of a ``.tgz`` by path: kind, mode, link target and the SHA-256 of the content.

    ``name`` is the archive's name in messages. Times and owners are left out.

    :raises Refused: if it is not a gzipped tar, or is truncated.
    """
    entries: dict[str, tuple[object, ...]] = {}
    stream.seek(0)
    try:
        with gzip.open(stream) as content_stream, tarfile.open(fileobj=content_stream, mode="r:") as archive:
            for entry in archive:
                path = os.path.normpath(entry.name)
                content = archive.extractfile(entry) if entry.isreg() else None
                digest = hashlib.file_digest(content, "sha256").hexdigest() if content else ""  # type: ignore[arg-type]  # a reader, though of its own class
                if path != ".":
                    entries[path] = entry.type, entry.mode, entry.linkname, digest
            # A tar ends before its gzip stream does, and only the end of the stream proves all of it.
            while content_stream.read(_CHUNK):
                continue
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise Refused(f"{name} cannot be read as a gzipped tar ({error})", "build it again") from None
    return entries
