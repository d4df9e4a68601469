"""Images as files: an OCI image layout, for a machine that cannot reach their registry.

Manifests and blobs are the registry's own bytes, so every digest is unchanged.
https://github.com/opencontainers/image-spec/blob/main/image-layout.md

Two things are there for its readers:

* skopeo finds an image by name only if the list of images has a manifest or an index of OCI's own types. So a manifest
  of Docker's type is wrapped in an index.
* ``docker load`` needs a ``manifest.json`` in engines without containerd's image store. A layout may contain additional
  files.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from buildtools import BuildToolsError
from buildtools.image.reference import Reference
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import download_blob, image_manifests
from buildtools.image.registry.manifest import DOCKER_MANIFEST, OCI_INDEX, Descriptor, Manifest, encode, read_object


class Layout:
    """A layout that is written into a new ``folder``. Threads may add images concurrently.

    Blobs that one of the layouts ``others`` already has are linked from there.
    """

    def __init__(self, folder: Path, others: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._others = others
        self._images: dict[str, dict[str, Any]] = {}
        self._loadable: dict[str, dict[str, Any]] = {}
        self._locks: dict[str, threading.Lock] = {}

    def add(self, registry: Registry, image: Reference, name: str, progress: Callable[[int], object]) -> None:
        """Add an image, given by digest, with everything that it refers to; ``name`` is its name in the layout.

        ``progress`` is called with the size of each block that arrives.

        :raises Damaged: if a part is missing in the registry, or does not match its digest.
        :raises BuildToolsError: if the layout cannot be written.
        """
        images: dict[str, Manifest] = {}
        for manifest, blobs in image_manifests(registry, image.repository, image.digest):
            images[manifest.digest] = manifest
            for blob in blobs:
                # Other threads that need the same blob wait until it is there.
                with self._locks.setdefault(blob.digest, threading.Lock()):
                    self._add_blob(registry, image.repository, blob.digest, progress)
            with self._new(manifest.digest) as write:
                write(manifest.body)
        # The last one is the image itself.
        reference = f"{image.name}:{image.tag}"
        names = {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": reference}
        self._images[name] = {**self._list_entry(manifest), "annotations": names}
        # An image whose index has only attestations besides it can be loaded too.
        only = manifest.only_image if manifest.is_index and len(manifest.platforms) == 1 else manifest.digest
        if not images[only].is_index:
            parts = (images[only].config, *images[only].layers)
            config, *layers = (str(_blob_path(Path(), blob.digest)) for blob in parts)
            self._loadable[name] = {"Config": config, "RepoTags": [reference], "Layers": layers}

    def finish(self) -> None:
        """Write what makes it a layout: its version, and the list of its images.

        :raises OSError: if it cannot be written.
        """
        (self._folder / "index.json").write_bytes(encode(_index(_by_name(self._images))))
        (self._folder / "manifest.json").write_bytes(encode(_by_name(self._loadable)))
        (self._folder / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))

    def _list_entry(self, manifest: Manifest) -> dict[str, Any]:
        """An image's entry in the list of images."""
        descriptor = Descriptor(manifest.media_type, manifest.digest, len(manifest.body)).document()
        if manifest.media_type != DOCKER_MANIFEST:
            return descriptor
        config = read_object(_blob_path(self._folder, manifest.config.digest).read_bytes()) or {}
        platform = {key: config[key] for key in ("os", "architecture", "variant") if key in config}
        index = Manifest(OCI_INDEX, encode(_index([{**descriptor, "platform": platform}])))
        with self._new(index.digest) as write:
            write(index.body)
        return self._list_entry(index)

    def _add_blob(self, registry: Registry, repository: str, digest: str, progress: Callable[[int], object]) -> None:
        path = _blob_path(self._folder, digest)
        if path.exists():
            return
        for other in self._others:
            with suppress(OSError):
                if _has(_blob_path(other, digest), digest):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.link(_blob_path(other, digest), path)
                    return
        with self._new(digest) as write:

            def take(block: bytes) -> None:
                write(block)
                progress(len(block))

            download_blob(registry, repository, digest, take)

    @contextmanager
    def _new(self, digest: str) -> Iterator[Callable[[bytes], object]]:
        """A context with a function that writes a blob's file.

        Its errors are not mistaken for those of a connection.
        """
        path = _blob_path(self._folder, digest)
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("wb")

        def write(block: bytes) -> None:
            with _writing(path):
                file.write(block)

        try:
            yield write
        finally:
            with _writing(path):
                file.close()


def _index(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}


def _by_name(entries: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [entries[name] for name in sorted(entries)]


def _blob_path(folder: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return folder / "blobs" / algorithm / value


def _has(path: Path, digest: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, digest.partition(":")[0]).hexdigest() == digest.partition(":")[2]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BuildToolsError(f"{path} cannot be written ({error.strerror})", "correct it and run again") from None
