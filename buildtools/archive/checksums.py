"""What identifies a content: its size and two checksums, both computed here and never taken from a store.

The first is the SHA-256 of the whole. The second is what S3 computes of an object that was sent in parts, which is all
that it can compute while parts arrive in any order: the SHA-256 of the parts' SHA-256, in base64. Who has both can
compare an object with a single request, and need not believe anything that its uploader wrote beside it.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Protocol

from buildtools.frozen import frozen

# Parts end at the same bytes on every machine, so equal contents have equal checksums of parts. S3 takes 10,000 parts
# of 5 MiB to 5 GiB: 16 MiB keeps four parts in flight at 64 MiB of memory, and ends at an archive of 156 GiB, where S3
# refuses part 10,001 and its error is shown as it is.
PART = 16 << 20


class Sink(Protocol):
    """Where bytes go: any file opened for writing, or another writer of this folder."""

    def write(self, data: bytes, /) -> object:
        """Takes all of ``data``."""


@frozen
class Checksums:
    """What identifies a content. ``size`` is in bytes, ``sha256`` hexadecimal.

    ``composite`` is as S3 gives it for parts of :data:`PART` bytes: the SHA-256 in base64 for a content of one part,
    else that of the parts' SHA-256, with ``-N`` for N parts. It is empty where nobody wrote it down.
    """

    size: int
    sha256: str
    composite: str = ""

    def agrees(self, checksum: str) -> bool:
        """Whether a service's ``checksum`` proves this content; some leave out ``-N``, some have it of the whole."""
        whole = base64.b64encode(bytes.fromhex(self.sha256)).decode()
        return bool(checksum) and checksum.partition("-")[0] in (whole, self.composite.partition("-")[0])


class PartWriter:
    """A sink that cuts what it is given into parts, and knows the SHA-256 of each.

    ``ended``, if any, is called with every part and its number, from 1; the last may be shorter, the only one empty.
    """

    def __init__(self, ended: Callable[[bytes, int], object] | None = None) -> None:
        self.size = 0
        self._ended = ended
        self._part = bytearray()
        self._part_size = 0
        self._part_digest = hashlib.sha256()
        self._digests: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        """Takes all of ``data``."""
        rest = memoryview(data)
        while rest:
            if self._part_size == PART:
                self._end_part()
            piece = rest[: PART - self._part_size]
            self._part_digest.update(piece)
            self._part_size += len(piece)
            # Only for who wants them are the bytes of a part kept.
            if self._ended:
                self._part += piece
            rest = rest[len(piece) :]
        self.size += len(data)

    def close(self) -> None:
        """Ends the last part; nothing may be written after."""
        self._end_part()

    def part_checksum(self, number: int) -> str:
        """The SHA-256 of a part, in base64."""
        return base64.b64encode(self._digests[number - 1]).decode()

    @property
    def composite(self) -> str:
        """As S3 gives it for these parts; only after the end."""
        if len(self._digests) == 1:
            return self.part_checksum(1)
        return f"{base64.b64encode(hashlib.sha256(b''.join(self._digests)).digest()).decode()}-{len(self._digests)}"

    def _end_part(self) -> None:
        self._digests.append(self._part_digest.digest())
        if self._ended:
            self._ended(bytes(self._part), len(self._digests))
        self._part.clear()
        self._part_size, self._part_digest = 0, hashlib.sha256()


class ChecksumWriter:
    """A sink that computes the checksums of what it hands on to ``out``."""

    def __init__(self, out: Sink | None = None) -> None:
        self._out = out
        self._whole = hashlib.sha256()
        self._parts = PartWriter()

    def write(self, data: bytes, /) -> None:
        """Takes all of ``data``."""
        if self._out:
            self._out.write(data)
        self._whole.update(data)
        self._parts.write(data)

    def checksums(self) -> Checksums:
        """Of all that was written; nothing may be written after."""
        self._parts.close()
        return Checksums(self._parts.size, self._whole.hexdigest(), self._parts.composite)


def checksums_of(data: bytes) -> Checksums:
    """The checksums of a content in memory."""
    writer = ChecksumWriter()
    writer.write(data)
    return writer.checksums()
