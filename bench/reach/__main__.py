"""How far one release reaches: 1,000 images, beside a C client that asks the registry the same.

``python -m bench.reach [--images N] [--rounds N] [--context GB]``: image folders in three levels, each with a layer of
one small file. Their images are put into a registry of its own as a push leaves them, so that no engine need build all.

* What is asked of the registry is recorded, and asked again by curl with as many connections (``bench.reach.peer``), in
  turns. The share is of the clock, and of the processor time of client and registry together, which a busy machine does
  not blur. Of both, what 20 images cost is taken off first, and start-up with it.
* A plan, with an empty cache and a full one; the memory of a push whose contexts are sparse files; one leaf that
  changes, which the engine builds, and whose build waits for as long as those of ``bench.pool``.
* The writes of a new version alone, by curl: no client that stamps all images can be faster.
* All of it for 20 images, a quarter of N, and N: what one more image costs must not grow.

``python -m bench.reach simulate`` is the model of ``bench.reach.model``.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.archive.__main__ import s3_server
from bench.pool.__main__ import WAIT, push_shell
from bench.reach import model
from bench.reach.peer import CONNECTIONS, Curl, recorded
from bench.reach.project import ROOT, Costs, Measured, make_project
from buildtools.sandbox import process
from buildtools.sandbox import registry as registries

# By the name of each case its runs, each with what curl needed for the same.
Cases = dict[str, list[tuple[Measured, Costs | None]]]
FEW = 20
LEAF = "push, one leaf changed"
# As long as a file is younger than this the cache does not trust its time stamps.
RACY_SECONDS = 2.5


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.reach")
    options.add_argument("what", nargs="?", choices=("measure", "simulate"), default="measure")
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--context", type=float, default=10.0, metavar="GB", help="all contexts of the run for memory")
    options.add_argument("--no-engine", action="store_true", help="leave out what an engine builds")
    chosen = options.parse_args()
    if chosen.what == "simulate":
        model.show()
        return
    # As it is where the tool is installed; Invoke keeps Python from writing down what it compiles of a tasks file.
    compileall.compile_dir(ROOT / "buildtools", quiet=1)
    with arena() as (folder, host, registry, variables):
        counts = (FEW, chosen.images // 4, chosen.images)
        shell = "" if chosen.no_engine else push_shell(host)
        results = [measure(folder, host, registry, variables, count, chosen.rounds, shell) for count in counts]
        show(dict(zip(counts, results, strict=True)))
        large = make_project(
            folder / "large",
            host,
            chosen.images,
            context=int(chosen.context * 1e9 / chosen.images),
            variables=variables,
        )
        time.sleep(RACY_SECONDS)
        hashed = large.run("list")
        large.stock()
        memory = max(hashed.memory, large.run("push").memory)
        print(f"memory with {chosen.context:g} GB of contexts: {memory / 1e6:.0f} MB")


def measure(
    folder: Path, host: str, registry: int, variables: Mapping[str, str], count: int, rounds: int, shell: str
) -> Cases:
    """By the name of each case its runs, each with what curl needed for the same.

    The leaf that an engine builds is built on ``shell``; without it, none is built.
    """
    results: Cases = {}
    leaf = f"FROM {shell}\nCOPY data /data\nRUN sleep {WAIT}\n" if shell else ""
    project = make_project(
        folder / f"images{count}", host, count, registry=registry, variables=variables, last_dockerfile=leaf
    )
    curl = Curl(project, registry)
    time.sleep(RACY_SECONDS)
    project.stock()

    def note(case: str, ours: Measured, peer: Costs | None = None) -> None:
        results.setdefault(case, []).append((ours, peer))
        print(f"{count} images, {case}: {ours.costs}, curl {peer}", file=sys.stderr, flush=True)

    def beside_curl(case: str, version: str, *arguments: str) -> None:
        """Once to record, for the log costs time; then in turns."""
        log = project.root / ".cache/log"
        log.unlink(missing_ok=True)
        project.run(*arguments, BUILDTOOLS_LOG=str(log))
        for _ in range(rounds):
            note(case, project.run(*arguments), curl.replay(recorded(log), version, version))

    shutil.rmtree(project.root / ".cache/lockstep-buildtools", ignore_errors=True)
    note("plan, empty cache", project.run("plan"))
    for _ in range(rounds):
        note("plan", project.run("plan"))
    for number in range(rounds):
        log = project.root / f".cache/log{number}"
        project.release(f"1.{number}.1")
        # A version is new only once, so its log is written in the run that is measured.
        ours = project.run("push", BUILDTOOLS_LOG=str(log))
        note("push, new version", ours, curl.replay(recorded(log), f"1.{number}.1", f"1.{number}.7"))
        writes = [each for each in recorded(log) if each.method in ("POST", "PUT")]
        floor = curl.replay(writes, f"1.{number}.1", f"1.{number}.8")
        note("the writes of that alone, by curl", Measured(floor, 0, ""))
    beside_curl("push, unchanged", f"1.{rounds - 1}.1", "push")
    project.run("publish")
    beside_curl("verify", f"1.{rounds - 1}.1", "verify")
    for number in range(rounds if shell else 0):
        project.change_leaf(f"{project.root} {number}\n")
        project.release(f"2.{number}.0")
        note(LEAF, project.run("push"))
    if shell:
        project.forget_images()
    return results


def show(results: Mapping[int, Cases]) -> None:
    """Print the table, from the fewest images to the most."""
    few, middle, many = results
    print(f"{os.cpu_count()} processors, curl with {CONNECTIONS} connections, medians\n")
    print(f"| case | {few} images | {middle} | {many} | client and registry compute, one more image |", end=" ")
    print("after and before a quarter of them | share of curl's clock | of its processor time |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for case in results[many]:
        first, second, last = (median([ours.costs for ours, _ in cases[case]]) for cases in results.values())
        rise = last.minus(second).over(many - middle)
        growth = rise.processor / (second.minus(first).over(middle - few).processor or 1)
        share = ["-", "-"]
        if results[many][case][0][1]:
            least, most = (median([peer for _, peer in results[count][case] if peer]) for count in (few, many))
            ours, theirs = last.minus(first), most.minus(least)
            share = [f"{ours.seconds / theirs.seconds:.2f}", f"{ours.processor / theirs.processor:.2f}"]
        print(
            f"| {case} | {first.seconds:.2f} s | {second.seconds:.2f} s | {last.seconds:.2f} s "
            f"| {rise.client * 1000:.2f} + {rise.registry * 1000:.2f} ms | {growth:.2f} | {' | '.join(share)} |"
        )
    if LEAF in results[many]:
        first, last = (median([ours.costs for ours, _ in results[count][LEAF]]) for count in (few, many))
        print(f"\none leaf in {many} next to one in {few}: {last.seconds / first.seconds:.2f}")
    memory = max(ours.memory for runs in results[many].values() for ours, _ in runs)
    print(f"\nmemory of the client: {memory / 1e6:.0f} MB at most")


def median(costs: Sequence[Costs]) -> Costs:
    """The median of each."""
    return Costs(
        *(statistics.median(getattr(each, name) for each in costs) for name in ("seconds", "client", "registry"))
    )


@contextlib.contextmanager
def arena() -> Iterator[tuple[Path, str, int, Mapping[str, str]]]:
    """A folder, a registry of its own on loopback, its process, and the variables that open a store."""
    with tempfile.TemporaryDirectory(prefix="bench-reach-") as name:
        folder = Path(name)
        (port,) = process.free_ports(1)
        registries.start(folder, port, environment=os.environ)
        try:
            with s3_server(folder) as variables:
                yield folder, f"127.0.0.1:{port}", process.pid(registries.NAME, folder) or 0, variables
        finally:
            process.stop(registries.NAME, folder)


if __name__ == "__main__":
    main()
