"""The transcripts of the documentation: blocks called ``console``, whose ``$`` lines a shell can run.

What follows a command is what it prints. A line ``...`` stands for any lines; where nothing follows, what is printed
does not matter. A command must succeed unless the last line that it is to print begins with ``error: ``. What differs
from run to run is not compared: digests, commits, times, dates, the width of columns.

A block whose first line is a comment with a path, as ``# tasks.py``, is that file, which is there from then on.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

_BLOCK = re.compile(r"^( *)```(?P<kind>\w+)\n(?P<content>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"# ([\w./-]+\.\w+)\n")
# The first that fits counts.
_VARIABLE = (
    (re.compile(r"sha256:[0-9a-f]{7,64}…?"), "sha256:DIGEST"),
    (re.compile(r"\bfp-[0-9a-f]{7,}"), "fp-DIGEST"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(T[\d:]+Z)?"), "DATE"),
    (re.compile(r"\bg?(?=[a-f]*\d)[0-9a-f]{7,64}\b"), "COMMIT"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"\bin \d+(\.\d+)? ?m?s\b"), "in TIME"),
    (re.compile(r" +"), " "),
)


@dataclass(frozen=True)
class Step:
    """One command of a page, where it stands, and what it is to print."""

    place: str
    command: str
    expected: str

    def fits(self, printed: str) -> bool:
        """Whether this is what the page says, but for what differs from run to run."""
        if not self.expected:
            return True
        lines = _without_variables(self.expected).splitlines()
        pattern = "".join("(?:.*\n)*?" if line == "..." else f"{re.escape(line)}\n" for line in lines)
        return re.fullmatch(pattern, _without_variables(printed)) is not None

    @property
    def fails(self) -> bool:
        """Whether the command is to fail."""
        return self.expected.rstrip().rpartition("\n")[2].startswith("error: ")


def steps_of(page: Path, name: str) -> list[Step]:
    """Every command of a page's transcripts, in order, and between them the files that the page shows."""
    text = page.read_text()
    steps: list[Step] = []
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 2
        content = dedent(block["content"])
        if block["kind"] == "console":
            steps += _steps(content, name, line)
        elif path := _PATH.match(content):
            steps.append(Step(f"{name}:{line}", f"cat >{path[1]} <<'END'\n{content}END", ""))
    return steps


def _steps(block: str, name: str, first_line: int) -> Iterator[Step]:
    for match in re.finditer(r"^\$ (.*(?:\n> .*)*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        line = first_line + block.count("\n", 0, match.start())
        yield Step(
            f"{name}:{line}", match[1].replace("\n> ", "\n"), match[2].strip("\n") + "\n" if match[2].strip() else ""
        )


def _without_variables(text: str) -> str:
    for pattern, name in _VARIABLE:
        text = pattern.sub(name, text)
    return "".join(f"{line.strip()}\n" for line in text.splitlines() if line.strip())


@dataclass(frozen=True)
class Shell:
    """A shell that begins in ``scratch``; what a command sets, and the folder that it goes to, are there for the next.

    ``names`` are what pages call things, and what they are called here. What begins with ``/srv/`` or ``/etc/`` lies in
    ``scratch``.
    """

    scratch: Path
    environment: Mapping[str, str]
    names: Mapping[str, str]

    def run(self, command: str) -> tuple[int, str]:
        """The exit code of a command, and what it printed, in the words of the pages."""
        state = self.scratch / "shell-state"
        command = re.sub(r"(?<![\w./])/(srv|etc)/", rf"{self.scratch}/\1/", command)
        for there, here in self.names.items():
            command = command.replace(there, here)
        # A page is one session: `$?`, too, is that of the command before.
        program = "\n".join(
            (
                f"[ ! -e {state} ] || . {state}",
                command,
                "code=$?",
                f"{{ export -p; printf 'cd %q; (exit %d)' \"$PWD\" $code; }} >{state}",
                "exit $code",
            )
        )
        done = subprocess.run(
            ["bash", "-c", program],
            cwd=self.scratch,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        printed = done.stdout.replace(str(self.scratch), "")
        for there, here in self.names.items():
            printed = printed.replace(here, there)
        return done.returncode, printed

    def differences(self, step: Step) -> str:
        """What is not as the page says, when a step is run; empty where all is."""
        code, printed = self.run(step.command)
        if step.fits(printed) and step.fails == bool(code):
            return ""
        return f"{step.place}: $ {step.command}\n--- the page\n{step.expected}--- exit code {code}\n{printed}"
