"""What a cache in a registry saves a fresh agent that builds one changed image out of many.

``python -m bench.caches [--folders N] [--rounds N] [--docker PROGRAM]``, on an engine with containerd's store that does
nothing else: all that it remembers is deleted before each measured run, as on an agent that was just made. The changed
image has a step above the change that works for some seconds. With the cache and without it take turns.
"""

from __future__ import annotations

import argparse

from bench.docker import docker_with_buildkit
from bench.images.__main__ import CONTEXT, Arena, Measured, arena, clean, forget, median

WANTED = 0.5
_SLOW = "RUN i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done; echo $i >/slow"
_SETTINGS = 'cache_to = ["type=registry,mode=max"]\ncache_from = ["type=registry"]\n'


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.caches")
    options.add_argument("--folders", type=int, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--docker", default=docker_with_buildkit())
    chosen = options.parse_args()
    results: dict[bool, list[Measured]] = {True: [], False: []}
    with arena(chosen.docker, 0) as ring:
        for _ in range(chosen.rounds):
            for cached in results:
                results[cached].append(fresh_run(ring, chosen.folders, cached=cached))
    with_cache, without = median(results[True]), median(results[False])
    print(f"one changed image of {chosen.folders}, fresh agent, median of {chosen.rounds} rounds\n")
    print("| with a cache in the registry | without | share | at most |\n| --- | --- | --- | --- |")
    print(f"| {with_cache:.2f} s | {without:.2f} s | {with_cache / without:.2f} | {WANTED} |")


def fresh_run(ring: Arena, folders: int, *, cached: bool) -> Measured:
    """The push of a version in which one file of one image changed, by an engine that remembers nothing."""
    tree = ring.tree("caches", folders, CONTEXT)
    leaf = tree.levels[-1][0]
    dockerfile = tree.root / "src/docker" / leaf / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("COPY files", f"{_SLOW}\nCOPY files"))
    if cached:
        with (tree.root / "pyproject.toml").open("a") as settings:
            settings.write(_SETTINGS)
    tree.release("1.1.0")
    ring.ours(tree.root, "push")
    tree.set_salt(leaf, f"{tree.salt(leaf).strip()} changed\n")
    tree.release("1.2.0")
    forget(ring, tree)
    ring.sh(f"{ring.docker} builder prune -af", ring.scratch)
    measured = ring.ours(tree.root, "push", XDG_CACHE_HOME=str(tree.root / "cache"))
    ring.check(tree, "1.2.0", stamped=True)
    clean(ring, tree)
    return measured


if __name__ == "__main__":
    main()
