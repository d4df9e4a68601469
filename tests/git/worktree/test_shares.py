"""Many entries are looked at in several processes, with the same outcome as in one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildtools.git.errors import DamagedRepository
from buildtools.git.repository import Repository
from buildtools.git.worktree.shares import gathered
from buildtools.git.worktree.status import changed_paths
from buildtools.git.worktree.tracked_files import LEAST_SHARE
from tests.git.reference import environment, git

FILES = 2 * LEAST_SHARE


def odd(first: int, end: int | None) -> list[int]:
    """The odd numbers below a hundred thousand, of one share; more than fits into a pipe."""
    return list(range(first | 1, 100_000 if end is None else end, 2))


def test_all_shares_come_back_in_order() -> None:
    assert odd(0, None) == gathered(odd, 100_000, 3)


def test_a_share_whose_process_dies_is_worked_out_here() -> None:
    here = os.getpid()

    def found(first: int, end: int | None) -> list[int]:
        if os.getpid() != here:
            os._exit(7)
        return odd(first, end)

    assert odd(0, None) == gathered(found, 100_000, 3)


def children() -> set[str]:
    """The processes that this one has started and not seen the end of; what runs for other tests is among them."""
    return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}


def test_no_child_is_left_behind() -> None:
    before = children()
    gathered(odd, 100, 4)
    assert before == children()


def test_an_error_of_the_last_share_leaves_no_child_behind() -> None:
    def found(first: int, end: int | None) -> list[int]:
        if end is None:
            raise DamagedRepository("a damaged index")
        return odd(first, end)

    before = children()
    with pytest.raises(DamagedRepository):
        gathered(found, 100, 4)
    assert before == children()


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    for number in range(FILES):
        path = tmp_path / f"d{number // 500:03}" / f"f{number % 500:03}"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_changes_are_found_in_every_share(wide: Path) -> None:
    expected = ("d000/f000", "d007/f499", "d008/f000", "d012/f123", "d015/f499")
    for path in expected:
        (wide / path).write_text("changed")
    assert expected == changed_paths(Repository.open(wide, environment(wide / "home")))


def test_an_index_that_is_cut_off_is_damage_in_whichever_share(wide: Path) -> None:
    index = wide / ".git" / "index"
    whole = index.read_bytes()
    for share in (0.1, 0.9):
        index.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DamagedRepository):
            changed_paths(Repository.open(wide, environment(wide / "home")))
