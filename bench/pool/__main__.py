"""How much sooner several builders are done than one, and what it costs to lose one of them.

``python -m bench.pool [--rounds N] [--buildkitd PROGRAM]``: N times 24 images that each wait 4 seconds and then write
something new, pushed by builders with 4 jobs each, in turns: one builder, two, and three of which one is killed half
way. Each builder is an engine of Debian 13 with containerd's store, which ``script/engines`` starts, or a BuildKit
daemon, where its program is given; each has data of its own. What waits needs no processor, so that several builders on
one machine take as long as several machines would. Figures are medians; compare ratios, not seconds. After every run
the registry is asked for all images.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from buildtools.image.engine.client import Engine
from buildtools.image.registry.client import Registry
from buildtools.sandbox import base, process
from buildtools.sandbox import registry as registries
from buildtools.sandbox.engine import EngineAddress

ROOT = Path(__file__).parents[2]
IMAGES, JOBS, WAIT = 24, 4, 4
ONE, TWO, LOSING = "one builder", "two builders", "three, one of them killed half way"
# By each case, the one that it is held against, and the share of its time that is wanted.
WANTED = {TWO: (ONE, 0.6), LOSING: (TWO, 1.3)}


class Builder:
    """An engine, or a daemon, with data of its own, at a socket."""

    def __init__(self, scratch: Path, number: int, buildkitd: str) -> None:
        self.socket = scratch / f"{number}.sock"
        self.address = f"unix://{self.socket}"
        command = [str(ROOT / "script/engines"), "26c", "--serve", str(self.socket)]
        if buildkitd:
            command = [buildkitd, "--root", str(scratch / f"{number}"), "--addr", self.address]
        self.program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Until it answers."""
        while not self.socket.exists():
            if self.program.poll() is not None:
                raise SystemExit(f"a builder ended by itself: run {self.program.args!r} to see why")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a machine ends whose plug is pulled: nothing answers any more, and nobody says good-bye."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.address.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)

    def end(self) -> None:
        """Stop it, and wait until all that it made is gone."""
        self.program.terminate()
        self.program.wait()
        # A daemon that was killed has left the files mounted that its builds were at work in.
        for line in Path("/proc/mounts").read_text().splitlines():
            if line.split()[1].startswith(str(self.socket.parent)):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=True)


def make_project(root: Path, host: str, shell: str) -> str:
    """A project whose images no builder has seen; the namespace that they go to."""
    mark = secrets.token_hex(6)
    for number in range(IMAGES):
        folder = root / f"src/docker/image{number}"
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text(f"FROM {shell}\nRUN sleep {WAIT}; echo {mark} {number} >/mark\n")
    (root / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    (root / "pyproject.toml").write_text(
        f'[tool.buildtools]\nregistry = "{host}"\nnamespace = "bench-{mark}"\njobs = {JOBS}\n'
    )
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"]
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        [*identity, "commit", "-qm", "1"],
        [*identity, "tag", "-am1", "1.0"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return f"bench-{mark}"


def push(scratch: Path, host: str, shell: str, builders: Sequence[Builder], victim: Builder | None = None) -> float:
    """Seconds that a push of all images takes, some time into which the ``victim`` is killed."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        root = Path(folder)
        namespace = make_project(root, host, shell)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("INVOKE_")},
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(root / "cache"),
            "INVOKE_BUILDTOOLS_BUILDERS": ",".join(builder.address for builder in builders),
        }
        # In the middle of the last wait, when it has as much to lose as it can have.
        timer = threading.Timer(WAIT * (IMAGES / len(builders) / JOBS - 0.5), victim.kill) if victim else None
        began = time.perf_counter()
        if timer:
            timer.start()
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "push"],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        if done.returncode or bool(victim) != ("was lost" in done.stderr):
            raise SystemExit(f"the push failed, or nobody was lost:\n{done.stderr[-4000:]}")
    with contextlib.closing(Registry(host)) as registry:
        missing = [n for n in range(IMAGES) if not registry.head_manifest(f"{namespace}/image{n}", "1.0")]
    if missing:
        raise SystemExit(f"the registry lacks {missing}")
    return seconds


@contextlib.contextmanager
def started(scratch: Path, count: int, buildkitd: str) -> Iterator[list[Builder]]:
    """So many builders, stopped afterwards."""
    builders = [Builder(scratch, number, buildkitd) for number in range(count)]
    try:
        for builder in builders:
            builder.wait()
        yield builders
    finally:
        for builder in builders:
            builder.end()


def main() -> None:
    """Measure, and print a row for each case."""
    parser = argparse.ArgumentParser(prog="python -m bench.pool")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--buildkitd", default="")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {ONE: [], TWO: [], LOSING: []}
    # Paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="pool-", dir="/tmp") as folder:
        scratch = Path(folder)
        (port,) = process.free_ports(1)
        host = f"127.0.0.1:{port}"
        registries.start(scratch, port, environment=os.environ)
        try:
            shell = push_shell(host)
            for number in range(arguments.rounds):
                place = scratch / str(number)
                place.mkdir()
                with started(place, 3, arguments.buildkitd) as builders:
                    seconds[ONE].append(push(scratch, host, shell, builders[:1]))
                    seconds[TWO].append(push(scratch, host, shell, builders[:2]))
                    seconds[LOSING].append(push(scratch, host, shell, builders, victim=builders[2]))
        finally:
            process.stop("registry", scratch)
    for case, values in seconds.items():
        line = f"{case}: {statistics.median(values):.1f} s"
        if case in WANTED:
            other, limit = WANTED[case]
            ratio = statistics.median(values) / statistics.median(seconds[other])
            line += f", {ratio:.2f} of {other} (wanted {limit})"
        sys.stdout.write(f"{line}\n")


def push_shell(host: str) -> str:
    """The reference of an image with a shell, in the registry."""
    reference = f"{host}/bench/shell:1"
    local = base.busybox(EngineAddress.named(os.environ), environment=os.environ)
    with contextlib.closing(Engine.connect(os.environ)) as engine:
        engine.tag(local, reference)
        for line in engine.api.push(reference, stream=True, decode=True, auth_config={}):
            if "error" in line:
                raise SystemExit(line["error"])
        engine.untag(reference)
    return reference


if __name__ == "__main__":
    main()
