"""Copy images from one repository to another, byte for byte, and only what is missing there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from tempfile import TemporaryFile

from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import KnownParts, download_blob
from buildtools.image.registry.manifest import Descriptor, Manifest
from buildtools.schedule import QUESTIONS_AT_ONCE


class ImageCopier:
    """Copies images into a registry, ``target``. Must be closed. Threads may copy images concurrently.

    ``images`` maps a repository of the target to the manifests of its image, each with its blobs, as
    :func:`~buildtools.image.registry.lookup.image_manifests` returns them. Within one registry, blobs are mounted.
    Between two, a blob passes through this machine once, in an unnamed file, and is mounted into further repositories;
    if one of these repositories has it already, it does not pass. ``jobs`` is the number of blobs that pass at once.
    ``parts`` are those that the target is known to have in their full size, from before or once they are mounted.
    """

    def __init__(
        self,
        target: Registry,
        images: Mapping[str, Sequence[tuple[Manifest, Sequence[Descriptor]]]],
        parts: KnownParts,
        jobs: int,
    ) -> None:
        self._target = target
        self._images = images
        self.parts = parts
        self._takers: dict[str, list[str]] = {}
        for repository, image in images.items():
            for digest in dict.fromkeys(blob.digest for _, blobs in image for blob in blobs):
                self._takers.setdefault(digest, []).append(repository)
        self._holders: dict[str, Future[str]] = {}
        self._lock = threading.Lock()
        self._sending = threading.Semaphore(jobs)
        self._pool = ThreadPoolExecutor(QUESTIONS_AT_ONCE)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def copy(
        self, source: Registry, source_repository: str, repository: str, progress: Callable[[int], object]
    ) -> Manifest:
        """Copy everything that an image refers to; returns its manifest, which can then be stored under a tag.

        ``progress`` is called with the size of every blob that was sent.

        :raises Damaged: if the source lacks a part, or a part does not match its digest.
        """
        *parts, (manifest, _) = self._images[repository]
        blobs = dict.fromkeys(blob for _, some in self._images[repository] for blob in some)
        send = partial(self._send, source, source_repository, progress=progress)
        if source.host == self._target.host:
            holders = dict.fromkeys(blobs, source_repository)
        else:
            futures = {blob: self._holder(blob, repository, send) for blob in blobs}
            holders = {blob: future.result() for blob, future in futures.items()}
        mounts = [
            self._pool.submit(self._mount, blob, holder, repository, send)
            for blob, holder in holders.items()
            if holder != repository
        ]
        for mount in mounts:
            mount.result()
        put = partial(self._target.put_manifest, repository)
        # Those that an index lists must be there before it.
        puts = [self._pool.submit(put, part.digest, part) for part, _ in parts if not part.is_index]
        for each in puts:
            each.result()
        for part, _ in parts:
            if part.is_index:
                put(part.digest, part)
        return manifest

    def _holder(self, blob: Descriptor, repository: str, send: Callable[[Descriptor, str], object]) -> Future[str]:
        """A repository of the target that has the blob; images that share the blob wait until it is there."""
        with self._lock:
            if blob.digest not in self._holders:
                self._holders[blob.digest] = self._pool.submit(self._bring, blob, repository, send)
            return self._holders[blob.digest]

    def _bring(self, blob: Descriptor, repository: str, send: Callable[[Descriptor, str], object]) -> str:
        for holder in self._takers[blob.digest]:
            if self._target.blob_size(holder, blob.digest) == blob.size:
                return holder
        send(blob, repository)
        return repository

    def _mount(self, blob: Descriptor, holder: str, repository: str, send: Callable[[Descriptor, str], object]) -> None:
        if self._target.mount_blob(repository, blob.digest, holder):
            is_there = self.parts.has(self._target, repository, blob)
        else:
            is_there = self._target.blob_size(repository, blob.digest) == blob.size
        if not is_there:
            send(blob, repository)

    def _send(
        self,
        source: Registry,
        source_repository: str,
        blob: Descriptor,
        repository: str,
        *,
        progress: Callable[[int], object],
    ) -> None:
        with self._sending, TemporaryFile() as file:
            download_blob(source, source_repository, blob.digest, file.write)
            file.flush()
            # Each attempt closes the file that it has read.
            self._target.upload_blob(repository, blob.digest, blob.size, lambda: os.fdopen(os.dup(file.fileno()), "rb"))
        progress(blob.size)
