"""How a run looks: live on a terminal, whole prefixed lines in a file, one object a line for programs."""

from __future__ import annotations

import json
import os
import pty
import re
from contextlib import suppress

import pytest

from tests.e2e.conftest import MakeProject
from tests.e2e.project import Project

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-7]|9[0-7]|38;[0-9;]+)m")


@pytest.fixture(scope="module")
def project(make_project_here: MakeProject) -> Project:
    project = make_project_here()
    project.image("base", "FROM {base}\nRUN echo {mark}; echo said by base\n")
    project.image("app", "FROM base-{mark}\nRUN echo said by app\n")
    project.commit("all")
    project.tag("1.0.0")
    project.done("build")
    return project


def on_a_terminal(project: Project, *arguments: str, **variables: str) -> tuple[int, str]:
    """How a command ends whose standard error is a terminal, and all that the terminal got."""
    ours, theirs = pty.openpty()
    process = project.start(*arguments, stderr=theirs, **{"TERM": "xterm-256color", "COLUMNS": "100", **variables})
    os.close(theirs)
    got = b""
    with suppress(OSError):  # how Linux says that the other side is closed
        while chunk := os.read(ours, 1 << 16):
            got += chunk
    os.close(ours)
    process.communicate()
    return process.returncode, got.decode()


def test_a_terminal_is_redrawn_and_ends_with_the_summary(project: Project) -> None:
    code, got = on_a_terminal(project, "build", "--no-cache")
    lines = re.split(r"[\r\n]+", ESCAPE.sub("", got).rstrip())
    assert (0, "built 2 images: 2 built") == (code, lines[-1])
    # Erase in Line, https://www.xfree86.org/current/ctlseqs.html
    assert f"… {project.name('base')}  build" in got
    assert "\x1b[2K" in got
    assert COLOUR.search(got)
    done = [line for line in lines if line.startswith("✓ ")]
    assert [f"✓ {project.name('base')}", f"✓ {project.name('app')}"] == [line.partition("  ")[0] for line in done]


def test_a_terminal_shows_a_failure_and_its_log_below(project: Project) -> None:
    project.image("bad", "FROM {base}\nRUN echo {mark} the reason; exit 5\n")
    code, got = on_a_terminal(project, "build")
    (project.path / "src/docker" / project.name("bad") / "Dockerfile").unlink()
    (project.path / "src/docker" / project.name("bad")).rmdir()
    lines = re.split(r"[\r\n]+", ESCAPE.sub("", got).rstrip())
    assert 1 == code
    assert f"  | {project.mark} the reason" in lines
    assert "exit code 5" in got


@pytest.mark.parametrize("mode", ["plain", "json", "live"])
def test_a_run_ends_as_it_would_when_nobody_reads_what_it_says(project: Project, mode: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = project.start("build", "--no-cache", "--json", "--progress", mode, stderr=theirs)
    os.close(theirs)
    out, _ = process.communicate()
    assert (0, ["built", "built"]) == (process.returncode, [each["outcome"] for each in json.loads(out)["items"]])


def test_no_color_is_obeyed(project: Project) -> None:
    code, got = on_a_terminal(project, "build", "--no-cache", NO_COLOR="1")
    assert (0, None) == (code, COLOUR.search(got))


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"CI": "true"}], ids=["dumb", "CI"])
def test_a_dumb_terminal_and_a_ci_server_get_plain_lines(project: Project, variables: dict[str, str]) -> None:
    code, got = on_a_terminal(project, "build", **variables)
    assert (0, "built 2 images: 2 up to date", False) == (code, got.splitlines()[-1], "\x1b" in got)


def test_a_file_gets_whole_prefixed_lines(project: Project) -> None:
    outcome = project.done("build", "--no-cache", TERM="xterm-256color")
    *lines, last = outcome.err.splitlines()
    names = "|".join(project.name(short) for short in ("app", "base"))
    assert [] == [line for line in lines if not re.match(rf"\[(?:{names})\] \S", line)]
    assert ("built 2 images: 2 built", False) == (last, "\x1b" in outcome.err + outcome.out)
    for short in ("app", "base"):
        mine = [line for line in lines if line.startswith(f"[{project.name(short)}] ")]
        assert f"[{project.name(short)}] build started" == mine[0]
        assert re.fullmatch(rf"\[{project.name(short)}\] build done in [0-9.ms]+: sha256:[0-9a-f]{{64}}", mine[-1])
        assert f"[{project.name(short)}] | said by {short}" in mine


def test_programs_get_one_object_a_line(project: Project) -> None:
    outcome = project.done("build", "--no-cache", "--progress", "json")
    events = [json.loads(line) for line in outcome.err.splitlines()]
    assert {"event": "summary", "text": "built 2 images: 2 built", "failed": False} == {
        key: value for key, value in events[-1].items() if key != "time"
    }
    assert {project.name(short) for short in ("app", "base")} == {
        event["subject"] for event in events if event["event"] == "log"
    }
