"""How long a distribution takes to become an object in S3, beside what people use today.

``python -m bench.archive [--rounds N] [FOLDER]``: packs FOLDER (default: all jars below /usr/share/java, some 100 MB)
with ``tar czf``, ``tar | pigz`` and our own packer, sends the result to a SeaweedFS on loopback with boto3's
``upload_file``, ``aws s3 cp`` (where it is installed) and our own store, and does both at once. The peers take turns
within each round; every figure is the median of the rounds. Compare ratios, not seconds: the first of each group is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from buildtools.archive import distribution
from buildtools.archive.distribution import Distribution
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.sandbox import process, s3

EPOCH = 1_700_000_000


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.archive")
    options.add_argument("folder", nargs="?", type=Path)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as environment:
        scratch = Path(name)
        tree = chosen.folder or jars(scratch / "tree")
        size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
        print(f"{tree}: {size / 1e6:.0f} MB, {os.cpu_count()} cores, median of {chosen.rounds} rounds")
        groups = packing(tree, scratch), sending(tree, scratch, environment), publishing(tree, scratch, environment)
        for title, peers in zip(("pack", "send the .tgz to S3", "pack and send"), groups, strict=True):
            compare(title, peers, scratch, chosen.rounds)


def packing(tree: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    daemon = Distribution("daemon", tree, "ours.tgz", "daemon-1.0", is_archive=False)
    return {
        "tar czf": lambda: run(["tar", "-czf", scratch / "tar.tgz", "-C", tree.parent, tree.name]),
        "tar | pigz": lambda: run(["tar", "-I", "pigz", "-cf", scratch / "pigz.tgz", "-C", tree.parent, tree.name]),
        "buildtools": lambda: distribution.save(daemon, EPOCH, scratch),
    }


def sending(tree: Path, scratch: Path, environment: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    daemon = Distribution("daemon", tree, "send.tgz", "daemon-1.0", is_archive=False)
    archive = distribution.save(daemon, EPOCH, scratch)
    finished = Distribution("daemon", scratch / "send.tgz", "send.tgz", "daemon-1.0", is_archive=True)
    store = S3Store.connect("s3://bench", environment=environment)
    peers: dict[str, Callable[[], object]] = {
        "boto3 upload_file": lambda: boto3_upload(finished.source, environment),
        "buildtools": lambda: store.upload(
            fresh(), lambda out: distribution.write(finished, EPOCH, out), archive.checksums
        ),
    }
    if shutil.which("aws"):
        peers["aws s3 cp"] = lambda: aws_cp(finished.source, environment)
    return peers


def publishing(tree: Path, scratch: Path, environment: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    daemon = Distribution("daemon", tree, "both.tgz", "daemon-1.0", is_archive=False)
    store = S3Store.connect("s3://bench", environment=environment)

    def peer() -> None:
        run(["tar", "-czf", scratch / "both.tgz", "-C", tree.parent, tree.name])
        boto3_upload(scratch / "both.tgz", environment)

    def ours() -> None:
        archive = distribution.save(daemon, EPOCH, scratch)
        finished = Distribution("daemon", scratch / "both.tgz", "both.tgz", "daemon-1.0", is_archive=True)
        store.upload(fresh(), lambda out: distribution.write(finished, EPOCH, out), archive.checksums)

    return {
        "tar czf, then boto3 upload_file": peer,
        "buildtools": ours,
    }


def compare(title: str, peers: dict[str, Callable[[], object]], scratch: Path, rounds: int) -> None:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, work in peers.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            work()
            taken[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    print(f"\n{title:34} {'wall s':>8} {'ratio':>6} {'cpu s':>7}")
    reference = statistics.median(wall for wall, _ in next(iter(taken.values())))
    for name, times in taken.items():
        wall = statistics.median(wall for wall, _ in times)
        print(f"{name:34} {wall:8.2f} {wall / reference:6.2f} {statistics.median(cpu for _, cpu in times):7.2f}")
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
