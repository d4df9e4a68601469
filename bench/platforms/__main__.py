"""How long it takes to build and push images for two platforms, beside ``docker buildx bake``.

``python -m bench.platforms [--folders N] [--rounds N] [--docker PROGRAM] [--bake PROGRAM]``, on an engine with
containerd's store: N folders with 4 MB of context each, ``FROM scratch`` and ``COPY`` alone: nothing is emulated.
"""

from __future__ import annotations

import argparse
import os

from bench.docker import docker_with_buildkit
from bench.images import peers
from bench.images.__main__ import CONTEXT, OURS, Arena, Measured, arena, clean, median
from bench.images.tree import Tree

PLATFORMS = ("linux/amd64", "linux/arm64")
WANTED = 0.85


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.platforms")
    options.add_argument("--folders", type=int, default=10)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--docker", default=docker_with_buildkit())
    options.add_argument("--bake", default="", help="a docker-buildx program; by itself what is there")
    chosen = options.parse_args()
    results: dict[str, list[Measured]] = {"docker buildx bake": [], OURS: []}
    with arena(chosen.docker, 0) as ring:
        buildx = chosen.bake or peers.find_buildx(chosen.docker, os.environ)
        if not buildx:
            raise SystemExit("there is no docker-buildx to compare with: script/engines buildx fetches one")
        for _ in range(chosen.rounds):
            for name, runs in results.items():
                tree = scratch_tree(ring, chosen.folders)
                os.sync()
                runs.append(ring.ours(tree.root, "push") if name == OURS else bake(ring, tree, buildx))
                clean(ring, tree)
    theirs, ours = (median(runs) for runs in results.values())
    print(f"{chosen.folders} folders for {' and '.join(PLATFORMS)}, median of {chosen.rounds} rounds\n")
    print("| docker buildx bake | buildtools | share | at most |\n| --- | --- | --- | --- |")
    print(f"| {theirs:.2f} s | {ours:.2f} s | {ours / theirs:.2f} | {WANTED} |")


def scratch_tree(ring: Arena, folders: int) -> Tree:
    """A tree whose images are files alone, for all platforms."""
    tree = ring.tree("platforms", folders, CONTEXT)
    for name in tree.names:
        (tree.root / "src/docker" / name / "Dockerfile").write_text(f"FROM scratch\nCOPY files /opt/{name}\n")
    with (tree.root / "pyproject.toml").open("a") as settings:
        settings.write(f"platforms = {list(PLATFORMS)}\n")
    write_bake_file(tree)
    tree.release("1.1.0")
    return tree


def write_bake_file(tree: Tree) -> None:
    """What bake is told: all targets for all platforms."""
    targets = [
        f'target "{name}" {{\n  context = "src/docker/{name}"\n  tags = ["{tree.prefix}/{name}:1.1.0"]\n'
        f'  platforms = ["{PLATFORMS[0]}", "{PLATFORMS[1]}"]\n}}\n'
        for name in tree.names
    ]
    (tree.root / "docker-bake.hcl").write_text("".join(targets))


def bake(ring: Arena, tree: Tree, buildx: str) -> Measured:
    """A run of bake, all targets at once."""
    script = f"{buildx} bake --progress quiet --push {' '.join(tree.names)}"
    return ring.sh(script, tree.root, BUILDX_NO_DEFAULT_ATTESTATIONS="1")


if __name__ == "__main__":
    main()
