"""How long a whole release takes, images and a daemon's archive, beside what people use today.

``python -m bench.release [--folders N] [--rounds N] [--versions N] [--docker PROGRAM]``: the image folders of
``bench.images`` (default 20) and a daemon of 150 MB with its Java runtime. A Gradle recipe (Exec tasks, a ``Tar`` task,
``aws s3 cp``), and ``xargs`` for each level with pigz and ``aws s3 cp`` beside it, take turns with ``invoke publish``,
each with a repository, a registry namespace and an S3 prefix of its own: everything new, then so many new versions of
which nothing but the version is new. Every figure is a median; compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.archive.__main__ import daemon_with_runtime, s3_server
from bench.docker import docker_with_buildkit
from bench.images import peers
from bench.images.__main__ import CONTEXT, Arena, arena, clean
from bench.images.tree import Tree

DAEMON = "build/install/daemon"
OURS = "invoke publish"
_UPLOAD = "aws s3 cp --quiet build/daemon-$V.tgz s3://bench/{place}/daemon-$V.tgz"
_GRADLE = """
task tgz(type: Tar) {{
    from '{daemon}'
    into "daemon-$v"
    compression = 'GZIP'
    // Before Gradle 5 these had other names.
    setProperty(hasProperty('archiveFileName') ? 'archiveFileName' : 'archiveName', "daemon-${{v}}.tgz")
    setProperty(hasProperty('destinationDirectory') ? 'destinationDirectory' : 'destinationDir', file('build'))
}}
task upload(type: Exec, dependsOn: tgz) {{
    commandLine 'aws', 's3', 'cp', '--quiet', "build/daemon-${{v}}.tgz", "s3://bench/{place}/daemon-${{v}}.tgz"
}}
pushAll.dependsOn upload
"""


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.release")
    options.add_argument("--folders", type=int, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--versions", type=int, default=3)
    options.add_argument("--megabytes", type=int, default=150)
    options.add_argument("--docker", default=docker_with_buildkit())
    chosen = options.parse_args()
    with arena(chosen.docker, 0) as ring, s3_server(ring.scratch) as store:
        daemon = daemon_with_runtime(ring.scratch / "daemon", chosen.megabytes)
        gradle_home = ring.scratch / "gradle"
        ring.run(["gradle", "--offline", "-q", "-g", str(gradle_home), "help"], ring.scratch, **store)
        try:
            contestants: dict[str, Callable[[Tree], str]] = {
                "Gradle": lambda tree: gradle(tree, ring, gradle_home),
                "xargs with pigz and aws": lambda tree: xargs(tree, ring),
                OURS: ours,
            }
            compare(ring, store, daemon, contestants, chosen)
        finally:
            ring.run(["gradle", "--offline", "-q", "-g", str(gradle_home), "--stop"], ring.scratch)


def compare(
    ring: Arena,
    store: Mapping[str, str],
    daemon: Path,
    contestants: Mapping[str, Callable[[Tree], str]],
    chosen: argparse.Namespace,
) -> None:
    """Print how everybody does, after each round what is known by then."""
    results: dict[str, dict[str, list[float]]] = {"everything new": {}, "new version": {}}
    for number in range(1, chosen.rounds + 1):
        for name, start in contestants.items():
            tree = ring.tree(name, chosen.folders, CONTEXT)
            (tree.root / ".git/info/exclude").write_text("build\ndist\n")
            shutil.copytree(daemon, tree.root / DAEMON)
            shutil.rmtree(ring.scratch / "cache", ignore_errors=True)
            script = start(tree)
            results["everything new"].setdefault(name, []).append(ring.sh(script, tree.root, **store).seconds)
            for version in range(chosen.versions):
                tree.release(f"1.{version + 1}.0")
                results["new version"].setdefault(name, []).append(ring.sh(script, tree.root, **store).seconds)
            ring.check(tree, f"1.{chosen.versions}.0", stamped=name == OURS)
            clean(ring, tree)
        show(results, number)


def show(results: Mapping[str, Mapping[str, list[float]]], rounds: int) -> None:
    print(f"\n{rounds} rounds" if rounds > 1 else "\n1 round")
    for scenario, times in results.items():
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        for name, seconds in medians.items():
            share = "" if name == OURS else f"   ours is {medians[OURS] / seconds:.2f} of it"
            print(f"{scenario:16} {name:26} {seconds:8.2f} s{share}", flush=True)


def gradle(tree: Tree, ring: Arena, home: Path) -> str:
    script = peers.gradle(tree, ring.docker, home)
    with (tree.root / "build.gradle").open("a") as build:
        build.write(_GRADLE.format(daemon=DAEMON, place=tree.root.name))
    return script


def xargs(tree: Tree, ring: Arena) -> str:
    """The archive is packed and sent while images are built."""
    names = f"--transform 's,^daemon,daemon-'$V, -C {Path(DAEMON).parent} daemon"
    archive = f"tar -I pigz -cf build/daemon-$V.tgz {names} && {_UPLOAD.format(place=tree.root.name)}"
    head, _, images = peers.xargs_per_level(tree, ring.docker).partition("set -e\n")
    return f"{head}set -e\n({archive}) & ARCHIVE=$!\n{images}wait $ARCHIVE\n"


def ours(tree: Tree) -> str:
    (tree.root / "invoke.yaml").write_text(
        f"buildtools: {{artifacts: 's3://bench/{tree.root.name}', distribution: {{daemon: {{root: {DAEMON}}}}}}}\n"
    )
    # What decides a release must be committed.
    tree.release("1.0.1")
    return f"{sys.executable} -m invoke publish\n"


if __name__ == "__main__":
    main()
