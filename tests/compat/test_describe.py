"""``describe`` against the git at hand: random histories, stored in every way, asked random questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.histories import HISTORIES, STORAGES, TAGS, made, questions
from tests.compat.oracle import GIT, Worker, differences

SEEDS = 130
QUESTIONS_EACH = 25


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_history_is_described_as_git_does(seed: int, tmp_path: Path, worker: Worker) -> None:
    history = made(seed, tmp_path)
    asked = questions(history, seed, QUESTIONS_EACH)
    assert [] == differences(worker, asked)


def test_enough_is_asked_and_every_kind_comes_up(tmp_path: Path) -> None:
    assert SEEDS * QUESTIONS_EACH >= 3_000
    kinds: set[str] = set()
    for seed in range(len(STORAGES) * 3):
        kinds |= made(seed, tmp_path / str(seed)).kinds
    assert {*STORAGES, *HISTORIES, *TAGS} == kinds


@pytest.mark.skipif(GIT < (2, 46), reason="this git cannot make tables; tests/git/test_reftable.py writes some")
@pytest.mark.parametrize("seed", range(20))
def test_refs_in_tables_are_read_as_git_reads_them(seed: int, tmp_path: Path, worker: Worker) -> None:
    history = made(seed * len(STORAGES), tmp_path)
    history.shop.git("refs", "migrate", "--ref-format=reftable")
    assert [] == differences(worker, questions(history, seed, QUESTIONS_EACH))
