"""Layers: exported from an engine, and compressed in the same way everywhere."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from buildtools.image.engine.buildkit.content import ContentStore, NoContent
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.push.spools import Spool, Spools
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


class LayerReader:
    """Takes the layers ``diff_ids`` out of what an engine gives, and configurations; each layer once.

    A layer is passed to ``take_layer`` as soon as it is complete. Compressed layers that are ``present`` elsewhere, or
    are known to ``cache`` as another layer, are skipped.

    A classic store exports unpacked layers as they are, and an image's id is its configuration's digest. A content
    store exports manifests, too, and the id is the digest of one; and layers as they are stored: those that were built
    for us uncompressed, those of base images compressed.
    """

    def __init__(
        self,
        diff_ids: Collection[str],
        spools: Spools,
        take_layer: Callable[[str, Spool], None],
        cache: Cache,
        present: Collection[str] = (),
    ) -> None:
        self.diff_ids = diff_ids
        self.spools = spools
        self._take_layer = take_layer
        self._cache = cache
        self._present = present
        # Those that were there.
        self.layers: set[str] = set()
        self._documents: dict[str, bytes] = {}

    def take(self, path: Path, size: int, content: IO[bytes]) -> None:
        """Take one member of an export, or one layer of a content store, as a file of the same name."""
        digest = f"sha256:{path.stem}"
        if path.name == "layer.tar" or digest in self.diff_ids:
            self._take(content, size)
            return
        begin = content.read(len(_GZIP_MAGIC))
        if begin.startswith(b"{") and size <= _LARGEST_DOCUMENT:
            self._documents[digest] = begin + content.read()
        elif begin == _GZIP_MAGIC and digest not in self._present:
            diff_id = self._cache.diff_id(digest)
            if not diff_id or diff_id in self.diff_ids:
                # The uncompressed size is unknown.
                self._cache.remember_diff_id(digest, self._take(_Unpacked(begin, content), sys.maxsize))

    def configs(self, image_ids: Iterable[str]) -> dict[str, bytes]:
        """The configurations of those of these images that were there, by id."""
        configs = {}
        for image_id in image_ids:
            document = self._documents.get(image_id, b"")
            config = ((read_object(document) or {}).get("config") or {}).get("digest")
            content = self._documents.get(config, b"") if isinstance(config, str) else document
            if content:
                configs[image_id] = content
        return configs

    def _take(self, content: _Readable, most: int) -> str:
        spool = self.spools.make(most)
        diff_id = _copy(content, spool)
        if diff_id in self.diff_ids and diff_id not in self.layers:
            self.layers.add(diff_id)
            self._take_layer(diff_id, spool)
        else:
            spool.delete()
        return diff_id


def export(engine: Engine, image_ids: Sequence[str], reader: LayerReader) -> dict[str, bytes]:
    """Export images from the engine to ``reader`` in one pass; returns the configurations by image id.

    The formats: https://github.com/moby/moby/blob/master/image/spec/v1.2.md (``ID/layer.tar``, ``ID.json``) and, from
    engine 25 on, the OCI image layout (``blobs/sha256/DIGEST``).

    :raises EngineError: if the engine stopped in the middle.
    :raises BuildToolsError: if the layers do not fit on the disk.
    """
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
    return reader.configs(image_ids)


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
    reader: LayerReader,
    take_blob: Callable[[str, Descriptor, Spool], None],
) -> None:
    """The same as :func:`export` out of a content store, which reads nothing but the reader's layers.

    A layer with Zstandard compression, which is not read here, is passed to ``take_blob`` as it is stored. One that the
    store lacks is not passed on.

    :raises BuildToolsError: if the layers do not fit on the disk.
    """
    pairs = (pair for image in images for pair in zip(diff_ids_of(image.config), image.manifest.layers, strict=True))
    for diff_id, layer in pairs:
        if diff_id not in reader.diff_ids or diff_id in reader.layers:
            continue
        with suppress(NoContent):
            stream = content.open(layer.digest, layer.size)
            if not layer.media_type.endswith("zstd"):
                reader.take(Path(layer.digest.removeprefix("sha256:")), layer.size, stream)
                continue
            blob = reader.spools.make(layer.size)
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
