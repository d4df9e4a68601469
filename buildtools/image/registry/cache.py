"""A cache of content in registries, by digest, kept between runs; losing it costs time, never correctness."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from buildtools.files import write_atomically
from buildtools.image.registry.manifest import (
    DOCKER_LAYER,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    digest_of,
    read_object,
)

# Part of the folder's name, because another codec gives other bytes for the same layer.
CODEC = "isal-2-sealed"
# Each version of each image has a configuration of its own; so many take 200 MB of a disk.
_MOST_CONFIGS = 50_000
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Cache:
    """A folder of small files, one per entry. Safe for threads and for several processes.

    Unless it is to ``learn``, nothing is added.
    """

    def __init__(self, folder: Path, *, learn: bool = True) -> None:
        self.folder = folder
        self._learn = learn

    def layer(self, diff_id: str) -> Descriptor | None:
        """The compressed form of the layer with these uncompressed bytes, if it is known."""
        try:
            entry = json.loads(self._path(f"layers-{CODEC}", diff_id).read_bytes())
            layer = Descriptor(DOCKER_LAYER, entry["digest"], entry["size"])
            # Without a valid seal it may be another layer's entry, or damaged.
            return layer if entry == _layer_entry(diff_id, layer) else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def remember_layer(self, diff_id: str, layer: Descriptor) -> None:
        """Remember the compressed form of a layer."""
        self._write(self._path(f"layers-{CODEC}", diff_id), json.dumps(_layer_entry(diff_id, layer)).encode())

    def diff_id(self, digest: str) -> str:
        """The digest of a compressed layer's uncompressed bytes, if it was ever unpacked; else empty."""
        try:
            return self._path("unpacked", digest).read_text()
        except (OSError, ValueError):
            return ""

    def remember_diff_id(self, digest: str, diff_id: str) -> None:
        """Remember the digest of a compressed layer's uncompressed bytes."""
        self._write(self._path("unpacked", digest), diff_id.encode())

    def config(self, digest: str) -> bytes | None:
        """An image's configuration, if it was fetched before."""
        try:
            body = self._path("configs", digest).read_bytes()
        except OSError:
            return None
        return body if digest_of(body) == digest else None

    def remember_config(self, body: bytes) -> None:
        """Remember an image's configuration."""
        self._write_verified(self._path("configs", digest_of(body)), body)

    def trim(self, most: int = _MOST_CONFIGS) -> None:
        """If there are more than ``most`` configurations, delete the oldest, and keep half as many."""
        with suppress(OSError), os.scandir(self.folder / "configs") as entries:
            files = list(entries)
            if len(files) <= most:
                return
            for file in sorted(files, key=lambda file: file.stat().st_mtime)[: -(most // 2)]:
                Path(file).unlink(missing_ok=True)

    def manifest(self, digest: str) -> Manifest | None:
        """A manifest, if it was fetched before."""
        try:
            body = self._path("manifests", digest).read_bytes()
        except OSError:
            return None
        document = read_object(body) if digest_of(body) == digest else None
        if document is None:
            return None
        by_itself = OCI_INDEX if "manifests" in document else OCI_MANIFEST
        return Manifest(str(document.get("mediaType") or by_itself), body)

    def remember_manifest(self, manifest: Manifest) -> None:
        """Remember a manifest."""
        self._write_verified(self._path("manifests", manifest.digest), manifest.body)

    def _path(self, kind: str, digest: str) -> Path:
        return self.folder / kind / digest.replace(":", "-")

    def _write_verified(self, path: Path, body: bytes) -> None:
        """Write an entry that is verified by its digest when it is read, so that half of it does no harm.

        It takes a quarter of the time of an atomic write.
        """
        if not self._learn:
            return
        with suppress(OSError):
            try:
                file = os.open(path, _FLAGS, 0o600)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(path, _FLAGS, 0o600)
            with os.fdopen(file, "wb") as stream:
                stream.write(body)

    def _write(self, path: Path, body: bytes) -> None:
        if not self._learn:
            return
        with suppress(OSError):
            write_atomically(path, body)


def _layer_entry(diff_id: str, layer: Descriptor) -> dict[str, object]:
    """The stored entry for a layer. The seal, a digest of the rest, detects changes."""
    seal = digest_of(f"{diff_id} {layer.digest} {layer.size!r}".encode())
    return {"diff_id": diff_id, "digest": layer.digest, "size": layer.size, "seal": seal}
