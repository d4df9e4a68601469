"""How long it takes to take a release's images over into another namespace of one registry, beside what people use.

``python -m bench.promote [--rounds N] [--images N] [--milliseconds N]``: releases so many images (default 20) without
an archive into a registry and a SeaweedFS on loopback; with ``--milliseconds`` the registry is so far away, each way.
An image has six layers, of which four are everybody's, with 20 MB together. Then ``skopeo copy`` one by one and ``crane
copy`` four at a time take turns with ``invoke promote``, each into a namespace that nobody has used; ours also looks at
all that it takes over, before and after, and writes the release there. ``script/unpacked`` brings crane where it is not
on the path; without skopeo that is left out. Compare ratios, not seconds: the first is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path

from bench.archive.__main__ import compare, run, s3_server
from bench.distance import distance
from bench.verify.__main__ import put_image
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.image.registry.client import Registry
from buildtools.release import Release, manifest_key
from buildtools.sandbox import process, registry
from buildtools.version import Version

ROOT = Path(__file__).parents[2]
VERSION = Version("1.0.0")
SHARED = [random.Random(number).randbytes(5 << 20) for number in range(4)]


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.promote")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--images", type=int, default=20)
    options.add_argument("--milliseconds", type=float, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as environment:
        root, (port,) = Path(name), process.free_ports(1)
        registry.start(root, port, environment=os.environ)
        try:
            with distance(port, chosen.milliseconds) if chosen.milliseconds else nullcontext(port) as reached:
                host = f"127.0.0.1:{reached}"
                names = release(host, environment, chosen.images)
                print(f"{chosen.images} images, {os.cpu_count()} cores, median of {chosen.rounds} rounds")
                compare("promote within one registry", peers(root, host, names, environment), root, chosen.rounds)
        finally:
            process.stop(registry.NAME, root)


def peers(root: Path, host: str, names: list[str], environment: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    crane_program = shutil.which("crane") or unpacked_crane()

    def skopeo() -> None:
        target = f"skopeo{time.monotonic_ns()}"
        for name in names:
            copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
            run([*copy, f"docker://{host}/team/{name}:1.0.0", f"docker://{host}/{target}/{name}:1.0.0"])

    def crane() -> None:
        target = f"crane{time.monotonic_ns()}"
        copy = f"{crane_program} copy --insecure {host}/team/{{}}:1.0.0 {host}/{target}/{{}}:1.0.0 2>/dev/null"
        run(["sh", "-c", f"printf '%s\\n' {' '.join(names)} | xargs -P4 -I{{}} sh -c '{copy}'"])

    def ours() -> None:
        target = f"ours{time.monotonic_ns()}"
        (root / "tasks.py").write_text("from buildtools.tasks import namespace\n")
        (root / "invoke.yaml").write_text(
            f"buildtools: {{registry: '{host}', namespace: team, artifacts: 's3://bench/team', target: {{production: "
            f"{{registry: '{host}', namespace: {target}, artifacts: 's3://bench/{target}'}}}}}}\n"
        )
        variables = {**os.environ, **environment, "XDG_CACHE_HOME": str(root / "cache")}
        command = [sys.executable, "-m", "invoke", "-r", str(root), "promote", VERSION.text, "--to", "production"]
        # What it says would stand between the figures.
        program = subprocess.run(command, check=False, env=variables, capture_output=True, text=True)
        if program.returncode:
            raise SystemExit(program.stderr)

    one_by_one = {"skopeo copy, one by one": skopeo} if shutil.which("skopeo") else {}
    return {**one_by_one, "crane copy, four at a time": crane, "invoke promote": ours}


def unpacked_crane() -> str:
    """Debian 12 brings none, a newer one does."""
    command = [str(ROOT / "script/unpacked"), "sid", "crane"]
    folder = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return f"{folder}/usr/bin/crane"


def release(host: str, environment: Mapping[str, str], count: int) -> list[str]:
    """Release that many images; their names."""
    names = [f"image{number}" for number in range(count)]
    with closing(Registry(host)) as client:
        images = tuple(
            put_image(client, host, f"team/{name}", VERSION.text, [*SHARED, name.encode() * 10_000, name.encode() * 9])
            for name in names
        )
    manifest = Release(VERSION.text, "0" * 40, "2026-11-29T08:00:00Z", images, ()).manifest()
    store = S3Store.connect("s3://bench/team", environment=environment)
    store.create(manifest_key(VERSION), manifest, "application/json")
    return names


if __name__ == "__main__":
    main()
