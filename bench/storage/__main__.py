"""What an engine's storage driver costs, and what it leaves: builds, short runs, disk and mounts.

``python -m bench.storage [--rounds N] [--runs N] [DRIVER...]``, as root: starts an engine for each driver (overlay2,
fuse-overlayfs, btrfs, vfs), with its own data, and has them take turns at

* building an image of a Debian with Python: 2,000 small files, and 50 MB in one file, of which a layer changes a byte;
* changing a byte of that file in a container;
* starting a container that ends at once, named, and removed before the next one starts, as a service under runit does;
  vfs does a twentieth of these.

Then it counts: the disk that the images take and that the runs have added, and the mounts below the engine's folder: of
one container that runs, and what there is more of them after all runs than before the first. A table is printed after
every twenty runs. Last, each engine is killed with SIGKILL under a container that runs, and started again: a line tells
the mounts after each of these, and after that container was removed. Compare ratios to the first driver, not seconds.
btrfs is a file that is mounted, on the file system of the others.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from buildtools.events import unheard
from buildtools.sandbox import base
from buildtools.sandbox.engine import EngineAddress

DRIVERS = ("overlay2", "fuse-overlayfs", "btrfs", "vfs")
DOCKERFILE = """\
FROM {base}
COPY files /files
RUN dd if=/dev/urandom of=/large bs=1M count=50 2>/dev/null
RUN printf x | dd of=/large conv=notrunc 2>/dev/null
RUN rm -r /files/1
"""
_BTRFS_BYTES = 6 << 30
_CHANGE = ("sh", "-c", "printf y | dd of=/large conv=notrunc 2>/dev/null")


@dataclass
class DriverEngine:
    """An engine with one storage driver; ``seconds`` are those of each kind of work."""

    driver: str
    folder: Path
    bridge: str
    process: subprocess.Popen[bytes] | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/sock"

    def start(self) -> None:
        options = ["--data-root", str(self.data), "--exec-root", f"{self.folder}/exec", "--host", self.host]
        options += ["--pidfile", f"{self.folder}/pid", "--bridge", self.bridge, "--iptables=false"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["dockerd", *options, "--storage-driver", self.driver], stdout=log, stderr=log
            )
        while not EngineAddress(self.host).answers():
            if self.process.poll() is not None:
                raise OSError((self.folder / "log").read_text().splitlines()[-1])
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()

    def kill(self) -> None:
        if self.process:
            containerd = Path("/proc") / (self.folder / "exec/containerd/containerd.pid").read_text().strip()
            self.process.kill()
            self.process.wait()
            # It dies a moment later, and an engine that starts before would take it for its own.
            while containerd.exists():
                time.sleep(0.05)

    def docker(self, *arguments: str) -> str:
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}
        done = subprocess.run(["/usr/bin/docker", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{self.driver}: docker {arguments[0]}: {done.stderr}")
        return done.stdout.strip()

    def measure(self, kind: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        self.seconds.setdefault(kind, []).append(time.perf_counter() - began)

    def mounts(self) -> int:
        """The mounts below the engine's folder, without that of the file system that it is on."""
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return sum(place.startswith(f"{self.folder}/") and place != str(self.data) for place in places)

    def megabytes(self) -> int:
        """What the engine takes of its disk; of btrfs, which shares blocks between folders, by the file system."""
        if self.driver == "btrfs":
            state = os.statvfs(self.data)
            return (state.f_blocks - state.f_bfree) * state.f_frsize // 1_000_000
        return int(subprocess.check_output(["du", "-sx", "--block-size=1000000", self.data]).split()[0])


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.storage")
    options.add_argument("drivers", nargs="*", default=DRIVERS)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--runs", type=int, default=100)
    chosen = options.parse_args()
    if os.geteuid():
        sys.exit("bench.storage: an engine needs root")
    # However it is ended, no engine stays.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="st-") as name, ExitStack() as stack:
        engines = []
        for driver in chosen.drivers:
            try:
                engines.append(stack.enter_context(engine(driver, Path(name) / driver)))
            except OSError as error:
                print(f"{driver}: does not start here: {error}")
        context = write_context(Path(name) / "context")
        for each in engines:
            prepare(each, context)
        for _ in range(chosen.rounds):
            for each in engines:
                each.measure("build", lambda each=each: build(each, context))  # type: ignore[misc]  # bound at once
                each.measure("change", lambda each=each: run(each, "--rm", "bench", *_CHANGE))  # type: ignore[misc]
        for each in engines:
            each.counts |= {"images": each.megabytes(), "before": each.mounts()}
        for number in range(1, chosen.runs + 1):
            for each in engines:
                # One that copies the whole image for each container takes its time.
                if each.driver != "vfs" or number % 20 == 0:
                    each.measure("run", lambda each=each: short_run(each))  # type: ignore[misc]
            if number % 20 == 0:
                for each in engines:
                    count(each)
                report(engines, number)
        for each in engines:
            tell_of_a_kill(each)


@contextmanager
def engine(driver: str, folder: Path) -> Iterator[DriverEngine]:
    """An engine, and what it needs, for as long as the context lasts."""
    bridge = f"st{secrets.token_hex(4)}"
    made = DriverEngine(driver, folder, bridge)
    made.data.mkdir(parents=True)
    number = DRIVERS.index(driver)
    command("ip", "link", "add", bridge, "type", "bridge")
    try:
        command("ip", "address", "add", f"172.31.{240 + number}.1/24", "dev", bridge)
        if driver == "btrfs":
            with (folder / "disk").open("wb") as disk:
                disk.truncate(_BTRFS_BYTES)
            command("mkfs.btrfs", "--quiet", folder / "disk")
            command("mount", "-o", "loop", folder / "disk", made.data)
        made.start()
        yield made
    finally:
        made.stop()
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in reversed([place for place in places if place.startswith(f"{folder}/")]):
            command("umount", "--lazy", place)
        command("ip", "link", "delete", bridge)


def command(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{words[0]}: {done.stderr.strip()}")


def write_context(folder: Path) -> Path:
    for number in range(2000):
        file = folder / "files" / str(number % 20) / str(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number}\n" * 100)
    return folder


def prepare(each: DriverEngine, context: Path) -> None:
    """Bring the base image in, and the image that runs, once, so that nothing is measured for the first time."""
    name = base.python(EngineAddress(each.host), environment=os.environ, report=unheard)
    (context / "Dockerfile").write_text(DOCKERFILE.format(base=name))
    build(each, context)
    short_run(each)


def build(each: DriverEngine, context: Path) -> None:
    each.docker("build", "--quiet", "--no-cache", "--tag", "bench", str(context))


def run(each: DriverEngine, *arguments: str) -> str:
    return each.docker("run", "--network", "none", *arguments)


def short_run(each: DriverEngine) -> None:
    with suppress(OSError):
        each.docker("rm", "--force", "short")
    run(each, "--name", "short", "bench", "true")


def count(each: DriverEngine) -> None:
    """Count what is left of the runs, and what a container that runs has."""
    each.counts["left"] = each.mounts() - each.counts["before"]
    each.counts["growth"] = each.megabytes() - each.counts["images"]
    run(each, "--detach", "--name", "long", "bench", "sleep", "600")
    each.counts["running"] = each.mounts() - each.counts["before"] - each.counts["left"]
    each.docker("rm", "--force", "long")


def tell_of_a_kill(each: DriverEngine) -> None:
    """Kill the engine under a container, and say what is mounted more than before the first run, from then on."""
    run(each, "--detach", "--name", "long", "bench", "sleep", "600")
    counts = [each.mounts()]
    each.kill()
    counts.append(each.mounts())
    each.start()
    counts.append(each.mounts())
    state = each.docker("inspect", "--format", "{{.State.Status}} ({{.State.ExitCode}})", "long")
    each.docker("rm", "--force", "long")
    counts.append(each.mounts())
    running, killed, restarted, removed = (number - each.counts["before"] for number in counts)
    counts_text = f"{running} mounts while it runs, {killed} after the kill, {restarted} after the restart"
    print(f"{each.driver}: {counts_text} (the container: {state}), {removed} after its removal", flush=True)


def report(engines: list[DriverEngine], runs: int) -> None:
    first = engines[0]
    print(f"\nafter {runs} runs; vfs did a twentieth of them\n")
    print("| driver | build | change | run | images | growth | mounts: of one that runs | left |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for each in engines:
        cells = [each.driver]
        for kind in ("build", "change", "run"):
            median = statistics.median(each.seconds[kind])
            ratio = median / statistics.median(first.seconds[kind])
            cells.append(f"{ratio:.2f} ({median:.2f} s)")
        cells += [f"{each.counts['images']} MB", f"{each.counts['growth']} MB"]
        cells += [str(each.counts[kind]) for kind in ("running", "left")]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
