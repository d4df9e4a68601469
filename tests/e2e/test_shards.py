"""Agents that share nothing but the registry divide a version among them, each by itself."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from buildtools.image.registry.build_records import BuildRecord, BuildRecords, read_builds
from buildtools.image.registry.client import Registry
from tests.contract.registries import own_registry
from tests.e2e.conftest import MakeProject
from tests.e2e.project import Outcome, Place, Project

PARENTS = ("base", "tool")
APPS = ("a", "b", "c", "d", "e", "f")


@dataclass(frozen=True)
class Team:
    """A project of six images on two parents, and the agents that work on it, each with a home of its own."""

    project: Project
    folder: Path

    def agent(self, name: str) -> Project:
        return self.project.clone(self.folder / name)

    def plan(self, agent: Project) -> Any:
        return agent.done("plan", "--shards", "4", "--json").document["shards"]

    def builds(self, short: str) -> tuple[BuildRecord, ...]:
        with closing(Registry(self.project.place.registry)) as client:
            return read_builds(client, self.project.repository(short))

    def next_version(self, *, parents: float, apps: float) -> None:
        """Release 1.0.0, as if its builds had taken so many seconds, and cut 1.1.0, for which all are to be built."""
        self.project.done("publish")
        for short in ("base", "tool", *APPS):
            (last,) = self.builds(short)
            assert (self.project.name(short), True) == (last.name, last.seconds > 0)
            repository, seconds = self.project.repository(short), parents if short in PARENTS else apps
            with closing(Registry(self.project.place.registry)) as client:
                manifest = client.get_manifest(repository, "fp-records")
                assert manifest
                BuildRecords(client, "0" * 40).add(repository, manifest, {(last.name, last.fingerprint): seconds})
        for short in PARENTS:
            self.project.image(short, "FROM {base}\nCOPY data /\nRUN date > /date\n", data=f"another {short}")
        self.project.commit("other parents")
        self.project.tag("1.1.0")


@pytest.fixture
def team(place: Place, project_in: MakeProject, tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Team]:
    with own_registry(tmp_path / "registry", environment) as registry:
        project = project_in(replace(place, registry=registry.host, login=""))
        for short in PARENTS:
            project.image(short, "FROM {base}\nCOPY data /\nRUN date > /date\n", data=f"{short} {project.mark}")
        for short in APPS:
            both = "FROM base-{mark}\nCOPY --from=tool-{mark} data /tool\nCOPY data /own\nRUN date > /own-date\n"
            project.image(short, both, data=f"{short} {project.mark}")
        project.commit("all")
        project.tag("1.0.0")
        yield Team(project, tmp_path / "agents")


def builds_begun(outcome: Outcome) -> list[str]:
    return [line.split("]")[0][1:] for line in outcome.err.splitlines() if line.endswith("] build started")]


def test_four_agents_of_whom_one_dies_leave_to_publish_what_that_one_had_left(team: Team) -> None:
    team.next_version(parents=1.0, apps=20.0)
    agents = [team.agent(f"agent{number}") for number in range(1, 5)]
    shares = [set(share["names"]) for share in team.plan(agents[0])["shares"]]
    assert {team.project.name(short) for short in PARENTS} == set.intersection(*shares)
    assert {team.project.name(short) for short in (*APPS, *PARENTS)} == set.union(*shares)
    processes = [agent.start("push", "--shard", f"{number}/4") for number, agent in enumerate(agents, 1)]
    assert processes[2].stderr
    for line in processes[2].stderr:
        if line.endswith("] build started\n"):
            os.killpg(processes[2].pid, signal.SIGKILL)
            break
    outcomes = [agent.finish(process) for agent, process in zip(agents, processes, strict=True)]
    assert [0, 0, -signal.SIGKILL, 0] == [outcome.code for outcome in outcomes], [each.err for each in outcomes]
    # An agent that comes late finds the shares that the others found, though most of it is built.
    assert shares == [set(share["names"]) for share in team.plan(team.agent("late"))["shares"]]
    published = team.agent("publisher").done("publish")
    assert set(builds_begun(published)) <= shares[2]
    assert [] == builds_begun(team.project.done("publish"))
    assert 0 == team.agent("auditor").done("verify").code
    plan = team.project.done("plan", "--shards", "2")
    assert "0 images to build, 8 in the registry" == plan.last
    assert {"built"} == {line.split()[1] for line in plan.out.splitlines()[1:]}


@pytest.mark.exhaustive
def test_a_share_that_died_is_made_up_for_by_running_it_again_and_publish_builds_nothing(team: Team) -> None:
    team.next_version(parents=1.0, apps=20.0)
    agents = [team.agent(f"agent{number}") for number in range(1, 3)]
    dead = agents[1].start("push", "--shard", "2/2")
    assert dead.stderr
    for line in dead.stderr:
        if line.endswith("] build started\n"):
            os.killpg(dead.pid, signal.SIGKILL)
            break
    agents[1].finish(dead)
    for number, agent in enumerate(agents, 1):
        agent.done("push", "--shard", f"{number}/2")
    assert [] == builds_begun(team.agent("publisher").done("publish"))


@pytest.mark.exhaustive
def test_slow_parents_are_built_by_one_agent_each_before_the_others_begin(team: Team) -> None:
    team.next_version(parents=100.0, apps=100.0)
    empty = team.agent("empty").done("push", "--shard", "9/9", "--parents")
    assert ("", "this share is empty: nothing to push") == (empty.out.strip(), empty.last)
    agents = [team.agent(f"agent{number}") for number in range(1, 5)]
    shards = team.plan(agents[0])
    parents = {team.project.name(short) for short in PARENTS}
    assert [1, 1, 0, 0] == sorted((len(share["names"]) for share in shards["first_wave"]), reverse=True)
    assert [100.0] * 2 == [share["seconds"] for share in shards["first_wave"] if share["names"]]
    begun: list[str] = []
    for number, agent in enumerate(agents, 1):
        begun += builds_begun(agent.done("push", "--shard", f"{number}/4", "--parents"))
    assert parents == set(begun)
    for number, agent in enumerate(agents, 1):
        begun += builds_begun(agent.done("push", "--shard", f"{number}/4"))
    assert sorted({*parents, *(team.project.name(short) for short in APPS)}) == sorted(begun)
    assert shards == team.plan(team.agent("late"))
    assert [] == builds_begun(team.agent("publisher").done("publish"))


@pytest.mark.exhaustive
def test_agents_that_are_handed_a_plan_push_what_it_says_and_no_other(team: Team) -> None:
    team.next_version(parents=100.0, apps=100.0)
    planner = team.agent("planner")
    plan = planner.path.parent / "plan.json"
    plan.write_text(planner.done("plan", "--shards", "2", "--json").out)
    for options in (["--parents"], []):
        for number in range(1, 3):
            agent = team.agent(f"agent{number}{''.join(options)}")
            agent.done("push", "--shard", f"{number}/2", "--plan", str(plan), *options)
    assert [] == builds_begun(team.agent("publisher").done("publish"))
    fewer = planner.invoke("push", "--shard", "1/3", "--plan", str(plan))
    assert (2, f"error: {plan} has 2 shares, not 3") == (fewer.code, fewer.last.partition(": write")[0])
    team.project.commit("another")
    other = team.agent("other").invoke("push", "--shard", "1/2", "--plan", str(plan))
    assert (2, True) == (other.code, f"{plan} is the plan of 1.1.0, and this is 1.1.0-1-g" in other.last)
    for text in ("", "[]", "{}", '{"shards": {"first_wave": [], "shares": [{}]}}'):
        plan.write_text(text)
        outcome = planner.invoke("push", "--shard", "1/1", "--plan", str(plan))
        assert (2, True) == (outcome.code, f"{plan} is not a plan with shares" in outcome.last)
    plan.unlink()
    assert (
        "cannot be read (No such file or directory)"
        in planner.invoke("push", "--shard", "1/1", "--plan", str(plan)).last
    )


def test_a_plan_says_why_and_touches_nothing(team: Team) -> None:
    team.project.done("publish")
    name, base = team.project.name("f"), team.project.name("base")
    team.project.image("base", "FROM {base}\nCOPY data /\n", data="another")
    team.project.commit("another base")
    team.project.tag("1.1.0")
    before = team.project.world()
    outcome = team.project.done("plan")
    # It remembers what it has read.
    assert {**before, "files": {}} == {**team.project.world(), "files": {}}
    (row,) = [line.split(maxsplit=3) for line in outcome.out.splitlines() if line.startswith(name)]
    assert ["to", f"parent {base} changed"] == [row[1], row[3].split(maxsplit=1)[1]]
    assert "7 images to build, 1 in the registry" == outcome.last
    elsewhere = team.agent("elsewhere").done("plan", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert f"built on {base}, which is built again" in elsewhere.out


def test_what_builders_build_is_written_down_before_it_is_there(project: Project, tmp_path: Path) -> None:
    project.image("base", "FROM scratch\nCOPY data /\n", data=project.mark)
    project.image("child", "FROM base-{mark}\nCOPY data /own\n", data=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    log = tmp_path / "requests.log"
    project.done("build", INVOKE_BUILDTOOLS_BUILDER=project.place.engine.host, BUILDTOOLS_LOG=str(log))
    for short in ("base", "child"):
        tags = re.findall(rf" PUT \S+{project.repository(short)}/manifests/(fp-\w+)", log.read_text())
        assert ("fp-records", 2) == (tags[0], len(tags)), tags
    assert "0 images to build, 2 in the registry" == project.done("plan", "--shards", "2").last


def test_a_project_that_was_never_built_gives_each_agent_something_to_do(project: Project) -> None:
    project.image("base", "FROM scratch\nCOPY data /\n", data=project.mark)
    for short in APPS[:4]:
        project.image(short, "FROM base-{mark}\nCOPY data /\n", data=short)
    project.commit("all")
    project.tag("1.0.0")
    outcome = project.done("plan", "--shards", "4")
    assert "5 images to build, 0 in the registry; 4 shares; first --parents, then the others" == outcome.last
    rows = [line.split() for line in outcome.out.splitlines()[1:]]
    assert {f"{number}/4" for number in range(1, 5)} == {row[4] for row in rows[1:]}
    assert "; 1 share" == project.done("plan", "--shards", "1").last[-9:]


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["plan", "--shards", "0"], "--shards 0 is not a whole number from 1 to 9999"),
        (["plan", "--shards", "10000"], "--shards 10000 is not a whole number from 1 to 9999"),
        (["push", "--shard", "5/4"], "--shard 5/4 is not a share"),
        (["push", "--shard", "1/4", "--only", "a"], "--shard goes with neither --only nor --dry-run"),
        (["push", "--parents"], "--parents and --plan need --shard"),
    ],
)
def test_what_makes_no_sense_is_refused(project: Project, arguments: list[str], fact: str) -> None:
    project.image("app", "FROM scratch\n")
    outcome = project.invoke(*arguments)
    assert (2, True) == (outcome.code, outcome.last.startswith(f"error: {fact}")), outcome.err
