"""How long ``invoke verify --all`` takes on many releases, and how that grows.

``python -m bench.verify [--signed] [--images N] [--rounds N] [VERSIONS ...]``: releases so many versions (default 10,
25 and 50) of 20 images each into a registry and a SeaweedFS on loopback. An image has six layers: one is its version's
own, one its name's, the others are everybody's. Then the whole command is run in a new process: with an empty cache, as
on a new machine, and with a warm one. CPU is that of the command, and that of the registry beside it, on the same
processors.
With ``--signed`` each image and each release is signed, and a ``verify_key`` demands it.

The target is 10 s for 1,000 intact images.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.archive.__main__ import s3_server
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.crypto.envelope import sealed
from buildtools.crypto.keys import SigningKey
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import DOCKER_CONFIG, DOCKER_LAYER, Descriptor, Manifest, digest_of, encode
from buildtools.image.registry.simple_signing import ImageSignature, add_signature, payload_of
from buildtools.release import Release, ReleasedImage, attestation_key, manifest_key
from buildtools.sandbox import process, registry
from buildtools.statement import Origin, statement_of
from buildtools.version import Version

SHARED = [b"layer %d" % number * 1000 for number in range(4)]


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.verify")
    options.add_argument("versions", nargs="*", type=int)
    options.add_argument("--images", type=int, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--signed", action="store_true")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as environment:
        root, (port,) = Path(name), process.free_ports(1)
        registry.start(root, port, environment=os.environ)
        try:
            print("  images  empty cache      CPU  registry     warm      CPU  registry")
            for count in chosen.versions or [10, 25, 50]:
                key = new_key(root) if chosen.signed else None
                print(row(root, f"127.0.0.1:{port}", environment, count, chosen.images, chosen.rounds, key), flush=True)
        finally:
            process.stop(registry.NAME, root)


def new_key(root: Path) -> SigningKey:
    """A fresh key, whose public half is in ``verify.pub``."""
    options = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(root / "sign.pem")]
    subprocess.run(["openssl", "genpkey", *options], check=True, capture_output=True)
    public = ["openssl", "pkey", "-in", str(root / "sign.pem"), "-pubout", "-out", str(root / "verify.pub")]
    subprocess.run(public, check=True)
    return SigningKey.read((root / "sign.pem").read_bytes(), "sign.pem", None)


def row(
    root: Path,
    host: str,
    environment: Mapping[str, str],
    versions: int,
    images: int,
    rounds: int,
    key: SigningKey | None,
) -> str:
    project = root / str(versions)
    project.mkdir()
    (project / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    configuration = f"buildtools:\n  registry: {host}\n  artifacts: s3://bench/{versions}\n"
    configuration += f"  verify_key: {root / 'verify.pub'}\n" if key else ""
    (project / "invoke.yaml").write_text(configuration)
    make_releases(host, environment, versions, images, key)
    variables = {**os.environ, **environment, "XDG_CACHE_HOME": str(project / "cache")}
    empty, warm = [], []
    for _ in range(rounds):
        shutil.rmtree(project / "cache", ignore_errors=True)
        empty.append(timed(root, project, variables))
        warm.append(timed(root, project, variables))
    figures = [statistics.median(column) for times in (empty, warm) for column in zip(*times, strict=True)]
    return f"{versions * images:>8} {figures[0]:>11.2f}s" + "".join(f" {figure:>7.2f}s" for figure in figures[1:])


def timed(root: Path, project: Path, variables: Mapping[str, str]) -> tuple[float, float, float]:
    """Seconds that one ``invoke verify --all`` took, and seconds of CPU time: its own and the registry's."""
    before, others, begun = resource.getrusage(resource.RUSAGE_CHILDREN), registry_seconds(root), time.perf_counter()
    command = [sys.executable, "-m", "invoke", "-r", str(project), "verify", "--all"]
    done = subprocess.run(command, capture_output=True, env=dict(variables), text=True)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, own, registry_seconds(root) - others


def registry_seconds(root: Path) -> float:
    """Seconds of CPU time that the registry has spent so far."""
    fields = Path(f"/proc/{process.pid(registry.NAME, root)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_releases(
    host: str, environment: Mapping[str, str], versions: int, images: int, key: SigningKey | None
) -> None:
    """Release that many versions, each of that many images."""
    store = S3Store.connect(f"s3://bench/{versions}", environment=environment)
    with closing(Registry(host)) as client, ThreadPoolExecutor(8) as pool:
        for minor in range(versions):
            version = Version(f"1.{minor}.0")
            make = partial(make_image, client, host, version=version.text, is_first=minor == 0)
            put = [pool.submit(make, f"image{number}") for number in range(images)]
            members = tuple(each.result() for each in put)
            release = Release(version.text, "0" * 40, "2026-11-29T08:00:00Z", members, ())
            if key:
                all(pool.map(partial(sign_image, client, key), members))
                statement = sealed(statement_of(release, Origin()), key)
                release = replace(release, attestation=digest_of(statement))
                store.create(attestation_key(release.attestation), statement, "application/json")
            store.create(manifest_key(version), release.manifest(), "application/json")


def sign_image(client: Registry, key: SigningKey, image: ReleasedImage) -> bool:
    """Sign an image as ``publish`` does."""
    payload = payload_of(image.registry, image.repository, image.digest)
    return add_signature(client, image.repository, image.digest, ImageSignature(payload, key.sign(payload)))


def make_image(client: Registry, host: str, name: str, version: str, *, is_first: bool) -> ReleasedImage:
    """An image of which one layer is its own, and one its version's. Only the first version sends the others."""
    common = [*SHARED, name.encode()]
    layers = [*common, f"{name} {version}".encode()]
    return put_image(client, host, name, version, layers, () if is_first else common)


def put_image(
    client: Registry, host: str, repository: str, version: str, layers: list[bytes], present: Collection[bytes] = ()
) -> ReleasedImage:
    """An image as a release has it, with the last part of its repository as its name; it has the ``present`` layers."""
    name = repository.rpartition("/")[2]
    rootfs = {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}
    labels = {"version": version, "name": name}
    config = encode({"architecture": "amd64", "os": "linux", "config": {"Labels": labels}, "rootfs": rootfs})
    parts = [
        Descriptor(kind, digest_of(blob) if blob in present else client.put_blob(repository, blob), len(blob))
        for kind, blob in ((DOCKER_CONFIG, config), *((DOCKER_LAYER, layer) for layer in layers))
    ]
    digest = client.put_manifest(repository, version, Manifest.make(parts[0], parts[1:]))
    return ReleasedImage(name, host, repository, version, digest)


if __name__ == "__main__":
    main()
