"""``python -m bench.describe``: ratios of medians, ours to a ``git describe`` process, measured in turns.

Repositories are made with ``git fast-import`` and thrown away. ``--files`` and ``--commits`` make it smaller for a
quick look; the limits hold for the defaults.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.git.describe import describe
from buildtools.git.storage.commits import known_commits

ENVIRONMENT = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
DATE = 1_600_000_000

Ask = Callable[[], object]


def stream(commits: int, tag_at: int, *, merges: bool = False, annotated: bool = True, files: int = 1) -> Iterator[str]:
    """What ``git fast-import`` reads: a history with one tag; every other commit a merge of a side branch."""
    yield "blob\nmark :1000000000\ndata 2\nx\n\n"
    side = 0
    for number in range(1, commits + 1):
        date = DATE + 60 * number
        branch = "side" if merges and number % 4 == 2 else "main"
        yield f"commit refs/heads/{branch}\nmark :{number}\ncommitter Ann Other <ann.other@example.com> {date} +0100\n"
        yield f"data <<END\nchange number {number} of the service\nEND\n"
        if number > 1:
            yield f"from :{number - 2 if number - 1 == side else number - 1}\n"
        if branch == "side":
            side = number
        elif merges and number % 4 == 0 and side:
            yield f"merge :{side}\n"
        if number == 1:
            for place in range(files):
                yield f"M 100644 :1000000000 d{place // 100}/f{place}\n"
        yield "\n"
        if number == tag_at and annotated:
            yield f"tag v1\nfrom :{number}\ntagger Ann Other <ann.other@example.com> {date} +0100\ndata 2\nx\n\n"
        elif number == tag_at:
            yield f"reset refs/tags/v1\nfrom :{number}\n\n"


def made(folder: Path, **shape: int | bool) -> Path:
    """A repository of this shape."""
    folder.mkdir()
    text = "".join(stream(**shape))  # type: ignore[arg-type]  # every shape is spelled by hand below
    git(folder, "init", "-q", "-b", "main")
    subprocess.run(["git", "fast-import", "--quiet"], cwd=folder, env=ENVIRONMENT, input=text.encode(), check=True)
    return folder


def git(folder: Path, *arguments: str) -> None:
    """Run git, which must succeed."""
    subprocess.run(["git", *arguments], cwd=folder, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def with_graph(folder: Path) -> Path:
    """A copy with a commit-graph."""
    copy = folder.with_name(f"{folder.name}-graph")
    shutil.copytree(folder, copy)
    git(copy, "commit-graph", "write", "--reachable")
    return copy


def process(folder: Path, *command: str, path: str = "") -> Ask:
    """Start a process and wait for its end; its stdout is the answer."""
    environment = {**ENVIRONMENT, **({"PYTHONPATH": path} if path else {})}
    return lambda: subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    ).stdout.decode()


def in_process(folder: Path, dirty: str | None = None, *, first: bool = False) -> Ask:
    """Our answer, as git would print it; with ``first`` as if this process had never read a commit."""

    def ask() -> str:
        if first:
            known_commits.cache_clear()
        try:
            return describe(folder, environment=ENVIRONMENT, dirty=dirty).text + "\n"
        except BuildToolsError:
            return ""

    return ask


def medians(theirs: Ask, ours: Ask, rounds: int, *, same: bool = True) -> tuple[float, float]:
    """Seconds of each, asked in turns after one round that does not count."""
    expected, actual = theirs(), ours()
    if same and expected != actual:
        sys.exit(f"different answers: {expected!r} and {actual!r}")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for ask, spent in zip((theirs, ours), times, strict=True):
            start = time.perf_counter()
            ask()
            spent.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def report(case: str, limit: float, found: tuple[float, float]) -> bool:
    """Print one line of the table."""
    theirs, ours = found
    ratio = ours / theirs
    print(f"| {case} | {theirs * 1e3:.1f} ms | {ours * 1e3:.1f} ms | {ratio:.2f} | {limit} |", flush=True)
    return ratio <= limit


def compare_with_git(root: Path, commits: int, files: int, rounds: int) -> bool:
    """The cases of a ``git describe`` process; whether all are within their limits."""
    few = max(rounds // 3, 5)
    small = made(root / "small", commits=100, tag_at=50)
    git(small, "reset", "-q", "--hard")
    merges = made(root / "merges", commits=commits, tag_at=commits - 100, merges=True)
    linear = made(root / "linear", commits=commits, tag_at=1)
    light = made(root / "light", commits=commits, tag_at=1, annotated=False)
    wide = made(root / "wide", commits=2, tag_at=1, files=files)
    git(wide, "reset", "-q", "--hard")
    # Written in the same second as the files, the index would have to be checked against their content each time.
    time.sleep(1.1)
    git(wide, "update-index", "-q", "--really-refresh")
    plain = ("git", "describe")
    cases = [
        ("100 commits", 0.5, small, rounds, None),
        ("100 commits, --dirty", 0.5, small, rounds, "-dirty"),
        (f"{commits} commits with merges, tag 100 back", 0.4, merges, rounds, None),
        ("the same with a commit-graph", 0.4, with_graph(merges), rounds, None),
        (f"{commits} linear commits from the tag", 2.0, linear, few, None),
        ("the same with a commit-graph", 1.5, with_graph(linear), few, None),
        (f"only lightweight tags, {commits} commits", 0.2, light, few, None),
        (f"--dirty, {files} files, clean", 2.5, wide, few, "-dirty"),
    ]
    print("| case | git describe | in process | ratio | at most |\n| --- | --- | --- | --- | --- |")
    fine = True
    for case, limit, folder, count, dirty in cases:
        theirs = process(folder, *plain, *(["--dirty"] if dirty else []))
        fine = report(case, limit, medians(theirs, in_process(folder, dirty), count)) and fine
        if folder in (small, merges, linear):
            first = in_process(folder, dirty, first=True)
            fine = report(f"{case}, asked for the first time", limit, medians(theirs, first, count)) and fine
    return fine


def compare_starts(root: Path, rounds: int) -> bool:
    """How long programs take to start and answer; whether within their limits."""
    folder = root / "small"
    here = str(Path(__file__).resolve().parents[2])
    # As it is where the tool is installed; Invoke keeps Python from writing down what it compiles of a tasks file.
    compileall.compile_dir(f"{here}/buildtools", quiet=1)
    (folder / "bare_tasks.py").write_text(
        "from invoke import task\n\n@task\ndef version(c):\n    print('v1-50-g0000000')\n"
    )
    (folder / "full_tasks.py").write_text("from buildtools.tasks import namespace\n")
    python = sys.executable
    invoke = (python, "-m", "invoke", "-c")
    print("\n| program | compared with | ours | ratio | at most |\n| --- | --- | --- | --- | --- |")
    fine = [
        report(
            "python -m buildtools.git.describe, next to python -c pass",
            3.0,
            medians(
                process(folder, python, "-c", "pass", path=here),
                process(folder, python, "-m", "buildtools.git.describe", path=here),
                rounds,
                same=False,
            ),
        ),
        report(
            "invoke version, next to a task that only prints",
            1.3,
            medians(
                process(folder, *invoke, "bare_tasks", "version", path=here),
                process(folder, *invoke, "full_tasks", "version", path=here),
                rounds,
                same=False,
            ),
        ),
    ]
    return all(fine)


def main() -> None:
    """Measure, print, and end with 1 when a limit is not kept."""
    options = argparse.ArgumentParser(prog="python -m bench.describe", description=__doc__)
    options.add_argument("--commits", type=int, default=40_000)
    options.add_argument("--files", type=int, default=50_000)
    options.add_argument("--rounds", type=int, default=31)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fine = compare_with_git(root, given.commits, given.files, given.rounds)
        fine = compare_starts(root, given.rounds) and fine
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
