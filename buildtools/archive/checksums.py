"""What identifies content: its size and two checksums, computed here and never taken from a store.

The first is the SHA-256 of the whole. The second is what S3 computes for an object that was sent in parts, which is all
it can compute while parts arrive in any order: the SHA-256 of the parts' SHA-256, in base64. With both, one request can
compare an object, without trusting any metadata from its uploader.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Protocol

from buildtools.frozen import frozen

# Parts have the same boundaries on every machine, so equal contents have equal checksums of parts. S3 accepts 10,000
# parts of 5 MiB to 5 GiB: 16 MiB keeps four parts in flight with 64 MiB of memory, and limits an archive to 156 GiB.
# Then S3 refuses part 10,001, and its error is shown.
PART = 16 << 20


class Sink(Protocol):
    """A destination for bytes: any file opened for writing, or another writer of this package."""

    def write(self, data: bytes, /) -> object:
        """Write all of ``data``."""


@frozen
class Checksums:
    """The size and checksums of content. ``size`` is in bytes, ``sha256`` is hexadecimal.

    ``composite`` is S3's checksum for parts of :data:`PART` bytes: for one part the SHA-256 in base64, otherwise that
    of the parts' SHA-256, with ``-N`` for N parts. It is empty if it was not recorded.
    """

    size: int
    sha256: str
    composite: str = ""

    def agrees(self, checksum: str) -> bool:
        """Whether a service's ``checksum`` proves this content; some omit ``-N``, some use the whole content's."""
        whole = base64.b64encode(bytes.fromhex(self.sha256)).decode()
        return bool(checksum) and checksum.partition("-")[0] in (whole, self.composite.partition("-")[0])


class PartWriter:
    """A sink that splits its input into parts, and knows the SHA-256 of each.

    ``ended``, if given, is called with every part and its number, from 1. The last part may be shorter, and a single
    part may be empty.
    """

    def __init__(self, ended: Callable[[bytes, int], object] | None = None) -> None:
        self.size = 0
        self._ended = ended
        self._pieces: list[bytes | memoryview] = []
        self._part_size = 0
        self._part_digest = hashlib.sha256()
        self._digests: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        """Write all of ``data``."""
        rest = memoryview(data)
        while rest:
            if self._part_size == PART:
                self._end_part()
            piece = rest[: PART - self._part_size]
            self._part_digest.update(piece)
            self._part_size += len(piece)
            # The bytes of a part are only kept for a callback, and joined once: copying takes longer than sending. What
            # is a part already is not copied.
            if self._ended:
                self._pieces.append(data if len(piece) == len(data) else piece)
            rest = rest[len(piece) :]
        self.size += len(data)

    def close(self) -> None:
        """End the last part; nothing may be written afterwards."""
        self._end_part()

    def part_checksum(self, number: int) -> str:
        """The SHA-256 of a part, in base64."""
        return base64.b64encode(self._digests[number - 1]).decode()

    @property
    def composite(self) -> str:
        """S3's checksum for these parts; only after :meth:`close`."""
        if len(self._digests) == 1:
            return self.part_checksum(1)
        return f"{base64.b64encode(hashlib.sha256(b''.join(self._digests)).digest()).decode()}-{len(self._digests)}"

    def _end_part(self) -> None:
        self._digests.append(self._part_digest.digest())
        if self._ended:
            self._ended(b"".join(self._pieces), len(self._digests))
        self._pieces.clear()
        self._part_size, self._part_digest = 0, hashlib.sha256()


class ChecksumWriter:
    """A sink that computes the checksums of what it passes on to ``out``."""

    def __init__(self, out: Sink | None = None) -> None:
        self._out = out
        self._whole = hashlib.sha256()
        self._parts = PartWriter()

    def write(self, data: bytes, /) -> None:
        """Write all of ``data``."""
        if self._out:
            self._out.write(data)
        self._whole.update(data)
        self._parts.write(data)

    def checksums(self) -> Checksums:
        """The checksums of everything that was written; nothing may be written afterwards."""
        self._parts.close()
        return Checksums(self._parts.size, self._whole.hexdigest(), self._parts.composite)


def checksums_of(data: bytes) -> Checksums:
    """The checksums of data in memory."""
    writer = ChecksumWriter()
    writer.write(data)
    return writer.checksums()
