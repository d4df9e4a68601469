"""How long ``invoke list`` takes on many image folders, and how that grows.

``python -m bench.list [--rounds N] [FOLDERS ...]``: makes repositories with that many image folders (default 250, 500
and 1,000; a tenth of them parents of nine others, nine context files each) and runs the whole command in a new process
each time: with an empty cache, with a warm one, after the content of one parent's file changed under the same size and
time, and after the version did. Warm figures are medians; CPU is what those runs spent, which a busy machine does not
blur. Every run is checked: as many images as folders, and exactly the right fingerprints changed.

The target is 1.5 s for 1,000 folders with a warm cache, and a cost for each folder that does not grow.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# As long as a file is younger than this the cache does not trust its time stamps.
RACY_SECONDS = 2.5

PARENT = "FROM scratch\nCOPY app /app\n"
CHILD = """\
ARG REGISTRY
ARG VERSION
FROM ${{REGISTRY}}/{parent}:${{VERSION}}
LABEL org.example.team=widgets
ARG COLOUR=red
RUN apt-get update && \\
    apt-get install --yes runit && \\
    rm -rf /var/lib/apt/lists/*
COPY --chown=1000:1000 app /app
COPY run /etc/service/app/run
ENTRYPOINT ["/app/main"]
"""


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.list")
    options.add_argument("folders", nargs="*", type=int)
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    # As it is where the tool is installed; Invoke keeps Python from writing down what it compiles of a tasks file.
    compileall.compile_dir(Path(__file__).parents[2] / "buildtools", quiet=1)
    print(" folders  empty cache     warm      CPU  one parent  version  CPU, ms a folder")
    for count in chosen.folders or [250, 500, 1000]:
        with tempfile.TemporaryDirectory() as name:
            print(row(Path(name), count, chosen.rounds), flush=True)


def row(root: Path, count: int, rounds: int) -> str:
    make_repository(root, count)
    time.sleep(RACY_SECONDS)
    empty, before = timed(root, count)
    warm, cpu = median(root, count, rounds)

    changed = root / "src/docker/image0000/app/file0"
    status = changed.stat()
    changed.write_text(changed.read_text()[::-1])
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    parent, after = timed(root, count)
    assert {f"image{n:04}" for n in range(10)} == {name for name in before if before[name] != after[name]}

    git(root, "commit", "--quiet", "--all", "--message", "change")
    git(root, "tag", "--annotate", "--message", "release", "1.1")
    version, last = timed(root, count)
    assert after == last, "no stage declares the version, so it must not matter"
    # What one folder adds, apart from starting up: the smallest listing is one folder.
    _, start = median(root, count, rounds, "--only", "image0000")
    each = (cpu - start) / count * 1000
    return f"{count:>8} {empty:>11.2f}s {warm:>7.2f}s {cpu:>7.2f}s {parent:>10.2f}s {version:>7.2f}s {each:>17.2f}"


def median(root: Path, count: int, rounds: int, *arguments: str) -> tuple[float, float]:
    """Seconds of wall and of CPU time."""
    walls, cpus = [], []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(timed(root, count, *arguments)[0])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(walls), statistics.median(cpus)


def timed(root: Path, count: int, *arguments: str) -> tuple[float, dict[str, str]]:
    """Seconds that one ``invoke list`` took, and the fingerprints that it told."""
    command = [sys.executable, "-m", "invoke", "list", "--json", *arguments]
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=root, capture_output=True, env=environment(root))
    seconds = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr.decode()
    items = json.loads(done.stdout)["items"]
    assert (1 if arguments else count) == len(items)
    return seconds, {item["name"]: item["fingerprint"] for item in items}


def environment(root: Path) -> dict[str, str]:
    """Our own, with this checkout to import from and a home of the repository's own for its caches."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XDG_CACHE_HOME": str(root / ".cache")}


def make_repository(root: Path, count: int) -> None:
    for number in range(count):
        folder = root / "src" / "docker" / f"image{number:04}"
        (folder / "app").mkdir(parents=True)
        own = number % 10 == 0
        (folder / "Dockerfile").write_text(PARENT if own else CHILD.format(parent=f"image{number - number % 10:04}"))
        (folder / ".dockerignore").write_text("# what the editor leaves behind\n**/*.swp\n.git\n!keep.swp\n")
        (folder / "run").write_text("#!/bin/sh\nexec /app/main\n")
        for file in range(7):
            (folder / "app" / f"file{file}").write_text(f"{number} {file}\n" * 50)
    (root / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    (root / "pyproject.toml").write_text('[tool.buildtools]\nregistry = "registry.example.com"\n')
    (root / ".gitignore").write_text(".cache/\n__pycache__/\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    git(root, "tag", "--annotate", "--message", "release", "1.0")


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A. Author", "-c", "user.email=author@example.com"]
    subprocess.run([shutil.which("git") or "git", *identity, *arguments], cwd=root, check=True)


if __name__ == "__main__":
    main()
