"""Copy images from one repository to another, byte for byte, and only what is missing there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from tempfile import TemporaryFile

from buildtools.image.reference import Reference
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import download_blob, image_manifests
from buildtools.image.registry.manifest import Descriptor, Manifest


class ImageCopier:
    """Copies images into a registry, ``target``. Threads may copy images concurrently.

    Within one registry, blobs are mounted. Between two, a blob passes through this machine once, in an unnamed file,
    and is mounted into further repositories.
    """

    def __init__(self, target: Registry) -> None:
        self._target = target
        self._repositories: dict[str, str] = {}
        self._locks: dict[str, threading.Lock] = {}

    def copy(
        self, source: Registry, image: Reference, target_repository: str, progress: Callable[[int], object]
    ) -> Manifest:
        """Copy everything that an image refers to; returns its manifest, which can then be stored under a tag.

        ``image`` has a digest. ``progress`` is called with the size of every blob that was sent.

        :raises Damaged: if the source lacks a part, or a part does not match its digest.
        """
        for manifest, blobs in image_manifests(source, image.repository, image.digest):
            for blob in blobs:
                # Other threads that need the same blob wait until it is there, and mount it.
                with self._locks.setdefault(blob.digest, threading.Lock()):
                    self._copy_blob(source, image.repository, blob, target_repository, progress)
            if manifest.digest != image.digest:
                self._target.put_manifest(target_repository, manifest.digest, manifest)
        # The last one is the image itself.
        return manifest

    def _copy_blob(
        self,
        source: Registry,
        repository: str,
        blob: Descriptor,
        target_repository: str,
        progress: Callable[[int], object],
    ) -> None:
        is_same = source.host == self._target.host
        mountable = repository if is_same else self._repositories.get(blob.digest, target_repository)
        if mountable != target_repository and self._target.mount_blob(target_repository, blob.digest, mountable):
            return
        if self._target.blob_size(target_repository, blob.digest) != blob.size:
            self._send_blob(source, repository, blob, target_repository)
            progress(blob.size)
        self._repositories[blob.digest] = target_repository

    def _send_blob(self, source: Registry, repository: str, blob: Descriptor, target_repository: str) -> None:
        with TemporaryFile() as file:
            download_blob(source, repository, blob.digest, file.write)
            file.flush()
            # Each attempt closes the file that it has read.
            self._target.upload_blob(
                target_repository, blob.digest, blob.size, lambda: os.fdopen(os.dup(file.fileno()), "rb")
            )
