"""What a release needs of a place for archives, claims and manifests.

:class:`ArtifactStore` is the seam; ``object_store`` is the one adapter. Its contract:

* **Retries** are the store's own. A method is tried again while an outage may pass: a connection that breaks, a service
  that asks to wait, an answer that is cut short or is not the service's own (a proxy's page). It ends within three
  minutes, with ``Unreachable``. Every method may raise that.
* **Idempotent** are all methods that only read, ``delete``, ``discard_unfinished``, and ``upload`` and ``copy`` of the
  same content. ``create`` and ``replace`` may find their own object where an answer was lost and the request was sent
  again: they return False then, and the caller compares before it complains.
* **Final** is ``Refused``: credentials, rights, an address that is wrong, a service that lacks what a release needs. So
  is ``Conflict``: a key has another content. Neither is tried again.
* An object appears whole or not at all. None is ever overwritten, except by ``replace``, on purpose.
* **Nothing that an uploader wrote beside an object is evidence of its content.** Evidence is a checksum that the
  service computed itself and that agrees with ours, or the bytes.

A store is safe to share between threads. Keys are relative to the store's prefix.
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

    ``checksum`` is what the service computed itself: SHA-256 in base64, for an object of N parts S3's composite, which
    some services give without its ``-N``; empty where it has none.
    """

    key: str
    size: int
    etag: str
    checksum: str = ""


@frozen
class Content:
    """An object's bytes, and the ``etag`` that :meth:`ArtifactStore.replace` asks for."""

    data: bytes
    etag: str


@frozen
class StoredArchive:
    """An archive as read back from the store; ``is_new`` where this call wrote it."""

    key: str
    checksums: Checksums
    is_new: bool


class ArtifactStore(Protocol):
    """Objects below one prefix; the module's text is the contract."""

    def location(self, key: str) -> str:
        """The address of an object, for people."""

    def check_access(self, *, dry_run: bool = False) -> tuple[str, ...]:
        """Every reason why a release could not be written, each as one message; empty where there is none.

        A ``dry_run`` leaves nothing behind.
        """

    def head(self, key: str) -> StoredObject | None:
        """What the service knows of an object without reading it; None where there is none."""

    def read(self, key: str) -> Content | None:
        """A small object's content; None where there is none."""

    def read_all(self, keys: Sequence[str]) -> list[Content | None]:
        """The contents of many small objects, several of which are read at once, in the order of their keys."""

    def download(self, key: str, out: Sink) -> StoredObject | None:
        """Writes an object's content to ``out``; None where there is none."""

    def digest(self, key: str, checksums: Checksums | None = None, *, deep: bool = False) -> str | None:
        """The SHA-256 of an object's content in hexadecimal; None where there is none.

        With ``checksums``, an object whose size and whose service's checksum agree with them is not read, unless
        ``deep`` asks for it. Everything else is read in full.
        """

    def create(self, key: str, data: bytes, content_type: str) -> bool:
        """Writes an object where there is none, and tells whether it did."""

    def replace(self, key: str, data: bytes, etag: str, content_type: str) -> bool:
        """Overwrites an object that still is what it was when it was read; False where it no longer is."""

    def list(self, prefix: str = "") -> tuple[StoredObject, ...]:
        """The objects whose keys start with ``prefix``, without their checksums."""

    def delete(self, key: str) -> None:
        """Removes an object; nothing where there is none."""

    def discard_unfinished(self, prefix: str, older_than: datetime) -> int:
        """Cancels the uploads to keys below ``prefix`` that a killed run left; their number.

        An upload that still runs fails when it is cancelled, so leave the younger ones alone.
        """

    def upload(
        self,
        key: str,
        write: Callable[[Sink], object],
        checksums: Checksums,
        *,
        content_type: str = ARCHIVE_TYPE,
        subject: str = "",
        report: Report = unheard,
    ) -> StoredArchive:
        """Sends what ``write`` writes, whose ``checksums`` are known, and reads back what the service has.

        Where the key has that content already, nothing is written. ``report`` gets the bytes that have arrived.

        :raises Conflict: there is another content under this key, before or after.
        :raises BuildToolsError: what was written is not what ``checksums`` say.
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
        """Takes over the archive that ``source`` has under the same key, and reads back what the service has.

        Where both are of one service it may copy by itself. For the rest, it is as :meth:`upload` of the same content.

        :raises Conflict: there is another content under this key, before or after.
        :raises Drifted: the source has no such object, or one of another size.
        :raises BuildToolsError: the source has other bytes than ``checksums`` say.
        """
