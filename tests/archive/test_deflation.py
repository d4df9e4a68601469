from __future__ import annotations

import zlib
from random import Random

import pytest

from buildtools.archive.deflation import BLOCK, deflated

_END = b"\x03\x00"
_RANDOM = Random(7)
TEXT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(40_000))
NOISE = _RANDOM.randbytes(1 << 20)
# Like a jar: compressed files, each behind a header.
DENSE = b"".join(_RANDOM.randbytes(900) + b"PK\3\4 org/example/Class%d.class" % number * 2 for number in range(1300))


def inflated(stream: bytes) -> tuple[bytes, bool, bytes]:
    """What zlib reads of a raw deflate stream, whether that ends, and what it leaves."""
    reader = zlib.decompressobj(-15)
    return reader.decompress(stream) + reader.flush(), reader.eof, reader.unused_data


CONTENTS = {
    "none": b"",
    "one byte": b"a",
    "text": TEXT,
    "noise": NOISE,
    "dense": DENSE,
    "all": TEXT + NOISE + DENSE + TEXT,
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_block_is_read_back_and_does_not_end_the_stream(content: bytes) -> None:
    part = deflated(content)
    assert (content, False) == inflated(part)[:2]
    assert (content, True, b"") == inflated(part + _END)


def test_blocks_that_end_at_any_bit_can_be_joined() -> None:
    # Each of so many lengths ends somewhere else in its last byte.
    blocks = [(TEXT + NOISE)[start : start + 17 * number] for number, start in enumerate(range(0, 1_200_000, 4000))]
    assert (b"".join(blocks), True, b"") == inflated(b"".join(map(deflated, blocks)) + _END)


@pytest.mark.parametrize("end", [-1, 0, 1, 63, 64, 65])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_dense_content_is_read_back_whatever_its_length(pieces: int, end: int) -> None:
    content = DENSE[: 65535 * pieces + end]
    assert (content, True, b"") == inflated(deflated(content) + _END)
    # What follows is of another kind, so that the run ends within the block.
    assert (content + NOISE, True, b"") == inflated(deflated(content + NOISE) + _END)


def test_lengths_of_a_stored_block_that_are_content_mislead_nobody() -> None:
    fake = b"\x88\x13\x77\xec"
    content = DENSE[: 65535 - 400] + fake * 100 + DENSE[:64]
    assert (content, True, b"") == inflated(deflated(content) + _END)


def test_the_level_follows_from_the_content() -> None:
    assert len(TEXT) / 3 > len(deflated(TEXT))
    assert len(NOISE) + 100 > len(deflated(NOISE))
    # zlib's default makes it no smaller by more than a hundredth.
    block = DENSE[:BLOCK]
    assert len(zlib.compress(block)) * 1.01 > len(deflated(block))
