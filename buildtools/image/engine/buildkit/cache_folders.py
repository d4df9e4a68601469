"""Caches with ``type=local``: folders that an engine reads and writes through containerd's content service.

Each folder is an OCI image layout: blobs by digest, and ``index.json``, which names the manifest of the cache. The
service is part of the session; an engine refers to a folder by its path, in the metadata of each call. It writes every
blob in a separate call that begins with the digest, and skips blobs that exist. The manifest comes last, because it
names the others; that is how it is recognized. The index is written here, at the end.
https://github.com/containerd/containerd/blob/main/api/services/content/v1/content.proto,
https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildtools.build_cache import BuildCache
from buildtools.files import replacement, write_atomically
from buildtools.image.engine.buildkit.grpc import NOT_FOUND, Gone, Handler, Status, Stream
from buildtools.image.engine.buildkit.protobuf import Message, bytes_field, int_field, string_field

_STORE = "buildkit-attachable-store-id"
_INVALID_ARGUMENT, _ALREADY_EXISTS, _DATA_LOSS = 3, 6, 15
_COMMIT = 2
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# gRPC in Go accepts messages of four times this size.
_CHUNK = 1024 * 1024
_TAG = "org.opencontainers.image.ref.name"
_INDEX = "application/vnd.oci.image.index.v1+json"


class CacheFolders:
    """Serves the folders among the caches of a build. A folder is created by the first write."""

    def __init__(self, cache_from: Iterable[BuildCache], cache_to: Iterable[BuildCache]) -> None:
        self._written = [cache for cache in cache_to if cache.kind == "local"]
        self._imports = [_with_manifest(cache) if cache.kind == "local" else cache for cache in cache_from]
        places = [cache.place for cache in (*self._imports, *self._written) if cache.kind == "local"]
        self._folders = {f"local:{place}": Path(place) for place in places}
        self._manifests: dict[Path, str] = {}

    @property
    def imports(self) -> list[BuildCache]:
        """The caches to read; an empty folder is left out."""
        return [cache for cache in self._imports if cache.attributes.get("digest") != ""]

    def handlers(self) -> dict[str, Handler]:
        """The services for a session."""
        methods = {"Info": self._info, "Read": self._read, "Write": self._write} if self._folders else {}
        return {f"/containerd.services.content.v1.Content/{name}": method for name, method in methods.items()}

    def finish(self) -> None:
        """Record what was written to each folder in its index, under its tag.

        :raises OSError: if it cannot be written.
        """
        for cache in self._written:
            if digest := self._manifests.get(Path(cache.place)):
                _write_index(Path(cache.place), _tag(cache), digest)

    def _blob(self, stream: Stream, digest: str) -> Path:
        name = stream.metadata.get(_STORE, [""])[0]
        if name not in self._folders:
            raise Status(NOT_FOUND, f"{name!r} is no folder of this build")
        if not _DIGEST.fullmatch(digest):
            raise Status(_INVALID_ARGUMENT, f"{digest!r} is not a digest of SHA-256")
        return _blob_path(self._folders[name], digest)

    def _info(self, stream: Stream) -> None:
        digest = Message(stream.receive() or b"").text(1)
        size = _size(self._blob(stream, digest), digest)
        stream.send(bytes_field(1, string_field(1, digest) + int_field(2, size)))

    def _read(self, stream: Stream) -> None:
        request = Message(stream.receive() or b"")
        digest, offset, size = request.text(1), request.number(2), request.number(3)
        path = self._blob(stream, digest)
        rest = _size(path, digest) - offset
        rest = min(size, rest) if size else rest
        sent = 0
        with path.open("rb") as file:
            file.seek(offset)
            while data := file.read(min(_CHUNK, rest - sent)):
                stream.send(int_field(1, sent) + bytes_field(2, data))
                sent += len(data)

    def _write(self, stream: Stream) -> None:
        message = Message(stream.receive() or b"")
        digest = message.text(4)
        path = self._blob(stream, digest)
        self._manifests[path.parents[2]] = digest
        if path.exists():
            raise Status(_ALREADY_EXISTS, f"{digest} exists")
        path.parent.mkdir(parents=True, exist_ok=True)
        sha, size = hashlib.sha256(), 0
        with replacement(path) as file:
            while True:
                if message.number(5) < size and message.blob(6):
                    # The engine starts again.
                    file.seek(0)
                    file.truncate()
                    sha, size = hashlib.sha256(), 0
                file.write(message.blob(6))
                sha.update(message.blob(6))
                size += len(message.blob(6))
                if message.number(1) == _COMMIT:
                    break
                stream.send(_written(message, digest, size))
                received = stream.receive()
                if received is None:
                    raise Gone(f"{digest} was not sent to its end")
                message = Message(received)
            if sha.hexdigest() != digest.partition(":")[2]:
                raise Status(_DATA_LOSS, f"what was sent as {digest} has sha256:{sha.hexdigest()}")
        stream.send(_written(message, digest, size))


def _tag(cache: BuildCache) -> str:
    return cache.attributes.get("tag", "latest")


def _with_manifest(cache: BuildCache) -> BuildCache:
    """A folder's cache with the digest of its manifest, which BuildKit needs; empty if there is none."""
    folder = Path(cache.place)
    digest = cache.attributes.get("digest") or next(
        (str(each.get("digest")) for each in _index_entries(folder) if _tag_of(each) == _tag(cache)), ""
    )
    is_there = _DIGEST.fullmatch(digest) and _blob_path(folder, digest).exists()
    return replace(cache, attributes={**cache.attributes, "digest": digest if is_there else ""})


def _tag_of(entry: Mapping[str, Any]) -> Any:
    return (entry.get("annotations") or {}).get(_TAG)


def _write_index(folder: Path, tag: str, digest: str) -> None:
    blob = _blob_path(folder, digest)
    media_type = json.loads(blob.read_bytes()).get("mediaType", _INDEX)
    entry = {"mediaType": media_type, "digest": digest, "size": blob.stat().st_size, "annotations": {_TAG: tag}}
    others = [each for each in _index_entries(folder) if _tag_of(each) != tag]
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [*others, entry]}
    write_atomically(folder / "index.json", json.dumps(index).encode())
    write_atomically(folder / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def _index_entries(folder: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads((folder / "index.json").read_bytes())["manifests"]
        return [entry for entry in entries if isinstance(entry, dict)]
    except (OSError, ValueError, TypeError, LookupError):
        return []


def _blob_path(folder: Path, digest: str) -> Path:
    return folder.joinpath("blobs", *digest.split(":"))


def _size(path: Path, digest: str) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise Status(NOT_FOUND, f"{digest}: not found") from None


def _written(message: Message, digest: str, size: int) -> bytes:
    return (
        int_field(1, message.number(1)) + int_field(4, size) + int_field(5, message.number(3)) + string_field(6, digest)
    )
