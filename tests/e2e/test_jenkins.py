"""The Jenkinsfile: the page, the repository's own and what ``init`` writes agree, and it runs as Jenkins runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.e2e.project import Project
from tests.payload.conftest import require

pytestmark = pytest.mark.exhaustive

ROOT = Path(__file__).parent.parent.parent
TEMPLATE = (ROOT / "buildtools/templates/Jenkinsfile").read_text()
AGENT = Path(__file__).with_name("jenkins_agent.groovy")
# Debian's, as its Gradle has it.
GROOVY = ("java", "-XX:TieredStopAtLevel=1", "-cp", "/usr/share/java/groovy-all.jar", "groovy.ui.GroovyMain")
# Of a user that is not the one who builds, as in a container whose agent mounts the workspace.
SOMEBODY = 4711


@dataclass(frozen=True)
class Job:
    """A workspace and what Jenkins gives to a build in it."""

    workspace: Path
    variables: Mapping[str, str]
    credentials: Mapping[str, Mapping[str, str]] = field(repr=False)

    def start(self, **variables: str) -> subprocess.Popen[str]:
        """A build, in a process group of its own."""
        folder = self.workspace.parent
        build = folder / f"build-{len(list(folder.glob('build-*')))}.json"
        temporary = f"{self.workspace}@tmp"
        named = {"WORKSPACE": str(self.workspace), "WORKSPACE_TMP": temporary, "CI": "true", "JENKINS_URL": "http://j/"}
        known = {**self.variables, **named, **variables}
        build.write_text(
            json.dumps({"workspace": str(self.workspace), "variables": known, "credentials": self.credentials})
        )
        return subprocess.Popen(
            [*GROOVY, AGENT, self.workspace / "Jenkinsfile", build],
            env={"PATH": os.environ["PATH"]},
            umask=0o077,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def build(self, *, code: int = 0, **variables: str) -> list[dict[str, Any]]:
        """What happened in a build that must end with ``code``."""
        process = self.start(**variables)
        out, err = process.communicate()
        assert (code, False) == (process.returncode, "Traceback" in err), out[-4000:] + err[-4000:]
        return [json.loads(line) for line in out.splitlines()]


def values(events: list[dict[str, Any]], key: str) -> list[Any]:
    """What the events say about one thing, in their order."""
    return [event[key] for event in events if key in event]


def job(project: Project, workspace: Path, *, program: str = "") -> Job:
    """A job in a clone; ``program`` is a shell script that stands in for the tool."""
    (workspace / ".venv/bin").mkdir(parents=True)
    installed = workspace / ".venv/bin/buildtools"
    if program:
        installed.write_text(f'#!/bin/sh\necho "$*" >>../calls\n{program}\n')
        installed.chmod(0o755)
    else:
        installed.symlink_to(Path(sys.executable).with_name("buildtools"))
    variables = dict(project.environment())
    credentials = {
        "registry-login": {"file": f"{variables.pop('DOCKER_CONFIG')}/config.json"},
        "artifacts": {"user": variables.pop("AWS_ACCESS_KEY_ID"), "password": variables.pop("AWS_SECRET_ACCESS_KEY")},
    }
    del variables["HOME"]
    return Job(workspace, variables, credentials)


def groovy_blocks() -> list[str]:
    page = (ROOT / "docs/jenkins.md").read_text()
    return re.findall(r"^```groovy\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_page_shows_what_init_writes() -> None:
    assert TEMPLATE == groovy_blocks()[0]


def test_this_repository_differs_in_how_it_installs_the_tool_alone() -> None:
    mine = (ROOT / "Jenkinsfile").read_text().splitlines()
    pairs = [pair for pair in zip(TEMPLATE.splitlines(), mine, strict=True) if pair[0] != pair[1]]
    ((theirs, own),) = pairs
    assert (True, "sh 'script/bootstrap'") == ("pip install" in theirs, own.strip())


@pytest.fixture
def released(project: Project) -> Project:
    """A project whose tags have a slash in them, and its first one."""
    require("java")
    project.configure(tag_prefix="release/")
    project.write("Jenkinsfile", TEMPLATE)
    project.write(".gitignore", ".venv/\ndist/\n")
    project.image("app", "FROM {base}\nCOPY data /\n", data=project.mark)
    project.commit("first")
    project.tag("release/1.0.0")
    return project


def test_a_tag_with_a_slash_is_released_from_a_shallow_detached_clone_of_somebody_else_without_a_home(
    released: Project, tmp_path: Path
) -> None:
    workspace = tmp_path / "a job@2"
    released.git(
        "clone", "--quiet", "--depth", "1", "--branch", "release/1.0.0", released.path.as_uri(), str(workspace)
    )
    built = job(released, workspace)
    for path in (workspace, *workspace.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    events = built.build(TAG_NAME="release/1.0.0")
    assert ["version", "build", "gate", "publish", "promote"] == values(events, "stage")
    assert ["1.0.0"] == values(events, "description")
    assert {0} == set(values(events, "code"))
    assert not (tmp_path / "a job@2@tmp/docker").exists()
    suites = {path.stem: ElementTree.parse(path).getroot() for path in (workspace / "dist/junit").glob("*.xml")}
    assert {"build", "publish", "verify"} == suites.keys()
    assert {"0"} == {suite.attrib["failures"] for suite in suites.values()}
    names = [case.attrib["name"] for case in suites["verify"].iter("testcase")]
    assert [f"image {released.name('app')}", "verify"] == names
    assert (workspace / "dist/1.0.0/release.env").exists()


def test_a_branch_is_built_and_not_released(released: Project, tmp_path: Path) -> None:
    events = job(released, released.clone(tmp_path / "agent").path).build(BRANCH_NAME="main")
    assert ["buildtools version"] == values(events, "sh")[2:3]
    assert [] == [line for line in values(events, "sh") if "publish" in line]


def test_two_builds_in_one_workspace_both_end_well(released: Project, tmp_path: Path) -> None:
    both = job(released, released.clone(tmp_path / "agent").path)
    processes = [both.start(BRANCH_NAME="main") for _ in range(2)]
    outcomes = [(*process.communicate(), process.returncode) for process in processes]
    assert [0, 0] == [code for _, _, code in outcomes], outcomes


def test_an_aborted_build_is_ended_by_the_next(released: Project, tmp_path: Path) -> None:
    released.image("slow", "FROM {base}\nRUN echo begun && sleep 300\n")
    released.commit("slow")
    workspace = released.clone(tmp_path / "agent").path
    aborted = job(released, workspace)
    process = aborted.start(BRANCH_NAME="main")
    assert process.stderr
    for line in process.stderr:
        if "| begun" in line:
            break
    for pid in children(process.pid):
        # One that lives for a moment only may be gone by now.
        with suppress(ProcessLookupError):
            os.killpg(os.getpgid(pid), signal.SIGTERM)
    out, _ = process.communicate()
    assert [{"sh": "buildtools build --junit dist/junit/build.xml", "code": 143}] == [
        event for event in map(json.loads, out.splitlines()) if event.get("code")
    ]
    shutil.rmtree(workspace / "src/docker" / released.name("slow"))
    assert {0} == set(values(aborted.build(BRANCH_NAME="main"), "code"))


def children(pid: int) -> Iterator[int]:
    """The processes that a process has started."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from children(int(child))
            yield int(child)


RETRIED = "buildtools publish --junit dist/junit/publish.xml"


@pytest.mark.parametrize("code", [1, 2, 3, 5])
def test_a_failure_is_not_tried_again_and_stops_the_later_stages(released: Project, tmp_path: Path, code: int) -> None:
    stand_in = f'[ "$1" != publish ] || exit {code}'
    events = job(released, released.clone(tmp_path / "agent").path, program=stand_in).build(code=1, TAG_NAME="1.0.0")
    assert [code] == [event["code"] for event in events if event.get("sh") == RETRIED]
    assert ([], [f"{RETRIED} ended with exit code {code}"]) == (values(events, "sleep"), values(events, "failure"))
    assert [] == [line for line in values(events, "sh") if "verify" in line]


def test_an_outage_is_tried_three_times_with_a_wait_between(released: Project, tmp_path: Path) -> None:
    stand_in = '[ "$1" != publish ] || exit 4'
    events = job(released, released.clone(tmp_path / "agent").path, program=stand_in).build(code=1, TAG_NAME="1.0.0")
    assert [4, 4, 4] == [event["code"] for event in events if event.get("sh") == RETRIED]
    assert ([60, 60], [f"{RETRIED} ended with exit code 4"]) == (values(events, "sleep"), values(events, "failure"))


def test_an_outage_that_ends_lets_the_release_go_on(released: Project, tmp_path: Path) -> None:
    stand_in = '[ "$1" != publish ] || [ "$(grep -c publish ../calls)" = 2 ] || exit 4'
    events = job(released, released.clone(tmp_path / "agent").path, program=stand_in).build(TAG_NAME="1.0.0")
    assert [4, 0] == [event["code"] for event in events if event.get("sh") == RETRIED]
    assert "buildtools verify --junit dist/junit/verify.xml" in values(events, "sh")


@pytest.mark.parametrize(("task", "reached"), [("check", ["version"]), ("build", ["version", "build"])])
def test_an_early_failure_leaves_all_later_stages_out(
    released: Project, tmp_path: Path, task: str, reached: list[str]
) -> None:
    stand_in = f'[ "$1" != {task} ] || exit 2'
    events = job(released, released.clone(tmp_path / "agent").path, program=stand_in).build(code=1, TAG_NAME="1.0.0")
    assert reached == [event["stage"] for event in events if event.get("reached")]
    assert ["dist/junit/*.xml"] == values(events, "junit")


def test_a_gate_that_fails_keeps_the_release_back(released: Project, tmp_path: Path) -> None:
    released.write("compose.yaml", "services: {}")
    released.commit("a gate")
    stand_in = '[ "$1" != stage ] || exit 1'
    events = job(released, released.clone(tmp_path / "agent").path, program=stand_in).build(code=1, TAG_NAME="1.0.0")
    assert ["buildtools stage --junit dist/junit/stage.xml ended with exit code 1"] == values(events, "failure")
    assert [] == [line for line in values(events, "sh") if "publish" in line]


@pytest.mark.parametrize("variables", [{}, {"PROMOTE_TO": "stage"}, {"PROMOTE_TO": "stage", "TAG_NAME": ""}])
def test_a_tag_is_promoted_where_the_job_says_to_where(
    released: Project, tmp_path: Path, variables: dict[str, str]
) -> None:
    stand_in = '[ "$1" != version ] || echo 1.0.0'
    built = job(released, released.clone(tmp_path / "agent").path, program=stand_in)
    built.build(code=0, **{"TAG_NAME": "release/1.0.0", **variables})
    calls = (built.workspace.parent / "calls").read_text().splitlines()
    promoted = ["promote 1.0.0 --to stage"] if variables == {"PROMOTE_TO": "stage"} else []
    assert promoted == [call for call in calls if call.startswith("promote")]


def test_what_was_released_passes_the_gate_before_it_is_promoted(released: Project, tmp_path: Path) -> None:
    released.write("compose.yaml", "services: {}")
    released.commit("a gate")
    built = job(released, released.clone(tmp_path / "agent").path, program='[ "$1" != version ] || echo 1.0.0')
    built.build(code=0, TAG_NAME="release/1.0.0", PROMOTE_TO="production")
    calls = [line.split()[0] for line in (built.workspace.parent / "calls").read_text().splitlines()]
    assert ["build", "stage", "publish", "verify", "version", "stage", "version", "promote"] == calls[-8:]


@pytest.fixture
def divided(released: Project) -> Project:
    """The same project with six images on a parent, released by many agents."""
    functions = TEMPLATE.partition("pipeline {")[0]
    released.write("Jenkinsfile", functions + groovy_blocks()[1])
    released.image("base", "FROM {base}\nCOPY data /\nRUN date > /date\n", data=released.mark)
    for short in ("a", "b", "c", "d", "e", "f"):
        released.image(
            short, "FROM base-{mark}\nCOPY data /own\nRUN date > /own-date\n", data=f"{short} {released.mark}"
        )
    released.commit("many agents")
    released.tag("release/1.1.0")
    return released


PUSHED = [f"buildtools push --shard {share}/4{options}" for options in (" --parents", "") for share in range(1, 5)]


def test_many_agents_push_a_share_each_and_publish_finds_all_of_it(divided: Project, tmp_path: Path) -> None:
    built = job(divided, divided.clone(tmp_path / "agent").path)
    process = built.start(TAG_NAME="release/1.1.0")
    out, err = process.communicate()
    events = [json.loads(line) for line in out.splitlines()]
    assert (0, {0}) == (process.returncode, set(values(events, "code"))), err
    assert PUSHED == [line for line in values(events, "sh") if line.startswith("buildtools push")]
    begun = err.partition("+ buildtools publish")
    assert 8 == len(set(re.findall(r"^\[(.*)\] build started", begun[0], re.MULTILINE)))
    assert [] == re.findall(r"\] build started", begun[2])


def test_a_share_whose_agent_dies_is_made_up_for_by_publish(divided: Project, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("buildtools")
    dies = f'case "$*" in *"--shard 2/4"*) kill -9 $$ ;; esac\nexec {program} "$@"'
    built = job(divided, divided.clone(tmp_path / "agent").path, program=dies)
    events = built.build(TAG_NAME="release/1.1.0")
    assert [PUSHED[1], PUSHED[5]] == [event["sh"] for event in events if event.get("code")]
    assert 2 == len(values(events, "caught"))
    assert "buildtools verify --junit dist/junit/verify.xml" == values(events, "sh")[-2]


def test_a_branch_is_planned_and_not_pushed(divided: Project, tmp_path: Path) -> None:
    events = job(divided, divided.clone(tmp_path / "agent").path, program=":").build(BRANCH_NAME="main")
    assert "buildtools plan --shards 4" in values(events, "sh")
    assert [] == [line for line in values(events, "sh") if "push" in line or "publish" in line]
