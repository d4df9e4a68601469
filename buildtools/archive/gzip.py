"""A gzip writer that is fast and gives the same bytes on every machine.

The input is split at fixed boundaries, every ``BLOCK`` bytes. A pool of threads compresses the blocks separately, and
the results are joined into **one** gzip member (RFC 1952). One member, because common readers stop or fail at the start
of a second: ``tarfile.open(mode="r|gz")``, Java's ``GZIPInputStream`` on a socket (JDK-7036144), Apache Commons
Compress.

The caller may begin a segment: a block ends there, and boundaries count from there on. The output for a segment then
depends only on its own bytes, wherever it is, and what was compressed before is taken from a :class:`SegmentCache`. The
bytes are the same with and without one.

The codec is libdeflate: its output depends neither on the CPU's instruction sets nor on the number of threads. ISA-L
varies with the CPU, and the interpreter's own zlib differs between systems.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from buildtools.archive.checksums import Sink
from buildtools.archive.deflation import BLOCK, codec, deflated
from buildtools.archive.segment_cache import SegmentCache, name_of
from buildtools.archive.segment_map import Segment
from buildtools.memory import keep_freed_blocks

# Reading back anything smaller takes as long as compressing it.
_WORTH_KEEPING = 64 << 10
# RFC 1952, 2.3.1: no name, no time, no extra fields; OS 255 is "unknown".
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
# RFC 1951, 3.2.6: an empty last block with fixed codes.
_LAST_BLOCK = b"\x03\x00"


class GzipWriter:
    """Compresses what is written to it into ``out``; a context manager.

    It holds at most one block per thread, and two more. ``out`` is written to by the thread that calls :meth:`write`,
    and is not closed. If the ``with`` body raises, the member is left incomplete, so that nobody takes it for complete.
    """

    def __init__(self, out: Sink, threads: int = 0, cache: SegmentCache | None = None) -> None:
        keep_freed_blocks()
        self._out = out
        self._cache = cache
        threads = threads or min(8, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, "gzip")
        self._most_pending = (threads + 2) * BLOCK
        self._pending: deque[tuple[Future[tuple[str, bytes]], int]] = deque()
        self._pending_size = 0
        self._pieces: list[bytes | memoryview] = []
        self._piece_size = 0
        self._crc = 0
        self._size = 0
        self._written_size = len(_HEADER)
        # Those that the cache knows by name, complete at the end.
        self.segments: list[Segment] = []
        out.write(_HEADER)

    def write(self, data: bytes) -> int:
        """Write all of ``data``; returns its length."""
        rest = memoryview(data)
        while rest:
            piece = rest[: BLOCK - self._piece_size]
            # What is a block already is not copied.
            self._pieces.append(data if len(piece) == len(data) else piece)
            self._piece_size += len(piece)
            rest = rest[len(piece) :]
            if self._piece_size == BLOCK:
                self._submit()
        return len(data)

    def begin_segment(self) -> None:
        """Start a segment: what is written from now on is compressed separately."""
        if self._pieces:
            self._submit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        import deflate

        block = b"".join(self._pieces)
        self._pieces.clear()
        self._piece_size = 0
        while self._pending and self._pending_size + len(block) > self._most_pending:
            self._collect()
        self._crc = deflate.crc32(block, self._crc)
        self._size += len(block)
        self._pending.append((self._pool.submit(self._deflated, block), len(block)))
        self._pending_size += len(block)

    def _deflated(self, block: bytes) -> tuple[str, bytes]:
        if self._cache is None or len(block) < _WORTH_KEEPING:
            return "", deflated(block)
        name = name_of((codec(), block))
        return name, self._cache.segment(name, lambda: deflated(block))

    def _collect(self) -> None:
        future, size = self._pending.popleft()
        name, data = future.result()
        if name:
            self.segments.append(Segment(name, self._written_size, len(data)))
        self._out.write(data)
        self._written_size += len(data)
        self._pending_size -= size

    def _finish(self) -> None:
        if self._pieces:
            self._submit()
        while self._pending:
            self._collect()
        self._out.write(_LAST_BLOCK + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))
