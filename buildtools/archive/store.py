"""What a release needs from a store for archives, claims and manifests.

:class:`ArtifactStore` is the protocol; ``object_store`` is the only implementation. The contract:

* **Retries** are the store's own. A method retries while an outage may pass: a broken connection, a service that asks
  to wait, a response that is truncated or not the service's own (a proxy's page). It ends within three minutes, with
  ``Unreachable``. Every method may raise that.
* **Idempotent** are all methods that only read, ``delete``, ``discard_unfinished``, and ``upload`` and ``copy`` of the
  same content. ``create`` and ``replace`` may find their own object if a response was lost and the request was sent
  again: then they return False, and the caller compares the content before it reports an error.
* **Final** is ``Refused``: credentials, permissions, a wrong address, a service that lacks what a release needs. So is
  ``Conflict``: a key has other content. Neither is retried.
* An object appears complete or not at all. None is ever overwritten, except deliberately by ``replace``.
* **Metadata from an uploader is never evidence of an object's content.** Evidence is a checksum that the service
  computed itself and that agrees with ours, or the bytes.

A store may be shared between threads. Keys are relative to the store's prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from buildtools.archive.checksums import Checksums, Sink
from buildtools.events import Report, unheard
from buildtools.frozen import frozen

ARCHIVE_TYPE = "application/gzip"


@frozen
class StoredObject:
    """An object as the service describes it. ``size`` is in bytes.

    ``checksum`` is what the service computed itself: SHA-256 in base64 or, for an object of N parts, S3's composite,
    which some services return without ``-N``; empty if it has none.
    """

    key: str
    size: int
    etag: str
    checksum: str = ""


@frozen
class Content:
    """An object's bytes, and the ``etag`` for :meth:`ArtifactStore.replace`."""

    data: bytes
    etag: str


@frozen
class StoredArchive:
    """An archive as read back from the store; ``is_new`` is True if this call wrote it."""

    key: str
    checksums: Checksums
    is_new: bool


@frozen
class SharedRange:
    """``size`` bytes from ``start`` that another object has from ``source``."""

    start: int
    source: int
    size: int


@frozen
class Basis:
    """An object that has some of the bytes of another one, in the order of their ``start``."""

    key: str
    ranges: tuple[SharedRange, ...]


class ArtifactStore(Protocol):
    """Objects below one prefix; the module's docstring is the contract."""

    def location(self, key: str) -> str:
        """The address of an object, for display."""

    def check_access(self, *, dry_run: bool = False) -> tuple[str, ...]:
        """Every reason why a release could not be written, one message each; empty if there is none.

        A ``dry_run`` leaves nothing behind.
        """

    def head(self, key: str) -> StoredObject | None:
        """The service's description of an object, without reading it; None if it does not exist."""

    def read(self, key: str) -> Content | None:
        """A small object's content; None if it does not exist."""

    def read_all(self, keys: Sequence[str]) -> list[Content | None]:
        """The contents of many small objects, in the order of their keys; several are read at once."""

    def download(self, key: str, out: Sink) -> StoredObject | None:
        """Write an object's content to ``out``; None if it does not exist."""

    def digest(self, key: str, checksums: Checksums | None = None, *, deep: bool = False) -> str | None:
        """The SHA-256 of an object's content in hexadecimal; None if it does not exist.

        With ``checksums``, an object whose size and service's checksum agree with them is not read, unless ``deep``.
        Any other object is read completely.
        """

    def create(self, key: str, data: bytes, content_type: str) -> bool:
        """Create an object unless it exists; returns whether it was created."""

    def replace(self, key: str, data: bytes, etag: str, content_type: str) -> bool:
        """Overwrite an object if it still has this ETag (compare-and-swap); returns False if it does not."""

    def list(self, prefix: str = "") -> tuple[StoredObject, ...]:
        """The objects whose keys start with ``prefix``, without their checksums."""

    def delete(self, key: str) -> None:
        """Delete an object; do nothing if it does not exist."""

    def discard_unfinished(self, prefix: str, older_than: datetime) -> int:
        """Abort the uploads to keys below ``prefix`` that killed runs left; returns their number.

        Aborting an upload that is still running makes it fail, so uploads after ``older_than`` are left alone. So are
        younger leftovers of copying from a basis, which are deleted wherever they are.
        """

    def upload(
        self,
        key: str,
        write: Callable[[Sink], object],
        checksums: Checksums,
        *,
        content_type: str = ARCHIVE_TYPE,
        basis: Basis | None = None,
        subject: str = "",
        report: Report = unheard,
        before_end: Callable[[], object] | None = None,
        is_absent: bool = False,
    ) -> StoredArchive:
        """Upload what ``write`` writes, whose ``checksums`` are known, and read back what the service has.

        If the key already has that content, nothing is written; it is not looked up if it ``is_absent``, as the caller
        has just seen. What ``basis`` shares with it need not be sent, if the service can copy. ``report`` gets the
        bytes that have arrived. ``before_end`` is called when all are sent, and before the object appears; if it
        raises, nothing appears.

        :raises Conflict: if this key has other content, before or after.
        :raises BuildToolsError: if what was written does not match ``checksums``.
        """

    def copy(
        self,
        key: str,
        source: ArtifactStore,
        checksums: Checksums,
        *,
        subject: str = "",
        report: Report = unheard,
    ) -> StoredArchive:
        """Copy the archive with the same key from ``source``, and read back what the service has.

        If both belong to one service, it may copy by itself. Otherwise this is like :meth:`upload` of the same content.

        :raises Conflict: if this key has other content, before or after.
        :raises Drifted: if the source has no such object, or one of another size.
        :raises BuildToolsError: if the source's bytes do not match ``checksums``.
        """
