"""How long builds take, beside the official client and docker-py's own build in the same run.

``python -m bench.build`` prints the table; ``--rounds`` takes the median of several, ``--endurance`` builds 220 times
and looks at what is left, ``--native`` compares the two ways to speak with an engine's BuildKit. It needs an engine, a
docker program that builds with BuildKit (``--docker``), and busybox-static. Only ratios mean something: a machine that
is busy is busy for both.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.docker import docker_with_buildkit
from buildtools import Cancelled
from buildtools.events import Event, Log
from buildtools.image.builder import BuildRequest
from buildtools.image.engine.build import build
from buildtools.image.engine.client import Engine
from buildtools.image.folder.context import Selection, ignore_rules

FILES, BYTES, IMAGES, JOBS = 5000, 200_000_000, 12, 4
CHANGES = 5  # most of it is the engine copying files, which takes now half, now twice the time
BASE = 'FROM scratch AS base\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
WORK = "RUN for i in 1 2 3; do dd if=/dev/urandom bs=64k count=32 2>/dev/null | sha256sum; sleep 0.1; done\n"


class Anonymous:
    """Credentials of somebody who has none."""

    def for_host(self, host: str) -> None:
        del host


class Bench:
    """The things that are built, and the ways to build them; each way gives the seconds that it took."""

    def __init__(self, root: Path, docker: str) -> None:
        self.root = root
        self.docker = docker
        self.engine = Engine.connect(os.environ)
        self.tag = f"buildtools-bench-{secrets.token_hex(4)}"

    def ours(self, folder: Path, name: str = "app", heard: Callable[[Event], None] = lambda _: None) -> float:
        begun = time.perf_counter()
        cancel = threading.Event()

        def report(event: Event) -> None:
            heard(event)
            if isinstance(event, Log) and event.line == "cancel me":
                cancel.set()

        dockerfile = folder / "Dockerfile"
        taken = Selection(ignore_rules(folder, dockerfile), follow=(".",))
        request = BuildRequest(name, folder, dockerfile, (f"{self.tag}/{name}:1",), selection=taken)
        build(self.engine, request, credentials=Anonymous(), environment=os.environ, report=report, cancel=cancel)
        return time.perf_counter() - begun

    def official(self, folder: Path) -> float:
        begun = time.perf_counter()
        command = [self.docker, "build", "--quiet", "--tag", f"{self.tag}/app:1", str(folder)]
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.perf_counter() - begun

    def docker_py(self, folder: Path) -> float:
        begun = time.perf_counter()
        with self.engine.errors():
            for line in self.engine.api.build(path=str(folder), tag=f"{self.tag}/app:1", rm=True, decode=True):
                if "error" in line:
                    raise RuntimeError(line["error"])
        return time.perf_counter() - begun

    @contextlib.contextmanager
    def folder_of_files(self, client: str) -> Iterator[Path]:
        """A folder that this client has not sent before, with the same 200 MB in it."""
        kept, fresh = self.root / client, self.root / f"{client}-{secrets.token_hex(4)}"
        if not kept.exists():
            source = random.Random(1)
            for number in range(FILES):
                path = kept / f"d{number % 50:02}" / f"s{number % 7}" / f"f{number}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.randbytes(BYTES // FILES))
            (kept / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
        kept.rename(fresh)
        self.change_one_file(fresh)
        yield fresh
        fresh.rename(kept)

    def change_one_file(self, folder: Path) -> None:
        (folder / "d00" / "s0" / "f0").write_bytes(os.urandom(BYTES // FILES))

    def image_folder(self, name: str, more: str) -> Path:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", folder / "busybox")
        (folder / "salt").write_text(secrets.token_hex(8))
        (folder / "Dockerfile").write_text(f"{BASE}{more}")
        return folder

    def close(self) -> None:
        with self.engine.errors():
            for image in self.engine.api.images(name=f"{self.tag}/*"):
                for tag in image["RepoTags"] or ():
                    self.engine.api.remove_image(tag)
        self.engine.close()


def sync_cases(bench: Bench, *, with_docker_py: bool) -> dict[str, float]:
    """Seconds of each case by each client, from one round in which they take turns."""
    clients = {"ours": bench.ours, "official": bench.official}
    if with_docker_py:
        clients["docker-py"] = bench.docker_py
    seconds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        folders = {client: stack.enter_context(bench.folder_of_files(client)) for client in clients}
        for case in ("first", "same", *["changed"] * CHANGES):
            for client in random.sample(list(clients), len(clients)):
                if case == "changed":
                    bench.change_one_file(folders[client])
                # What earlier builds wrote goes to the disk now, so that nobody pays for somebody else's.
                os.sync()
                seconds.setdefault(f"{case} {client}", []).append(clients[client](folders[client]))
    return {case: statistics.median(times) for case, times in seconds.items()}


def parallel_case(bench: Bench) -> tuple[float, float]:
    """Seconds for images that have nothing to do with each other: one by one, and several at once."""

    def folders() -> list[tuple[Path, str]]:
        return [(bench.image_folder(f"i{n}", f"COPY salt /\n{WORK}"), f"i{n}") for n in range(IMAGES)]

    def run(jobs: int) -> float:
        work = folders()
        begun = time.perf_counter()
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda each: bench.ours(*each), work))
        return time.perf_counter() - begun

    return run(1), run(JOBS)


def native_cases(bench: Bench, rounds: int) -> dict[str, tuple[float, float]]:
    """The seconds of builds by HTTP/2 on the engine's socket, and of the same by ``POST /grpc`` and ``/session``.

    Both pass through a program of ours, which makes of any engine one that has lost these routes: it is as slow as it
    is, for both.
    """
    engine, times = bench.engine, dict[str, dict[str, list[float]]]()
    with contextlib.ExitStack() as stack:
        engines = {}
        for way, options in (("native", []), ("routes", ["--routes"])):
            path = bench.root / f"{way}.sock"
            command = [sys.executable, "-m", "tests.image.engine.modern_engine", str(path), *options]
            program = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(program.terminate)
            assert program.stdout is not None
            program.stdout.readline()
            engines[way] = Engine.connect({"DOCKER_HOST": f"unix://{path}"})
            stack.callback(engines[way].close)
        stack.callback(setattr, bench, "engine", engine)
        for _ in range(rounds):
            for way, bench.engine in engines.items():
                with bench.folder_of_files(way) as folder:
                    times.setdefault("first", {}).setdefault(way, []).append(bench.ours(folder))
                    times.setdefault("same again", {}).setdefault(way, []).append(bench.ours(folder))
    medians = {case: {way: statistics.median(each) for way, each in ways.items()} for case, ways in times.items()}
    return {case: (ways["native"], ways["routes"]) for case, ways in medians.items()}


def endurance(bench: Bench, builds: int, cancelled: int) -> str:
    """What is left after many builds: threads and open files of ours, and images that went missing."""

    def left() -> tuple[int, int]:
        return threading.active_count(), sum(1 for _ in Path("/proc/self/fd").iterdir())

    good = bench.image_folder("good", "COPY salt /\n")
    bench.ours(good)
    before = left()
    for number in range(builds):
        (good / "salt").write_text(str(number))
        bench.ours(good)
    slow = bench.image_folder("slow", "RUN echo cancel me; sleep 3600\n")
    longest = 0.0
    for _ in range(cancelled):
        at: list[float] = []
        with contextlib.suppress(Cancelled):
            bench.ours(slow, heard=lambda event: at.append(time.perf_counter()) if isinstance(event, Log) else None)  # noqa: B023  it is called in this round
        longest = max(longest, time.perf_counter() - at[-1])
    return (
        f"{builds} builds and {cancelled} cancelled ones: threads {before[0]} -> {left()[0]}, "
        f"open files {before[1]} -> {left()[1]}, slowest cancel {longest:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--docker", default=docker_with_buildkit(), help="a docker program that builds with BuildKit")
    parser.add_argument("--no-docker-py", action="store_true", help="leave out docker-py's own build, which is slow")
    parser.add_argument("--endurance", action="store_true", help="build 200 times and cancel 20 builds")
    parser.add_argument("--native", action="store_true", help="compare the two ways to speak with an engine, only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-build-") as folder:
        bench = Bench(Path(folder), options.docker)
        try:
            if options.endurance:
                print(endurance(bench, 200, 20))
                return
            if options.native:
                for case, (native, routes) in native_cases(bench, options.rounds).items():
                    print(f"{case}, native way: {native / routes:.2f} (at most 1.05)  {native:.2f} s : {routes:.2f} s")
                return
            rounds = [sync_cases(bench, with_docker_py=not options.no_docker_py) for _ in range(options.rounds)]
            parallel = [parallel_case(bench) for _ in range(options.rounds)]
        finally:
            bench.close()

    def row(case: str, peer: str, limit: float) -> None:
        ratios = [seconds[f"{case} ours"] / seconds[f"{case} {peer}"] for seconds in rounds]
        ours, theirs = (statistics.median(s[f"{case} {who}"] for s in rounds) for who in ("ours", peer))
        show(f"{case}, vs {peer}", statistics.median(ratios), limit, ours, theirs)

    def show(what: str, ratio: float, limit: float, ours: float, theirs: float) -> None:
        verdict = "" if ratio <= limit else "  TOO SLOW"
        print(f"{what:28} {ratio:5.2f}  (at most {limit})  {ours:6.2f} s : {theirs:6.2f} s{verdict}")

    row("first", "official", 1.2)
    row("changed", "official", 1.0)
    if not options.no_docker_py:
        row("changed", "docker-py", 0.3)
    row("same", "official", 1.0)
    one_by_one, at_once = (statistics.median(times) for times in zip(*parallel, strict=True))
    show(f"{IMAGES} images, {JOBS} at once", statistics.median(b / a for a, b in parallel), 0.7, at_once, one_by_one)
    print(f"client memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB (at most 200)")


if __name__ == "__main__":
    main()
