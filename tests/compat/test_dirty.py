"""``--dirty`` and ``--broken`` against the git at hand, on work trees changed step by step at random."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.compat.dirty_states import STEPS, Playground, Step

SEEDS = 36
STEPS_EACH = 12
MARKS = ("dirty", "broken")
NAMES = tuple(STEPS)
# Found wrong once, made small: where git meets damage, and what it meets before.
ONCE_WRONG: dict[str, list[Step]] = {
    "an impossible encoding behind a change": [("write", 0, 1), ("attributes", 0, 15)],
    "an impossible encoding before what only the index has": [("attributes", 0, 464), ("attributes", 7, 95)],
    "gitmodules without a section": [("write", 11, 494)],
    "broken gitmodules and no index": [("format", 0, 566), ("same size", 11, 733)],
    "damage in a moved submodule of a submodule": [("submodule", 0, 680), ("submodule", 0, 849)],
}


def assert_same_answers(play: Playground, steps: list[Step]) -> int:
    """Take the steps, asking both after each; the number of questions asked."""
    asked = 0
    for number in range(len(steps)):
        play.play(steps[number])
        before = play.index_file()
        ours = {mark: play.our_answer(mark) for mark in MARKS}
        our_paths = play.our_paths()
        assert before == play.index_file()
        assert {mark: play.gits_answer(mark) for mark in MARKS} == ours, steps[: number + 1]
        # Git lists what is below a folder that a sparse index has as one entry; we name the folder.
        if not any(path.endswith(b"/") for path in our_paths or ()):
            assert play.gits_paths() == our_paths, steps[: number + 1]
        asked += len(MARKS)
    return asked


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_state_of_a_random_work_tree_is_judged_as_git_does(seed: int, tmp_path: Path) -> None:
    chosen = random.Random(seed)
    play = Playground(tmp_path, sys.executable, "sha256" if seed % 9 == 0 else "sha1")
    steps = [(chosen.choice(NAMES), chosen.randrange(100), chosen.randrange(1000)) for _ in range(STEPS_EACH)]
    assert assert_same_answers(play, steps) == STEPS_EACH * len(MARKS)


@pytest.mark.parametrize("case", ONCE_WRONG)
def test_what_was_once_wrong_is_right(case: str, tmp_path: Path) -> None:
    assert_same_answers(Playground(tmp_path, sys.executable), ONCE_WRONG[case])


def test_enough_questions_are_asked() -> None:
    assert SEEDS * STEPS_EACH * len(MARKS) >= 800


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 99), st.integers(0, 999)), max_size=8))
def test_any_sequence_of_changes_is_judged_as_git_does(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_same_answers(Playground(Path(folder), sys.executable), steps)
