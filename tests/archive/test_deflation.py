from __future__ import annotations

import zlib
from random import Random

import pytest

from buildtools.archive.deflation import deflated

_END = b"\x03\x00"
_RANDOM = Random(7)
TEXT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(40_000))
NOISE = _RANDOM.randbytes(1 << 20)


def inflated(stream: bytes) -> tuple[bytes, bool, bytes]:
    """What zlib reads of a raw deflate stream, whether that ends, and what it leaves."""
    reader = zlib.decompressobj(-15)
    return reader.decompress(stream) + reader.flush(), reader.eof, reader.unused_data


CONTENTS = {"none": b"", "one byte": b"a", "text": TEXT, "noise": NOISE, "both": TEXT + NOISE}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_block_is_read_back_and_does_not_end_the_stream(content: bytes) -> None:
    part = deflated(content)
    assert (content, False) == inflated(part)[:2]
    assert (content, True, b"") == inflated(part + _END)


def test_blocks_that_end_at_any_bit_can_be_joined() -> None:
    # Each of so many lengths ends somewhere else in its last byte.
    blocks = [(TEXT + NOISE)[start : start + 17 * number] for number, start in enumerate(range(0, 1_200_000, 4000))]
    assert (b"".join(blocks), True, b"") == inflated(b"".join(map(deflated, blocks)) + _END)


def test_the_level_follows_from_the_content() -> None:
    assert len(TEXT) / 3 > len(deflated(TEXT))
    assert len(NOISE) + 100 > len(deflated(NOISE))
