"""A gzip writer that is fast and gives the same bytes on every machine.

The input is cut at fixed borders, every :data:`BLOCK` bytes; a pool of threads compresses the blocks, each primed with
the 32 KiB before it, and the results are joined into **one** gzip member (RFC 1952), each block ended by a sync flush
(RFC 1951, 3.2.4), as pigz does. One member, because common readers stop or fail at the border of a second:
``tarfile.open(mode="r|gz")``, Java's ``GZIPInputStream`` on a socket (JDK-7036144), Apache Commons Compress.

The codec is zlib-ng at a level whose output depends neither on the CPU's instruction sets nor on the number of threads.
ISA-L varies with the CPU, and the interpreter's own zlib is another one on every system.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from buildtools.archive.checksums import Sink

BLOCK = 1 << 20
_WINDOW = 32 << 10
# 3 is where size stops falling: within 1 % of what gzip -6 makes (bench/archive).
_LEVEL = 3
# RFC 1952, 2.3.1: no name, no time, no extra fields; OS 255 is "unknown".
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
# RFC 1951, 3.2.6: a last block of fixed codes that holds nothing but its end.
_LAST_BLOCK = b"\x03\x00"


class GzipWriter:
    """Compresses what is written to it into ``out``; a context manager.

    A block per thread and two more are held at most. ``out`` is written to from the thread that calls :meth:`write`
    and is not closed. When the ``with`` body raises, the member is left unfinished, so that nobody takes it for whole.
    """

    def __init__(self, out: Sink, threads: int = 0) -> None:
        self._out = out
        threads = threads or min(8, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, "gzip")
        self._most_pending = threads + 2
        self._pending: deque[Future[bytes]] = deque()
        self._block = bytearray()
        self._window = b""
        self._crc = 0
        self._size = 0
        out.write(_HEADER)

    def write(self, data: bytes) -> int:
        """Takes all of ``data`` and gives its length."""
        rest = memoryview(data)
        while rest:
            piece = rest[: BLOCK - len(self._block)]
            self._block += piece
            rest = rest[len(piece) :]
            if len(self._block) == BLOCK:
                self._submit()
        return len(data)

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
        from zlib_ng import zlib_ng

        if len(self._pending) == self._most_pending:
            self._out.write(self._pending.popleft().result())
        block = bytes(self._block)
        self._block.clear()
        self._crc = zlib_ng.crc32(block, self._crc)
        self._size += len(block)
        self._pending.append(self._pool.submit(_deflate, block, self._window))
        self._window = block[-_WINDOW:]

    def _finish(self) -> None:
        if self._block:
            self._submit()
        while self._pending:
            self._out.write(self._pending.popleft().result())
        self._out.write(_LAST_BLOCK + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))


def _deflate(block: bytes, window: bytes) -> bytes:
    from zlib_ng import zlib_ng

    # Always a new object: a reused one may give other bytes (zlib-ng issue 2100).
    deflater = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, -zlib_ng.MAX_WBITS, zdict=window)
    return deflater.compress(block) + deflater.flush(zlib_ng.Z_SYNC_FLUSH)
