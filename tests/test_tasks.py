"""The tasks as building blocks of somebody's own collection."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What a process has for all that runs in it, as Python shows it; the first import brings what Invoke itself changes.
STATE = """
import atexit, gc, logging, os, signal, sys
import invoke
def state():
    return (
        gc.get_threshold(), gc.get_freeze_count(), sys.dont_write_bytecode, atexit._ncallbacks(), os.getcwd(),
        dict(os.environ), list(sys.path), [signal.getsignal(n) for n in signal.valid_signals()], logging.root.handlers,
    )
"""


def difference(program: str) -> str:
    """What ``program`` changes of a process, as pairs of before and after."""
    compared = "print([pair for pair in zip(before, state()) if pair[0] != pair[1]])"
    done = subprocess.run(
        [sys.executable, "-c", f"{STATE}\nbefore = state()\n{program}\n{compared}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().rpartition("\n")[2]


@pytest.mark.parametrize("module", ["buildtools.tasks", "buildtools.api", "buildtools.program"])
def test_importing_changes_nothing_of_the_process(module: str) -> None:
    assert "[]" == difference(f"import {module}")
