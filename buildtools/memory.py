"""Memory for large blocks that come and go."""

from __future__ import annotations

import ctypes
from functools import cache

# https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# What malloc keeps at the end of a heap, and the size of the largest block that it takes from one: the most it allows.
_KEPT, _LARGEST = 64 << 20, 32 << 20


@cache
def keep_freed_blocks() -> None:
    """Make malloc keep what is freed for the next block, for as long as this process runs.

    By itself glibc gives a block of a megabyte back to the kernel, which clears each page of the next one: an eighth of
    the processor time of packing what has not changed.
    """
    # Only glibc has it.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
