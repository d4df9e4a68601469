"""How long a distribution takes to become an object in S3, beside what people use today.

``python -m bench.archive [--rounds N] [--megabytes N] [FOLDER]``: packs FOLDER (default: a daemon with its Java runtime
of 150 MB) with ``tar czf``, ``tar | pigz`` and our own packer, sends the result to a SeaweedFS on loopback with boto3's
``upload_file``, ``aws s3 cp`` (where it is installed) and our own store, and does both at once: everything new, and a
new version of what was packed before, when ours has a cache. The peers take turns within each round; every figure is
the median of the rounds. Compare ratios, not seconds: the first of each group is 1. CPU leaves out the server.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from buildtools.archive import distribution, segment_map
from buildtools.archive.checksums import PART, Sink
from buildtools.archive.distribution import Archive, Distribution
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.archive.segment_cache import SegmentCache
from buildtools.request_log import LOGGER
from buildtools.sandbox import process, s3

EPOCH = 1_700_000_000
SENT_SIZES: list[int] = []


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.archive")
    options.add_argument("folder", nargs="?", type=Path)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--megabytes", type=int, default=150)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as environment:
        scratch = Path(name)
        tree = chosen.folder or daemon_with_runtime(scratch / "tree", chosen.megabytes)
        size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
        print(f"{tree}: {size / 1e6:.0f} MB, {os.cpu_count()} cores, median of {chosen.rounds} rounds")
        groups = {
            "pack": packing(tree, scratch),
            "send the .tgz to S3": sending(tree, scratch, environment),
            "pack and send": publishing(tree, scratch, environment),
        }
        for title, peers in groups.items():
            compare(title, peers, scratch, chosen.rounds)


def packing(tree: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    return {
        "tar czf": lambda: run(["tar", "-czf", scratch / "tar.tgz", "-C", tree.parent, tree.name]),
        "tar | pigz": lambda: pigz(tree, scratch / "pigz.tgz"),
        "buildtools": lambda: pack(tree, scratch, "ours.tgz"),
        "buildtools, new version": new_version(tree, scratch, "again.tgz"),
    }


def pack(tree: Path, scratch: Path, file_name: str, version: str = "1.0", cache: SegmentCache | None = None) -> Archive:
    """Our archive of the tree."""
    daemon = Distribution("daemon", tree, file_name, f"daemon-{version}", is_archive=False)
    return distribution.save(daemon, EPOCH, scratch, cache=cache)


def new_version(tree: Path, scratch: Path, file_name: str) -> Callable[[], Archive]:
    """How we pack another version of a tree each time, with what the cache has of those before."""
    cache = SegmentCache(scratch / "segments")
    pack(tree, scratch, file_name, "0", cache)
    return lambda: pack(tree, scratch, file_name, str(time.monotonic_ns()), cache)


def pigz(tree: Path, file: Path) -> None:
    run(["tar", "-I", "pigz", "-cf", file, "-C", tree.parent, tree.name])


def sending(tree: Path, scratch: Path, environment: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    archive = pack(tree, scratch, "send.tgz")
    tgz = scratch / archive.file_name
    store = S3Store.connect("s3://bench", environment=environment)
    peers: dict[str, Callable[[], object]] = {
        "boto3 upload_file": lambda: boto3_upload(tgz, environment),
        "buildtools": lambda: store.upload(fresh(), partial(read_into, tgz), archive.checksums),
    }
    if shutil.which("aws"):
        peers["aws s3 cp"] = lambda: aws_cp(tgz, environment)
    return peers


def publishing(tree: Path, scratch: Path, environment: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    store = S3Store.connect("s3://bench", environment=environment)
    tgz = scratch / "both.tgz"
    again = new_version(tree, scratch, "both.tgz")
    requests = logging.getLogger(LOGGER)
    requests.setLevel(logging.DEBUG)
    requests.addFilter(count_sent)
    send: Callable[[Path, Mapping[str, str]], None] = aws_cp if shutil.which("aws") else boto3_upload
    sender = "aws s3 cp" if shutil.which("aws") else "boto3 upload_file"

    def usual(compress: Callable[[], object]) -> None:
        compress()
        send(tgz, environment)

    def ours(archive: Archive) -> None:
        store.upload(fresh(), partial(read_into, tgz), archive.checksums)

    def ours_again(archive: Archive) -> None:
        key, last = fresh(), segment_map.last_map(store, "bench")
        basis = segment_map.basis_of(last, archive.segments)
        store.upload(key, partial(read_into, tgz), archive.checksums, basis=basis)
        segment_map.remember(store, "bench", last, key, archive.segments)

    # What there is of the version before.
    ours_again(again())

    return {
        f"tar czf, then {sender}": lambda: usual(lambda: run(["tar", "-czf", tgz, "-C", tree.parent, tree.name])),
        f"tar | pigz, then {sender}": lambda: usual(lambda: pigz(tree, tgz)),
        "buildtools": lambda: ours(pack(tree, scratch, "both.tgz")),
        "buildtools, new version": lambda: ours_again(again()),
    }


def read_into(file: Path, out: Sink) -> None:
    """What ``publish`` does with an archive that is made."""
    with file.open("rb") as stream:
        while chunk := stream.read(PART):
            out.write(chunk)


def count_sent(record: logging.LogRecord) -> bool:
    """Add up what our requests send, as they are logged."""
    if match := re.search(r", (\d+) bytes sent", record.getMessage()):
        SENT_SIZES.append(int(match[1]))
    return False


def compare(title: str, peers: dict[str, Callable[[], object]], scratch: Path, rounds: int) -> None:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    sent: dict[str, int] = {}
    for _ in range(rounds):
        for name, work in peers.items():
            SENT_SIZES.clear()
            wall, cpu = time.perf_counter(), cpu_seconds()
            work()
            sent[name] = sum(SENT_SIZES)
            taken[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    print(f"\n{title:34} {'wall s':>8} {'ratio':>6} {'cpu s':>7}")
    reference = statistics.median(wall for wall, _ in next(iter(taken.values())))
    for name, times in taken.items():
        wall = statistics.median(wall for wall, _ in times)
        share = f"   {sent[name] / 1e6:.1f} MB sent" if sent[name] else ""
        print(f"{name:34} {wall:8.2f} {wall / reference:6.2f} {statistics.median(cpu for _, cpu in times):7.2f}{share}")
    if title == "pack":
        for file in ("tar.tgz", "pigz.tgz", "ours.tgz"):
            print(f"{file:34} {(scratch / file).stat().st_size / 1e6:8.1f} MB")


def jars(folder: Path) -> Path:
    """A folder like an installed daemon's: every jar of the machine, once."""
    (folder / "lib").mkdir(parents=True)
    for jar in Path("/usr/share/java").glob("*.jar"):
        if not jar.is_symlink():
            shutil.copyfile(jar, folder / "lib" / jar.name)
    return folder


def daemon_with_runtime(folder: Path, megabytes: int) -> Path:
    """A daemon with so many megabytes: its jars, what there is of the machine's Java runtime, and both once more."""
    missing, number = megabytes * 10**6, 0
    modules = next(iter(sorted(Path("/usr/lib/jvm").glob("*/lib/modules"))), None)
    while missing > 0:
        copy = folder / str(number) if number else folder
        jars(copy)
        missing -= sum(path.stat().st_size for path in (copy / "lib").iterdir())
        if missing > 0 and modules:
            (copy / "runtime").mkdir()
            with modules.open("rb") as source:
                missing -= (copy / "runtime/modules").write_bytes(source.read(missing))
        number += 1
    return folder


def boto3_upload(file: Path, environment: Mapping[str, str]) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    client.upload_file(str(file), "bench", fresh())
    client.close()


def aws_cp(file: Path, environment: Mapping[str, str]) -> None:
    run(["aws", "s3", "cp", "--quiet", file, f"s3://bench/{fresh()}"], {**os.environ, **environment})


def fresh() -> str:
    return f"{time.monotonic_ns()}.tgz"


def run(command: list[str | Path], environment: Mapping[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=environment)


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def s3_server(folder: Path) -> Iterator[Mapping[str, str]]:
    ports, keys = s3.Ports.free(), s3.Keys.fresh()
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    s3.start(folder, ports, keys, environment={**os.environ, "PATH": programs})
    try:
        s3.create_bucket(ports, "bench")
        yield s3.aws_environment(ports, keys)
    finally:
        process.stop(s3.NAME, folder)


if __name__ == "__main__":
    main()
