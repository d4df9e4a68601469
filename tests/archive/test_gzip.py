from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from random import Random

import pytest

from buildtools.archive.deflation import BLOCK
from buildtools.archive.gzip import GzipWriter
from buildtools.archive.segment_cache import SegmentCache

# Compressible and not, in turns, and no whole number of blocks; only random() is the same in every Python.
_RANDOM = Random(1)
SAMPLE = b"".join(
    bytes(int(_RANDOM.random() * 256) for _ in range(5000)) + b"%d bottles on the wall\n" % n * 700 for n in range(220)
)
# Like a jar: hardly compressible.
DENSE = b"".join(
    bytes(int(_RANDOM.random() * 256) for _ in range(900)) + b"PK org/example/A.class" * 2 for _ in range(300)
)

GOLDEN = "fc901229370df40b3c0c82e6527b0661897fd1f4e29e0536b685bf0ac8410f66"

# Reads all that GZIPInputStream gives of a stream that, as a socket's may, never says how much is at hand.
GUNZIP_JAVA = """
import java.io.*;
import java.util.zip.GZIPInputStream;
public class Gunzip {
    public static void main(String[] arguments) throws Exception {
        InputStream shy = new FilterInputStream(System.in) { public int available() { return 0; } };
        new GZIPInputStream(shy).transferTo(System.out);
    }
}
"""


def compressed(data: bytes, threads: int = 0, piece: int = 1 << 30) -> bytes:
    out = io.BytesIO()
    with GzipWriter(out, threads) as writer:
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
    return out.getvalue()


def compressed_segments(*segments: bytes, cache: SegmentCache | None = None) -> bytes:
    out = io.BytesIO()
    with GzipWriter(out, cache=cache) as writer:
        for segment in segments:
            writer.begin_segment()
            writer.write(segment)
    return out.getvalue()


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, len(SAMPLE)])
def test_gzip_reads_back_what_was_written(size: int) -> None:
    done = subprocess.run(["gzip", "-dc"], input=compressed(SAMPLE[:size]), capture_output=True, check=True)
    assert SAMPLE[:size] == done.stdout


def test_the_bytes_depend_neither_on_threads_nor_on_the_size_of_writes() -> None:
    once = compressed(SAMPLE, threads=1)
    assert once == compressed(SAMPLE, threads=5)
    assert once == compressed(SAMPLE, threads=2, piece=99_991)


def test_the_bytes_are_those_of_every_other_machine() -> None:
    # Found the same on aarch64, and on x86-64 with the instruction sets of Core 2, Nehalem, Haswell and AVX-512.
    # Another libdeflate may give others: then an old archive cannot be made again from its sources, which the changelog
    # has to say.
    assert GOLDEN == hashlib.sha256(compressed(SAMPLE + DENSE)).hexdigest()


def test_segments_make_one_member() -> None:
    segments = [SAMPLE[:1000], SAMPLE[1000 : 3 * BLOCK], b"", SAMPLE[3 * BLOCK :]]
    done = subprocess.run(["gzip", "-dc"], input=compressed_segments(*segments), capture_output=True, check=True)
    assert SAMPLE == done.stdout


def test_what_becomes_of_a_segment_does_not_depend_on_what_stands_before_it() -> None:
    segment = SAMPLE[: 2 * BLOCK + 7]
    alone = compressed_segments(segment)[10:-10]
    assert alone in compressed_segments(b"another header", segment, SAMPLE)


def test_the_bytes_are_the_same_with_and_without_a_cache(tmp_path: Path) -> None:
    cache = SegmentCache(tmp_path)
    segments = SAMPLE[:1000], SAMPLE[1000:]
    first, second = (compressed_segments(*segments, cache=cache) for _ in range(2))
    assert (compressed_segments(*segments),) * 2 == (first, second)
    # All whole blocks, and nothing that is quicker to compress than to read.
    assert -(-len(segments[1]) // BLOCK) == len(list(tmp_path.iterdir()))


def test_the_header_has_neither_time_nor_name() -> None:
    header = compressed(SAMPLE)[:10]
    assert b"\x1f\x8b\x08" == header[:3]
    assert (0, bytes(4)) == (header[3], header[4:8])


def test_it_is_one_member_for_readers_that_stop_after_the_first() -> None:
    plain = io.BytesIO()
    with tarfile.open(mode="w", fileobj=plain) as tar:
        entry = tarfile.TarInfo("sample")
        entry.size = len(SAMPLE)
        tar.addfile(entry, io.BytesIO(SAMPLE))
    with tarfile.open(mode="r|gz", fileobj=io.BytesIO(compressed(plain.getvalue()))) as tar:
        found = tar.next()
        assert found is not None
        content = tar.extractfile(found)
        assert content is not None
        assert SAMPLE == content.read()


def test_java_reads_all_of_it_from_a_socket_like_stream(tmp_path: Path) -> None:
    if not shutil.which("java") and not os.environ.get("CI"):
        pytest.skip("no java here")
    (tmp_path / "Gunzip.java").write_text(GUNZIP_JAVA)
    done = subprocess.run(
        ["java", "-Xshare:auto", tmp_path / "Gunzip.java"], input=compressed(SAMPLE), capture_output=True, check=True
    )
    assert SAMPLE == done.stdout


def test_it_is_hardly_larger_than_what_gzip_makes() -> None:
    reference = subprocess.run(["gzip", "-6"], input=SAMPLE, capture_output=True, check=True).stdout
    assert len(compressed(SAMPLE)) < 1.01 * len(reference)


def test_memory_does_not_grow_with_the_archive() -> None:
    program = """
import os, re
from buildtools.archive.gzip import GzipWriter

def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1])

class Nowhere:
    def write(self, data):
        pass

block = os.urandom(1 << 20)
before = peak()
with GzipWriter(Nowhere(), 8) as writer:
    for _ in range(400):
        writer.write(block)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    # A quarter of it: eight threads on a busy machine leave blocks of many sizes behind.
    assert int(done.stdout) < 100_000


def test_a_failure_leaves_no_whole_archive() -> None:
    out = io.BytesIO()

    def interrupted() -> None:
        with GzipWriter(out) as writer:
            writer.write(SAMPLE)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    with pytest.raises(EOFError):
        gzip.decompress(out.getvalue())


def test_a_sink_that_fails_ends_the_writing_with_its_error() -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            if self.tell():
                raise OSError(28, "No space left on device")
            return super().write(data)  # type: ignore[arg-type]  # BytesIO's own argument

    with pytest.raises(OSError, match="No space left"), GzipWriter(Full()) as writer:
        writer.write(SAMPLE * 8)
