"""``describe`` against the git at hand: random histories, stored in every way, asked random questions."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildtools.git.naming.describe_command import describe_command
from tests.compat.histories import HISTORIES, STORAGES, TAGS, made, questions
from tests.compat.oracle import GIT, WALK, Question, Worker, differences
from tests.compat.workshop import CLEAN, Workshop

SEEDS = 121
QUESTIONS_EACH = 25


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_history_is_described_as_git_does(seed: int, tmp_path: Path, worker: Worker) -> None:
    history = made(seed, tmp_path)
    asked = questions(history, seed, QUESTIONS_EACH)
    assert [] == differences(worker, asked)


# Where ties decide, in a graph that has a part of the commits only: their keys are then of two types.
TIES = [
    seed
    for seed in range(len(STORAGES) * len(HISTORIES) * 8)
    if STORAGES[seed % len(STORAGES)] == "commit-graph chain"
    and HISTORIES[seed % len(HISTORIES)] in ("criss-cross", "equal dates")
]


@pytest.mark.parametrize("seed", TIES)
def test_ties_in_a_part_of_a_graph_are_decided_as_git_decides_them(seed: int, tmp_path: Path, worker: Worker) -> None:
    history = made(seed, tmp_path)
    assert [] == differences(worker, questions(history, seed, QUESTIONS_EACH))


@pytest.mark.parametrize("seed", range(20))
def test_the_walk_is_reported_as_git_reports_it(seed: int, tmp_path: Path) -> None:
    for question in questions(made(seed, tmp_path), seed, 8):
        arguments = ["--debug", *question.arguments]
        asked = subprocess.run(
            ["git", "describe", *arguments],
            cwd=question.cwd,
            env={**CLEAN, **question.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        _, _, ours = describe_command(
            str(question.cwd), [f"--walk={WALK}", *arguments], {**CLEAN, **question.environment}
        )
        assert reported(os.fsdecode(asked.stderr)) == reported(ours), question


_REPORTED = re.compile(r"describe |No exact|finished| (head|lightweight|annotated) |traversed|more than|gave up|found ")


def reported(stderr: str) -> list[str]:
    """What was said of the walk, without warnings and messages."""
    return [line for line in stderr.splitlines() if _REPORTED.match(line)]


def test_enough_is_asked_and_every_kind_comes_up(tmp_path: Path) -> None:
    assert SEEDS * QUESTIONS_EACH >= 3_000
    kinds: set[str] = set()
    for seed in range(len(STORAGES) * 3):
        kinds |= made(seed, tmp_path / str(seed)).kinds
    assert {*STORAGES, *HISTORIES, *TAGS} == kinds


@pytest.mark.skipif(GIT < (2, 46), reason="this git cannot make tables; tests/git/storage/test_reftable.py writes some")
@pytest.mark.parametrize("seed", range(20))
def test_refs_in_tables_are_read_as_git_reads_them(seed: int, tmp_path: Path, worker: Worker) -> None:
    history = made(seed * len(STORAGES), tmp_path)
    history.shop.git("refs", "migrate", "--ref-format=reftable")
    assert [] == differences(worker, questions(history, seed, QUESTIONS_EACH))


@st.composite
def commits(draw: st.DrawFn) -> list[tuple[list[int], int, str]]:
    """A history as (parents by number, date, kind of tag), which shrinks towards few commits in a line."""
    made: list[tuple[list[int], int, str]] = []
    for number in range(draw(st.integers(1, 14))):
        parents = draw(st.lists(st.integers(0, number - 1), max_size=3)) if number else []
        made.append((parents, draw(st.integers(0, 6)), draw(st.sampled_from(["", "", "annotated", "lightweight"]))))
    return made


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    commits(), st.lists(st.sampled_from(["--tags", "--first-parent", "--candidates=1", "--candidates=2"]), unique=True)
)
def test_any_history_is_described_as_git_does(
    worker: Worker, history: list[tuple[list[int], int, str]], options: set[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder) / "repository")
        ids: list[str] = []
        for number, (parents, date, tag) in enumerate(history):
            ids.append(shop.commit([ids[parent] for parent in parents], 1_000_000_000 + date, str(number)))
            if tag == "annotated":
                shop.annotate(f"v{number}", ids[-1])
            elif tag:
                shop.ref(f"refs/tags/v{number}", ids[-1])
        shop.ref("refs/heads/main", ids[-1])
        assert [] == differences(worker, [Question(shop.path, tuple(sorted(options)))])
