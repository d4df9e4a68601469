from __future__ import annotations

import errno
import os
from itertools import permutations
from pathlib import Path

import pytest
from invoke.exceptions import Exit

from buildtools import BuildToolsError, Conflict, Drifted, Failures, Refused, Unreachable
from buildtools.invocation import exit_codes

OUTAGE = Unreachable("no answer", "try again")
CONFLICT = Conflict("other content", "cut a new version", ["a line of a log"])
REFUSAL = Refused("no tag", "make one")
DRIFT = Drifted("an image is gone")
FAILURE = BuildToolsError("exit status 2")


def combined(*errors: BuildToolsError) -> BuildToolsError:
    return Failures(errors).combined("2 images failed", "fix them")


@pytest.mark.parametrize(
    ("exit_code", "errors"),
    [
        (4, (OUTAGE, Unreachable("no answer from another", "try again"))),
        (3, (OUTAGE, CONFLICT)),
        (3, (CONFLICT, REFUSAL, FAILURE)),
        (2, (REFUSAL, FAILURE, OUTAGE)),
        (5, (DRIFT, FAILURE)),
        (1, (FAILURE, OUTAGE)),
    ],
)
def test_the_exit_code_is_an_outage_only_where_all_are_and_else_the_gravest_in_any_order(
    exit_code: int, errors: tuple[BuildToolsError, ...]
) -> None:
    assert {exit_code} == {combined(*order).exit_code for order in permutations(errors)}
    assert {exit_code} == {type(combined(*order)).exit_code for order in permutations(errors)}


def test_every_message_and_detail_is_kept_and_a_summary_with_the_gravest_comes_last() -> None:
    messages = "no answer: try again\na line of a log\nother content: cut a new version\n\n"
    assert f"{messages}2 images failed, one reason: other content: fix them" == str(combined(OUTAGE, CONFLICT))


def test_one_failure_is_itself_even_if_it_came_twice() -> None:
    assert OUTAGE is combined(OUTAGE)
    assert str(OUTAGE) == str(combined(OUTAGE, Unreachable("no answer", "try again")))


def test_nothing_that_failed_has_no_exit_code() -> None:
    assert 0 == Failures(()).exit_code


def test_a_disk_that_cannot_be_written_is_one_message() -> None:
    with pytest.raises(Exit) as full, exit_codes():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/srv/a")
    expected = "error: cannot use /srv/a (No space left on device): correct that, and run the same command again"
    assert (1, expected) == (full.value.code, full.value.message)
    # Anything else may be a mistake of ours, whose place must be seen.
    with pytest.raises(FileNotFoundError), exit_codes():
        Path("absent").read_bytes()
