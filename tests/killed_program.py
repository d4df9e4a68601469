"""``buildtools``, killed before it changes a file for the n-th time: what is left must be whole.

usage: python -m tests.killed_program N WORDS TASK…; a change counts where its path holds WORDS.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHANGES = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.chmod")


def killed_at(number: int, words: str, *arguments: str, folder: Path, environment: Mapping[str, str]) -> bool:
    """Run a task in ``folder``, and tell whether it was killed; else it must have succeeded."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_program", str(number), words, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def _main() -> None:
    left, words = int(sys.argv[1]), sys.argv[2]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            left -= words in str(arguments[0])
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    from buildtools.program import main

    sys.argv[:] = ["buildtools", *sys.argv[3:]]
    sys.addaudithook(hook)
    main()


if __name__ == "__main__":
    _main()
