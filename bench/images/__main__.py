"""How long it takes to build, tag and push a tree of images, beside what people use today.

``python -m bench.images [--folders N] [--rounds N] [--base MB] [--docker PROGRAM] [--bake PROGRAM]``: N image folders
in three levels with 4 MB of context each, on a base image that is next to nothing, or of that size. The peers (a shell
loop; four at a time per level; Gradle's Exec tasks with a warm daemon; ``docker buildx bake``, which ``script/engines
buildx`` fetches) and ``invoke push`` take turns within each round, each with a repository and a registry namespace of
its own, so that nobody finds what another has built. Every figure is the median of the rounds; compare ratios, not
seconds. After every run the registry is asked whether what was measured is right.

``--against-itself N,M`` measures, without peers, how the time of ``invoke push`` grows with the folders.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import io
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.docker import docker_with_buildkit
from bench.images import peers
from bench.images.tree import Tree, make_tree
from buildtools.image.engine.client import Engine as Connection
from buildtools.image.registry.client import Registry
from buildtools.sandbox import base, process
from buildtools.sandbox import registry as registries
from buildtools.sandbox.engine import EngineAddress

ROOT = Path(__file__).parents[2]
CONTEXT = 4_000_000
SCENARIOS = {
    "everything new": 0.85,
    "nothing changed": 0.15,
    "new version, no image changed": 0.2,
    "one leaf changed": 0.6,
}
OURS = "buildtools"
# The first engine whose BuildKit knows targets that are built from one another.
_LINKS = 23
FRESH = "new version, fresh agent without an engine"


@dataclass(frozen=True)
class Measured:
    """One run. ``memory`` is the most that its processes held, in bytes."""

    seconds: float
    memory: int


class Arena:
    """The registry, the engine and the scratch folder that everybody works with."""

    def __init__(self, scratch: Path, host: str, docker: str, base_size: int) -> None:
        # As it is where the tool is installed; Invoke keeps Python from writing down what it compiles of a tasks file.
        compileall.compile_dir(ROOT / "buildtools", quiet=1)
        self.scratch = scratch
        self.host = host
        self.docker = docker
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("INVOKE_")},
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(scratch / "cache"),
            "DOCKER_BUILDKIT": "1",
            "BUILDX_CONFIG": str(scratch / "buildx"),
        }
        engine = EngineAddress.named(os.environ)
        self.base = f"{host}/bench/base:1"
        local = base.busybox(engine, environment=os.environ)
        with contextlib.closing(Connection.connect(os.environ)) as connection:
            self.engine_major = int(connection.api.version()["Version"].partition(".")[0])
        folder = scratch / "base"
        folder.mkdir()
        (folder / "Dockerfile").write_text(f"FROM {local}\n" + "COPY content /opt/content\n" * bool(base_size))
        with (folder / "content").open("wb") as content:
            for _ in range(base_size):
                content.write(secrets.token_bytes(500_000) + secrets.token_hex(250_000).encode())
        self.sh(f"{docker} build -q -t {self.base} {folder} && {docker} push -q {self.base}", scratch)

    def tree(self, name: str, count: int, size: int) -> Tree:
        """A new repository, and namespace, that nobody has seen."""
        salt = secrets.token_hex(8)
        root = self.scratch / f"{name.replace(' ', '-')}-{salt}"
        return make_tree(root, count, size * count, salt, self.base, f"{self.host}/bench-{salt}")

    def sh(self, script: str, folder: Path, **variables: str) -> Measured:
        """Run a script; what it took."""
        return self.run(["sh", "-c", script], folder, **variables)

    def run(self, command: list[str], folder: Path, **variables: str) -> Measured:
        """Run a program; what it took."""
        began = time.perf_counter()
        with (self.scratch / "output").open("w+") as output:
            program = subprocess.Popen(
                command, cwd=folder, env={**self.environment, **variables}, stdout=output, stderr=output
            )
            _, status, usage = os.wait4(program.pid, 0)
            # It is not there to be waited for any more.
            program.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - began
            if status:
                output.seek(0)
                raise SystemExit(f"{command} in {folder} failed:\n{output.read()[-4000:]}")
        return Measured(seconds, usage.ru_maxrss * 1024)

    def ours(self, folder: Path, *arguments: str, **variables: str) -> Measured:
        """Run one of our tasks."""
        return self.run([sys.executable, "-m", "invoke", *arguments], folder, **variables)

    def check(self, tree: Tree, version: str, stamped: bool) -> None:
        """Whether the registry has every image of the version, with the right content in it."""
        client = Registry(self.host)
        with contextlib.closing(client):
            for name in tree.names:
                repository = f"{tree.prefix.partition('/')[2]}/{name}"
                manifest = client.get_manifest(repository, version)
                if manifest is None:
                    raise SystemExit(f"{repository}:{version} is not in the registry")
                config = json.loads(client.get_blob(repository, manifest.config.digest) or b"{}")
                label = (config["config"].get("Labels") or {}).get("org.opencontainers.image.version")
                if stamped and label != version:
                    raise SystemExit(f"{repository}:{version} says {label}")
                # The context's layer is the last but one: the last is that of RUN.
                layer = client.get_blob(repository, manifest.layers[-2].digest) or b""
                with tarfile.open(fileobj=io.BytesIO(zlib.decompress(layer, 31))) as archive:
                    salt = archive.extractfile(f"opt/{name}/salt")
                    if salt is None or salt.read().decode() != tree.salt(name):
                        raise SystemExit(f"{repository}:{version} has other content")


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.images")
    options.add_argument("--folders", type=int, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--base", type=int, default=0, metavar="MB", help="how large the base image is")
    options.add_argument("--docker", default=docker_with_buildkit())
    options.add_argument("--bake", default="", help="a docker-buildx program; by itself what is there")
    options.add_argument("--peers", default="", help="only these, by a part of their names, separated by commas")
    options.add_argument("--against-itself", default="", metavar="N,M")
    chosen = options.parse_args()
    with arena(chosen.docker, chosen.base) as ring:
        if chosen.against_itself:
            growth(ring, [int(count) for count in chosen.against_itself.split(",")], chosen.rounds)
        else:
            buildx = chosen.bake or peers.find_buildx(chosen.docker, os.environ)
            compare(ring, buildx, chosen.folders, chosen.rounds, [part for part in chosen.peers.split(",") if part])


def compare(ring: Arena, buildx: str, folders: int, rounds: int, only: list[str]) -> None:
    """Print how everybody does in every scenario."""
    gradle_home = ring.scratch / "gradle"
    contestants: dict[str, Callable[[Tree], Callable[[], Measured]]] = {
        "shell loop": lambda tree: scripted(ring, tree, peers.shell_loop(tree, ring.docker)),
        "xargs -P4 per level": lambda tree: scripted(ring, tree, peers.xargs_per_level(tree, ring.docker)),
    }
    if shutil.which("gradle"):
        ring.run(["gradle", "--offline", "-q", "-g", str(gradle_home), "help"], ring.scratch)
        contestants["Gradle Exec tasks"] = lambda tree: scripted(
            ring, tree, peers.gradle(tree, ring.docker, gradle_home)
        )
    if buildx:
        linked = ring.engine_major >= _LINKS
        contestants["docker buildx bake"] = lambda tree: scripted(ring, tree, peers.bake(tree, buildx, linked=linked))
    contestants = {name: start for name, start in contestants.items() if not only or any(part in name for part in only)}
    contestants[OURS] = lambda tree: pushing(ring, tree)
    results: dict[str, dict[str, list[Measured]]] = {}
    try:
        for _ in range(rounds):
            for name, start in contestants.items():
                tree = ring.tree(name, folders, CONTEXT)
                for scenario, measured in play(ring, tree, start(tree), ours=name == OURS):
                    results.setdefault(scenario, {}).setdefault(name, []).append(measured)
                clean(ring, tree)
    finally:
        if gradle_home.exists():
            ring.run(["gradle", "--offline", "-q", "-g", str(gradle_home), "--stop"], ring.scratch)
    show(results, folders, rounds)


def scripted(ring: Arena, tree: Tree, script: str) -> Callable[[], Measured]:
    """A peer's run."""
    return lambda: ring.sh(script, tree.root)


def pushing(ring: Arena, tree: Tree) -> Callable[[], Measured]:
    """Our run."""
    return lambda: ring.ours(tree.root, "push")


def play(ring: Arena, tree: Tree, run: Callable[[], Measured], *, ours: bool) -> Iterator[tuple[str, Measured]]:
    """Every scenario in turn, each checked."""

    def checked(scenario: str, version: str, measure: Callable[[], Measured] = run) -> tuple[str, Measured]:
        # What somebody else wrote before, or this repository's making, is not to be waited for now.
        os.sync()
        measured = measure()
        ring.check(tree, version, stamped=ours)
        return scenario, measured

    names = iter(SCENARIOS)
    yield checked(next(names), "1.0.0")
    yield checked(next(names), "1.0.0")
    tree.release("1.1.0")
    yield checked(next(names), "1.1.0")
    leaf = tree.levels[-1][0]
    tree.set_salt(leaf, f"{tree.salt(leaf).strip()} changed\n")
    tree.release("1.2.0")
    yield checked(next(names), "1.2.0")
    if ours:
        tree.release("1.3.0")
        nowhere = {"DOCKER_HOST": f"unix://{tree.root}/nowhere", "XDG_CACHE_HOME": str(tree.root / "cache")}
        yield checked(FRESH, "1.3.0", lambda: ring.ours(tree.root, "push", **nowhere))


def growth(ring: Arena, counts: list[int], rounds: int) -> None:
    """Print how our time grows with the number of folders."""
    results: dict[int, dict[str, list[Measured]]] = {}
    for _ in range(rounds):
        for count in counts:
            tree = ring.tree("growth", count, CONTEXT)
            for scenario, measured in play(ring, tree, pushing(ring, tree), ours=True):
                results.setdefault(count, {}).setdefault(scenario, []).append(measured)
            clean(ring, tree)
    print(f"| invoke push | {' | '.join(f'{count} folders' for count in counts)} | last / first |")
    print(f"| --- {'| --- ' * (len(counts) + 1)}|")
    for scenario in results[counts[0]]:
        times = [median(results[count][scenario]) for count in counts]
        print(f"| {scenario} | {' | '.join(f'{one:.2f} s' for one in times)} | {times[-1] / times[0]:.2f} |")


def show(results: dict[str, dict[str, list[Measured]]], folders: int, rounds: int) -> None:
    """Print the table, and what it comes to."""
    names = list(next(iter(results.values())))
    print(f"{folders} folders, {folders * CONTEXT / 1e6:.0f} MB, {os.cpu_count()} cores, median of {rounds} rounds\n")
    print(f"| build, tag, push | {' | '.join(names)} | share of the best peer | at most |")
    print(f"| --- {'| --- ' * (len(names) + 2)}|")
    for scenario, measured in results.items():
        times = {name: median(measured[name]) for name in names if name in measured}
        best = min((seconds for name, seconds in times.items() if name != OURS), default=0.0)
        share = f"{times[OURS] / best:.2f}" if best else "-"
        cells = " | ".join(f"{times[name]:.2f} s" if name in times else "-" for name in names)
        print(f"| {scenario} | {cells} | {share} | {SCENARIOS.get(scenario, '-')} |")
    memory = max(run.memory for measured in results.values() for run in measured[OURS])
    print(f"\nmemory of {OURS}: {memory / 1e6:.0f} MB at most")


def median(runs: list[Measured]) -> float:
    """The middle of the seconds."""
    return statistics.median(run.seconds for run in runs)


def clean(ring: Arena, tree: Tree) -> None:
    """Take a tree and its images away."""
    forget(ring, tree)
    shutil.rmtree(tree.root)


def forget(ring: Arena, tree: Tree) -> None:
    """Take a tree's images out of the engine."""
    for pattern in (f"{tree.prefix}/*", *(f"{name}" for name in tree.names)):
        ring.sh(
            f"{ring.docker} images -q --filter reference={pattern} --format '{{{{.Repository}}}}:{{{{.Tag}}}}' "
            f"| xargs -r {ring.docker} rmi -f",
            ring.scratch,
        )


@contextlib.contextmanager
def arena(docker: str, base_size: int) -> Iterator[Arena]:
    """A registry of its own on loopback, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="bench-images-") as name:
        scratch = Path(name)
        (port,) = process.free_ports(1)
        registries.start(scratch, port, environment=os.environ)
        try:
            ring = Arena(scratch, f"127.0.0.1:{port}", docker, base_size)
            yield ring
            ring.sh(f"{docker} rmi {ring.base}", scratch)
        finally:
            process.stop(registries.NAME, scratch)


if __name__ == "__main__":
    main()
