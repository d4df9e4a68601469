"""Agents share nothing but the registry: what one has pushed, the next neither builds nor pulls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conftest import EngineService
from tests.contract.registries import OwnRegistry, own_registry
from tests.e2e.conftest import MakeProject
from tests.e2e.project import MANIFEST_KINDS, Outcome, Place, Project, fresh_agent

SHORT = ("a", "b", "base", "c")
NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}


@dataclass(frozen=True)
class Team:
    """A released project and its registry; every agent that works on it begins with nothing."""

    project: Project
    registry: OwnRegistry

    def fresh_agent(self, *, engine: bool = True) -> Outcome:
        """What publishing comes to on an agent with an empty engine, or none, and an empty cache."""
        self.project.forget_images()
        shutil.rmtree(self.project.home)
        self.project.home.mkdir()
        return self.project.invoke("publish", "--json", **({} if engine else NO_ENGINE))

    def next_version(self, name: str) -> None:
        self.project.commit(name)
        self.project.tag(name)

    def labels(self, short: str, tag: str) -> dict[str, str]:
        repository = self.project.repository(short)
        body = self.project.place.request("GET", f"{repository}/manifests/{tag}", Accept=MANIFEST_KINDS)[1]
        config = self.project.place.request("GET", f"{repository}/blobs/{json.loads(body)['config']['digest']}")[1]
        labels: dict[str, str] = json.loads(config)["config"]["Labels"]
        return labels


@pytest.fixture
def team(place: Place, project_in: MakeProject, tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Team]:
    with own_registry(tmp_path / "registry", environment) as registry:
        project = project_in(replace(place, registry=registry.host, login=""))
        project.image("base", "FROM scratch\nCOPY data /\n", data=project.mark)
        for short in ("a", "b", "c"):
            project.image(short, "FROM base-{mark}\nCOPY data /own\n", data=f"{short} {project.mark}")
        project.commit("all")
        project.tag("1.0.0")
        project.done("publish")
        yield Team(project, registry)


def began(outcome: Outcome, action: str) -> list[str]:
    return [line for line in outcome.err.splitlines() if line.endswith(f"] {action} started")]


@pytest.mark.parametrize("has_engine", [True, False])
def test_a_new_version_of_unchanged_images_builds_and_pulls_nothing(team: Team, has_engine: bool) -> None:
    team.next_version("1.1.0")
    outcome = team.fresh_agent(engine=has_engine)
    assert 0 == outcome.code, outcome.err
    assert ([], []) == (began(outcome, "build"), began(outcome, "pull"))
    assert {} == team.project.images()
    assert dict.fromkeys(SHORT, "1.1.0") == {
        short: team.labels(short, "1.1.0")["org.opencontainers.image.version"] for short in SHORT
    }
    assert 0 == team.project.invoke("verify", **NO_ENGINE).code


@pytest.mark.other_engine
@pytest.mark.images_in_engine
def test_a_child_is_built_on_a_pulled_parent_of_which_the_engine_has_layers_in_another_form(
    project_in: MakeProject, content_place: Place, fresh_engine: EngineService, registry_busybox: str, tmp_path: Path
) -> None:
    project = project_in(content_place)
    # That engine has imported the files of this base image, and so does not fetch the layer that a push has made of it.
    project.image("parent", f"FROM {registry_busybox}\nCOPY file /\n", file=project.mark)
    project.commit("a parent")
    project.tag("1.0.0")
    project.done("push")
    agent = fresh_agent(project, fresh_engine, tmp_path / "agent")
    agent.image("child", "FROM parent-{mark}\nCOPY file /child\n", file=project.mark)
    agent.commit("a child")
    agent.tag("1.1.0")
    outcome = agent.done("publish")
    assert ([f"[{project.name('parent')}] pull started"], [f"[{project.name('child')}] build started"]) == (
        began(outcome, "pull"),
        began(outcome, "build"),
    )
    assert 0 == agent.invoke("verify", **NO_ENGINE).code
    agent.forget_images()


def test_a_wiped_registry_gets_everything_anew(team: Team) -> None:
    team.registry.stop()
    shutil.rmtree(team.registry.store)
    team.registry.start()
    team.next_version("1.1.0")
    outcome = team.fresh_agent()
    assert 0 == outcome.code, outcome.err
    assert 4 == len(began(outcome, "build"))
    assert all(team.project.place.digest(team.project.repository(short), "1.1.0") for short in SHORT)


@pytest.mark.images_in_engine
def test_an_agent_that_remembers_does_not_believe_itself_when_the_registry_was_wiped(team: Team) -> None:
    team.registry.stop()
    shutil.rmtree(team.registry.store)
    team.registry.start()
    team.next_version("1.1.0")
    outcome = team.project.done("publish")
    assert [] == began(outcome, "build")
    assert 0 == team.project.invoke("verify", **NO_ENGINE).code


@pytest.mark.parametrize("part", ["layer", "config"])
def test_a_fingerprint_that_lost_a_part_is_built_anew(team: Team, part: str) -> None:
    repository = team.project.repository("a")
    tag = next(tag for tag in team.project.place.tags(repository) if ":fp-" in tag).rpartition(":")[2]
    body = team.project.place.request("GET", f"{repository}/manifests/{tag}", Accept=MANIFEST_KINDS)[1]
    manifest = json.loads(body)
    lost = manifest["config"] if part == "config" else manifest["layers"][-1]
    team.registry.blob(lost["digest"]).unlink()
    team.next_version("1.1.0")
    outcome = team.fresh_agent()
    assert 0 == outcome.code, outcome.err
    assert f"[{team.project.name('a')}] build started" in began(outcome, "build")
    assert 0 == team.project.invoke("verify", **NO_ENGINE).code


def test_a_version_that_lost_a_part_before_its_release_is_made_whole(team: Team) -> None:
    team.next_version("1.1.0")
    team.project.done("push")
    repository = team.project.repository("a")
    body = team.project.place.request("GET", f"{repository}/manifests/1.1.0", Accept=MANIFEST_KINDS)[1]
    team.registry.blob(json.loads(body)["config"]["digest"]).unlink()
    team.registry.blob(json.loads(body)["layers"][-1]["digest"]).unlink()
    team.project.done("publish")
    assert 0 == team.project.invoke("verify", **NO_ENGINE).code


def test_a_dirty_tag_may_move_and_a_version_may_not(team: Team) -> None:
    project = team.project
    data = f"src/docker/{project.name('a')}/data"
    repository = project.repository("a")
    name = project.name("daemon")
    made = f"mkdir -p build/d && cp {data} build/d"
    project.configure(moving_tags=["latest"], distribution={name: {"command": made, "root": "build/d"}})
    digests = []
    for content in ("one", "two"):
        project.write(data, content)
        outcome = project.done("publish", "--allow-dirty")
        assert "staged 1.0.0-dirty: " in outcome.last
        digests.append(project.place.digest(repository, "1.0.0-dirty"))
    assert ("", False) not in {(digest, digest == "") for digest in digests}
    assert 2 == len({*digests})
    assert [f"{project.mark}/{name}/{name}-1.0.0-dirty.tgz"] == [
        key for key in project.place.objects() if project.mark in key and "dirty" in key
    ]
    assert "" == project.place.digest(repository, "latest")
    before = project.place.digest(repository, "1.0.0")
    project.git("tag", "--delete", "1.0.0")
    project.commit("other content")
    project.tag("1.0.0")
    for command in ("push", "publish"):
        refused = project.invoke(command)
        assert (3, True) == (refused.code, refused.last.startswith("error: ")), refused.err
    assert before == project.place.digest(repository, "1.0.0")


def test_moving_tags_move_forward_only(team: Team) -> None:
    project = team.project
    project.configure(moving_tags=["latest", "{major}.{minor}"])
    project.commit("moving tags")
    project.tag("2.0.0")
    project.done("publish")
    newest = project.place.digest(project.repository("a"), "2.0.0")
    project.git("checkout", "--quiet", "-b", "maintenance", "HEAD")
    project.commit("a fix for an old release", **{f"src/docker/{project.name('a')}/data": "fixed"})
    project.tag("1.0.1")
    project.git("tag", "--delete", "2.0.0")
    project.done("publish")
    tags = {tag: project.place.digest(project.repository("a"), tag) for tag in ("latest", "2.0", "1.0", "1.0.1")}
    assert {"latest": newest, "2.0": newest, "1.0": tags["1.0.1"], "1.0.1": tags["1.0.1"]} == tags
    assert newest != tags["1.0.1"]


@pytest.mark.images_in_engine
def test_while_the_engine_is_away_the_version_says_for_which_platform_it_is(project: Project, closed: str) -> None:
    project.image("app", "FROM scratch\nCOPY file /\n", file=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    # As an engine of such a machine builds it.
    project.done("push", INVOKE_BUILDTOOLS_PLATFORM="linux/riscv64")

    away = {"DOCKER_HOST": f"tcp://{closed}"}
    assert "1 already there" in project.done("push", **away).last
    assert f"{project.name('app')} would not change\n" == project.done("push", "--dry-run", **away).out
    assert "0 images to build" in project.done("plan", **away).last
    assert "1.0.0 released 1 image" in project.done("publish", **away).last
    project.image("app", "FROM scratch\nCOPY file /\n", file="another")
    project.commit("another")
    project.git("tag", "-f", "-a", "-m", "1.0.0", "1.0.0")
    assert 3 == project.invoke("push", **away).code
