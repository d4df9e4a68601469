"""How long a release's archive takes from S3 to an unpacked folder, beside what people use today.

``python -m bench.fetch [--rounds N] [--megabytes N] [FOLDER]``: packs copies of FOLDER (default: all jars below
/usr/share/java, some 100 MB) that have so many megabytes together (default 1000), and releases that into a SeaweedFS
on loopback. Then ``aws s3 cp``, ``sha256sum -c`` and ``tar xzf``, one after the other, take turns with
``invoke fetch``. Compare ratios, not seconds: the first is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.archive.__main__ import compare, jars, run, s3_server
from buildtools.archive import distribution
from buildtools.archive.distribution import Archive, Distribution
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.release import Release, ReleasedArchive, manifest_key
from buildtools.version import Version

VERSION = Version("1.0.0")
EPOCH = 1_700_000_000


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.fetch")
    options.add_argument("folder", nargs="?", type=Path)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--megabytes", type=int, default=1000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as environment:
        scratch = Path(name)
        archive = packed(chosen.folder, scratch, chosen.megabytes)
        release(archive, scratch, environment)
        print(f"{archive.size / 1e6:.0f} MB, {os.cpu_count()} cores, median of {chosen.rounds} rounds")
        shutil.rmtree(scratch / "tree")
        compare("fetch", peers(archive, scratch, environment), scratch, chosen.rounds)


def packed(folder: Path | None, scratch: Path, megabytes: int) -> Archive:
    """An archive of files that have so many megabytes or more."""
    tree = scratch / "tree"
    source = folder or jars(scratch / "jars")
    size, count = sum(path.stat().st_size for path in source.rglob("*") if path.is_file()), 0
    while count * size < megabytes * 1e6:
        shutil.copytree(source, tree / str(count), symlinks=True)
        count += 1
    daemon = Distribution("daemon", tree, VERSION.archive_name("daemon"), VERSION.root_name("daemon"), is_archive=False)
    return distribution.save(daemon, EPOCH, scratch)


def release(archive: Archive, scratch: Path, environment: Mapping[str, str]) -> None:
    """Release the archive, without an image."""
    store = S3Store.connect("s3://bench", environment=environment)
    key = f"daemon/{archive.file_name}"
    path = scratch / archive.file_name
    store.upload(key, lambda out: out.write(path.read_bytes()), archive.checksums)
    member = ReleasedArchive("daemon", key, archive.size, archive.sha256, archive.checksums.composite)
    manifest = Release(VERSION.text, "0" * 40, "2026-11-29T08:00:00Z", (), (member,)).manifest()
    store.create(manifest_key(VERSION), manifest, "application/json")
    (scratch / "sums").write_text(f"{archive.sha256}  {scratch / 'peer.tgz'}\n")
    (scratch / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    (scratch / "invoke.yaml").write_text("buildtools:\n  artifacts: s3://bench\n")


def peers(archive: Archive, scratch: Path, environment: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    """The usual three programs, and ours; each unpacks into a folder that does not exist before."""
    variables = {**os.environ, **environment}

    def usual() -> None:
        fresh_folder(scratch / "peer")
        run(["aws", "s3", "cp", "--quiet", f"s3://bench/daemon/{archive.file_name}", scratch / "peer.tgz"], variables)
        run(["sha256sum", "--quiet", "-c", scratch / "sums"])
        run(["tar", "-C", scratch / "peer", "-xzf", scratch / "peer.tgz"])

    def ours() -> None:
        fresh_folder(scratch / "ours")
        run([sys.executable, "-m", "invoke", "-r", scratch, "fetch", VERSION.text, "--to", scratch / "ours"], variables)

    return {"aws s3 cp, sha256sum -c, tar xzf": usual, "invoke fetch": ours}


def fresh_folder(folder: Path) -> None:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


if __name__ == "__main__":
    main()
