"""The same question to git and to us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.compat.workshop import CLEAN, git_version

GIT = git_version()
WALK = "2.48" if GIT >= (2, 48) else "2.47"


@dataclass(frozen=True)
class Question:
    """``arguments`` of ``git describe``, asked in ``cwd`` with ``environment`` on top of a clean one."""

    cwd: Path
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    kind: str = ""


@dataclass(frozen=True)
class Answer:
    """Exit status and stdout."""

    status: int
    stdout: str


class Worker:
    """Our program, answering one question after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "buildtools.git.describe", "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**CLEAN, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[str] = self._process.stdin
        self._stdout: IO[str] = self._process.stdout

    def ask(self, question: Question) -> Answer:
        arguments = [f"--walk={WALK}", *question.arguments]
        asked = {"cwd": str(question.cwd), "args": arguments, "env": question.environment}
        self._stdin.write(json.dumps(asked) + "\n")
        self._stdin.flush()
        answer = json.loads(self._stdout.readline())
        return Answer(answer["rc"], answer["stdout"])

    def close(self) -> None:
        self._stdin.close()
        self._process.wait()
        self._stdout.close()


def ask_git(question: Question) -> Answer:
    done = subprocess.run(
        ["git", "describe", *question.arguments],
        cwd=question.cwd,
        env={**CLEAN, **question.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return Answer(done.returncode, done.stdout.decode("utf-8", "surrogateescape"))


def differences(worker: Worker, questions: list[Question]) -> list[str]:
    """What git and we answer differently, ready to be read."""
    found = []
    for question in questions:
        expected, actual = ask_git(question), worker.ask(question)
        if expected != actual:
            found.append(f"{question.kind}: {question.arguments} {question.environment}: {expected} != {actual}")
    return found
