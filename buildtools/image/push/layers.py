"""Layers: exported from an engine, and compressed in the same way everywhere."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from buildtools import BuildToolsError
from buildtools.image.engine.buildkit.content import ContentStore, NoContent
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.lookup import StoredImage
from buildtools.image.registry.manifest import (
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Damaged,
    Descriptor,
    Manifest,
    check_image,
    diff_ids_of,
    read_object,
)

# Input blocks and level determine the output bytes, so both are fixed. ISA-L up to level 2 gives the same bytes on
# every x86-64 processor with AVX2; level 3 does not.
_LEVEL = 2
_BLOCK = 1024 * 1024
_GZIP = 31
_GZIP_MAGIC = b"\x1f\x8b"
# The largest manifest in a registry, https://github.com/opencontainers/distribution-spec/blob/main/spec.md.
_LARGEST_DOCUMENT = 4 * 1024 * 1024
# Small layers and their compressed forms never touch the disk; anything above this goes to files in TMPDIR. Even a
# small agent can spare this much memory.
_MOST_IN_MEMORY = 32 * 1024 * 1024


class Spools:
    """Makes spools with files in ``folder``, which share ``memory`` bytes of memory. Thread-safe.

    A context manager that closes the files. They have no name, so a killed run leaves none.
    """

    def __init__(self, folder: Path, memory: int = _MOST_IN_MEMORY) -> None:
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


def export(
    engine: Engine,
    image_ids: Sequence[str],
    diff_ids: Collection[str],
    spools: Spools,
    take_layer: Callable[[str, Spool], None],
    cache: Cache,
    present: Collection[str] = (),
) -> dict[str, bytes]:
    """Export images from the engine in one pass, shared layers once; returns the configurations by image id.

    Each of the layers ``diff_ids`` is passed to ``take_layer`` as soon as it is complete. Compressed layers that are
    ``present`` elsewhere, or are known to ``cache`` as another layer, are skipped.

    The formats: https://github.com/moby/moby/blob/master/image/spec/v1.2.md (``ID/layer.tar``, ``ID.json``) and, from
    engine 25 on, the OCI image layout (``blobs/sha256/DIGEST``).

    :raises EngineError: if the engine stopped in the middle.
    :raises BuildToolsError: if the layers do not fit on the disk.
    """
    reader = _Reader(image_ids, diff_ids, spools, take_layer, cache, present)
    with engine.exported(image_ids) as answer:
        stream: Any = _Forward(answer)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is not None:
                        reader.take(Path(member.name), member.size, content)
        except tarfile.TarError as error:
            raise EngineError(
                f"the engine at {engine.address} stopped while it exported images ({error})",
                "see its log",
            ) from None
    return reader.configs()


def read_content(content: ContentStore, image_id: str) -> StoredImage | None:
    """An image in a content store; None if the store cannot be read, or has an index or other platforms there."""
    try:
        manifest = Manifest.received(DOCKER_MANIFEST, content.document(image_id))
        config = content.document(manifest.config.digest)
        check_image(manifest, config)
    except (NoContent, Damaged):
        return None
    return StoredImage(manifest, config)


def read_layers(
    content: ContentStore,
    images: Iterable[StoredImage],
    take_blob: Callable[[str, Descriptor, Spool], None],
    diff_ids: Collection[str],
    spools: Spools,
    take_layer: Callable[[str, Spool], None],
    cache: Cache,
    present: Collection[str] = (),
) -> None:
    """The same as :func:`export` out of a content store, which reads nothing but these layers.

    A layer with Zstandard compression, which is not read here, is passed to ``take_blob`` as it is stored. One that the
    store lacks is not passed on.

    :raises BuildToolsError: if the layers do not fit on the disk.
    """
    reader = _Reader((), diff_ids, spools, take_layer, cache, present)
    for image in images:
        for diff_id, layer in zip(diff_ids_of(image.config), image.manifest.layers, strict=True):
            if diff_id in diff_ids and diff_id not in reader.layers:
                with suppress(NoContent):
                    stream = content.open(layer.digest, layer.size)
                    if not layer.media_type.endswith("zstd"):
                        reader.take(Path(layer.digest.removeprefix("sha256:")), layer.size, stream)
                        continue
                    blob = spools.make(layer.size)
                    if _copy(stream, blob) == layer.digest:
                        reader.layers.add(diff_id)
                        take_blob(diff_id, layer, blob)


class _Forward:
    """A forward-only stream that tarfile can seek in. Its own streaming mode takes six times the processor time."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        while self._position < position:
            if not self.read(min(_BLOCK, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")

    def read(self, size: int) -> bytes:
        block = self._raw.read(size)
        self._position += len(block)
        return block


class _Reader:
    """Finds configurations and layers in an engine's export.

    A classic store exports unpacked layers as they are, and an image's id is its configuration's digest. A content
    store exports manifests, too, and the id is the digest of one; and layers as they are stored: those that were built
    for us uncompressed, those of base images compressed.
    """

    def __init__(
        self,
        image_ids: Collection[str],
        diff_ids: Collection[str],
        spools: Spools,
        take_layer: Callable[[str, Spool], None],
        cache: Cache,
        present: Collection[str],
    ) -> None:
        self._image_ids = image_ids
        self._diff_ids = diff_ids
        self._spools = spools
        self._take_layer = take_layer
        self._cache = cache
        self._present = present
        self.layers: set[str] = set()
        self._documents: dict[str, bytes] = {}

    def take(self, path: Path, size: int, content: IO[bytes]) -> None:
        """Process one member of the archive."""
        digest = f"sha256:{path.stem}"
        if path.name == "layer.tar" or digest in self._diff_ids:
            self._take(content, size)
            return
        begin = content.read(len(_GZIP_MAGIC))
        if begin.startswith(b"{") and size <= _LARGEST_DOCUMENT:
            self._documents[digest] = begin + content.read()
        elif begin == _GZIP_MAGIC and digest not in self._present:
            diff_id = self._cache.diff_id(digest)
            if not diff_id or diff_id in self._diff_ids:
                # The uncompressed size is unknown.
                self._cache.remember_diff_id(digest, self._take(_Unpacked(begin, content), sys.maxsize))

    def configs(self) -> dict[str, bytes]:
        """The configurations of the images, by id."""
        configs = {}
        for image_id in self._image_ids:
            document = self._documents.get(image_id, b"")
            config = ((read_object(document) or {}).get("config") or {}).get("digest")
            content = self._documents.get(config, b"") if isinstance(config, str) else document
            if content:
                configs[image_id] = content
        return configs

    def _take(self, content: _Readable, most: int) -> str:
        spool = self._spools.make(most)
        diff_id = _copy(content, spool)
        if diff_id in self._diff_ids and diff_id not in self.layers:
            self.layers.add(diff_id)
            self._take_layer(diff_id, spool)
        else:
            spool.delete()
        return diff_id


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Unpacked:
    """The bytes in a gzip stream; anything else ends as soon as that is noticed."""

    def __init__(self, begin: bytes, packed: IO[bytes]) -> None:
        from isal import isal_zlib

        self._kind: Any = isal_zlib
        self._packed = packed
        self._input = begin
        self._decoder = isal_zlib.decompressobj(_GZIP)

    def read(self, size: int, /) -> bytes:
        """The next bytes, about ``size`` at most."""
        data = b""
        while not data:
            self._input = self._input or self._decoder.unconsumed_tail or self._packed.read(size)
            if not self._input:
                return b""
            if self._decoder.eof:
                # Another member may follow, RFC 1952, 2.2.
                self._decoder = self._kind.decompressobj(_GZIP)
            try:
                data = self._decoder.decompress(self._input, size)
            except self._kind.error:
                return b""
            self._input = self._decoder.unused_data
        return data


def _copy(content: _Readable, spool: Spool) -> str:
    sha = hashlib.sha256()
    with spool.writer() as file:
        while block := content.read(_BLOCK):
            sha.update(block)
            file.write(block)
    return f"sha256:{sha.hexdigest()}"


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BuildToolsError(
            f"layers cannot be written to {folder} ({error.strerror or error})",
            "free some space there, or set TMPDIR to another folder",
        ) from None


def compress(
    source: Spool, target: Spool, variant: int = 0, progress: Callable[[int], object] = lambda _: None
) -> Descriptor:
    """Write ``source`` to ``target`` as gzip: the same bytes for the same content, on machines of one kind.

    ``progress`` is called with the number of bytes of the source that were processed.

    At this level ISA-L's bytes are the same on all x86-64 machines with AVX2. On older ones, and on aarch64, a layer
    may get another digest. That only costs a transfer, because images are found by their fingerprint. An archive is
    compared by its bytes, so it uses a slower codec (``archive.gzip``).

    Each ``variant`` has its own digest: its number goes into gzip's field for the time (RFC 1952, 2.3.1).
    """
    from isal import isal_zlib

    compressor: Any = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP)
    sha = hashlib.sha256()
    size = 0
    with source.open() as raw, target.writer() as file:
        while True:
            block = raw.read(_BLOCK)
            progress(raw.tell())
            data = compressor.compress(block) if block else compressor.flush()
            if not size and data:
                data = data[:4] + variant.to_bytes(4, "little") + data[8:]
            sha.update(data)
            size += len(data)
            file.write(data)
            if not block:
                return Descriptor(DOCKER_LAYER, f"sha256:{sha.hexdigest()}", size)
