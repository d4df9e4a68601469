"""Compress blocks of bytes separately, as parts of one deflate stream (RFC 1951).

libdeflate is fast, and gives the same bytes on every CPU, but it only makes complete streams: their last block says so
in its first bit. To continue the stream, that bit must be cleared, and the end padded to a whole byte by an empty
stored block, which readers skip. Neither position is known from outside: blocks end at any bit and have no length.
zlib's ``inflate`` stops at each block (``Z_BLOCK``) and reports the position; that takes a sixth of the time that
compressing does.

    block, block, …, 1 last block, 0 to 7 bits    the output of libdeflate
    block, block, …, 0 last block, 000, 0 to 7 bits, 00 00 FF FF    the result

Jars are compressed already, so a small sample of each piece decides what is done with it. What deflate does not make
smaller is stored. What it makes only a little smaller is compressed at the fastest level. There libdeflate begins a
block every :data:`_PIECE` bytes. So noise that is appended begins a block too, and that one is stored. A stored block
has its length in front of its bytes, so its start is found from the end, without inflating anything; then the noise is
cut off.

    block, block, …, 1 00, 0 to 7 bits, length, a few bytes and noise    the output of libdeflate
    block, block, …, 0 00, 0 to 7 bits, length, a few bytes    the result
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import cache, partial
from itertools import groupby
from typing import Any

from buildtools import BuildToolsError

# libdeflate is fastest at level 1. Level 5 compresses like gzip -6, in a third of the time.
_QUICK, _THOROUGH = 1, 5
# The most that a stored block holds, and the length of libdeflate's blocks at level 1.
_PIECE = 65535
# A block there may be longer by the end of a match.
_OVERLAP = 64
# The least that libdeflate begins another block for.
_NOISE = hashlib.shake_128(b"").digest(5000)
# A sample of a piece: so many slices of so many bytes, in even distances.
_SLICES, _SLICE = 5, 1 << 10
_HARDLY_SMALLER = 0.9
# What is best compressed at once.
BLOCK = 16 * _PIECE + _OVERLAP

# https://zlib.net/manual.html
_Z_BLOCK = 5
_AT_BLOCK_END, _IN_LAST_BLOCK, _UNUSED_BITS = 128, 64, 7
_RAW = -15
_CHUNK = 64 << 10


class _Kind(Enum):
    """How much smaller bytes can be made."""

    TEXT = auto()
    DENSE = auto()
    INCOMPRESSIBLE = auto()


class _Stream(ctypes.Structure):
    """``z_stream`` of zlib.h."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


def codec() -> bytes:
    """An identifier of everything that determines the result of :func:`deflated`, for caches."""
    import deflate

    numbers = (_QUICK, _THOROUGH, _PIECE, _OVERLAP, len(_NOISE), _SLICES, _SLICE, _HARDLY_SMALLER)
    return f"deflate {deflate.__version__}, {numbers}".encode()


def deflated(block: bytes) -> bytes:
    """A block as part of a deflate stream that starts and ends at whole bytes, and does not end the stream.

    :raises BuildToolsError: if this machine has no zlib.
    """
    compress: dict[_Kind, Callable[[memoryview], bytes | bytearray]] = {
        _Kind.TEXT: partial(_open_stream, level=_THOROUGH),
        _Kind.DENSE: _dense_stream,
        _Kind.INCOMPRESSIBLE: _stored_blocks,
    }
    view, start, parts = memoryview(block), 0, []
    for kind, end in _runs(view):
        parts.append(compress[kind](view[start:end]))
        start = end
    return b"".join(parts)


def _runs(block: memoryview) -> Iterator[tuple[_Kind, int]]:
    """The ends of the runs of one kind that a block consists of."""
    starts = range(0, max(1, len(block) - _OVERLAP), _PIECE)
    kinds = [_kind(block[start : start + _PIECE]) for start in starts]
    for kind, run in groupby(enumerate(kinds, 1), lambda piece: piece[1]):
        count = max(number for number, _ in run)
        if count == len(kinds):
            yield kind, len(block)
        else:
            # Whatever follows, a few bytes of it do not matter.
            yield kind, count * _PIECE + (_OVERLAP if kind is _Kind.DENSE else 0)


def _kind(piece: memoryview) -> _Kind:
    import deflate

    distance = (len(piece) - _SLICE) // (_SLICES - 1)
    sample: bytes | memoryview = piece
    if distance > _SLICE:
        sample = b"".join(piece[start : start + _SLICE] for start in range(0, _SLICES * distance, distance))
    size = len(deflate.deflate_compress(sample, _QUICK))
    if size >= len(sample):
        return _Kind.INCOMPRESSIBLE
    return _Kind.DENSE if size > _HARDLY_SMALLER * len(sample) else _Kind.TEXT


def _stored_blocks(run: memoryview) -> bytes:
    pieces = [run[start : start + _PIECE] for start in range(0, len(run), _PIECE)]
    return b"".join(part for piece in pieces for part in (b"\0", _lengths(len(piece)), piece))


def _lengths(size: int) -> bytes:
    """A stored block's LEN and NLEN (RFC 1951, 3.2.4)."""
    return size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")


def _open_stream(run: memoryview, level: int) -> bytes | bytearray:
    """A stream of a run that does not end, at whole bytes; where its last block is, inflating tells."""
    import deflate

    data = deflate.deflate_compress(run, level)
    start, end = _last_block(data)
    data[start // 8] &= ~(1 << start % 8)
    # A stored block begins with three zero bits, and so does the padding of the last byte.
    if 8 * len(data) - end < 3:
        data.append(0)
    data += _lengths(0)
    return data


def _dense_stream(run: memoryview) -> bytes:
    # The rest is as many whole blocks as possible, and what may overlap.
    count = max(0, len(run) - _OVERLAP) // _PIECE
    first = len(run) - (count * _PIECE + _OVERLAP if count else 0)
    streams = [_open_stream(run[:first], _QUICK)] if first else []
    return b"".join((*streams, _noise_free_stream(run[first:])) if count else streams)


def _noise_free_stream(run: memoryview) -> bytes | bytearray:
    """The same of whole pieces and :data:`_OVERLAP` bytes more, at level 1, and mostly without inflating."""
    import deflate

    noisy = b"".join((run, _NOISE))
    data = deflate.deflate_compress(noisy, _QUICK)
    for size in range(len(_NOISE) + _OVERLAP, len(_NOISE) - 1, -1):
        header = len(data) - size - 4
        # These lengths could also stand inside of a stored block that is longer; then they stand in its content.
        lengths = _lengths(size)
        if data[header:-size] == lengths != noisy[-size - 4 : -size] and data[-size:] == noisy[-size:]:
            # Before the lengths are zeros only, and before those the bit that says that it is the last block.
            place = len(data[:header].rstrip(b"\0")) - 1
            data[place] ^= 1 << data[place].bit_length() - 1
            left = size - len(_NOISE)
            data[header:] = _lengths(left) + run[len(run) - left :]
            return data
    return _open_stream(run, _QUICK)


def _last_block(data: bytearray) -> tuple[int, int]:
    """Where the last block of a deflate stream starts and ends, in bits."""
    zlib, stream = _zlib(), _Stream()
    place = ctypes.byref(stream)
    out = ctypes.create_string_buffer(_CHUNK)
    start = 0
    _check(zlib.inflateInit2_(place, _RAW, zlib.zlibVersion(), ctypes.sizeof(stream)))
    try:
        source = (ctypes.c_char * len(data)).from_buffer(data)
        stream.next_in, stream.avail_in = ctypes.addressof(source), len(data)
        while True:
            stream.next_out, stream.avail_out = ctypes.addressof(out), _CHUNK
            _check(zlib.inflate(place, _Z_BLOCK))
            position = 8 * (len(data) - stream.avail_in) - (stream.data_type & _UNUSED_BITS)
            if stream.data_type & _AT_BLOCK_END:
                if stream.data_type & _IN_LAST_BLOCK:
                    return start, position
                start = position
    finally:
        zlib.inflateEnd(place)


def _check(status: int) -> None:
    if status:
        raise BuildToolsError(f"zlib cannot read what libdeflate wrote (error {status})", "report this as a bug")


@cache
def _zlib() -> Any:
    """The system's zlib, which every Python of a Linux distribution is linked to."""
    try:
        zlib = ctypes.CDLL("libz.so.1")
    except OSError:
        raise BuildToolsError("zlib (libz.so.1) is missing on this machine", "install zlib (Debian: zlib1g)") from None
    zlib.zlibVersion.restype = ctypes.c_char_p
    zlib.inflateInit2_.argtypes = (ctypes.POINTER(_Stream), ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
    return zlib
