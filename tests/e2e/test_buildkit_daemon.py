"""Releases whose images are built with a BuildKit daemon, which keeps none: the registry has all of them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.e2e.conftest import MakeProject
from tests.e2e.project import Project

pytestmark = pytest.mark.other_engine


def without_engine(project: Project, buildkit_host: str) -> Project:
    place = project.place
    variables = {**place.variables, "BUILDKIT_HOST": buildkit_host, "DOCKER_HOST": "unix:///nonexistent"}
    return replace(project, place=replace(place, variables=variables))


@pytest.fixture
def daemon_project(project_in: MakeProject, buildkit_host: str) -> Project:
    """A project on an agent that has no engine."""
    project = without_engine(project_in(), buildkit_host)
    project.image("base", "FROM scratch\nCOPY file /\n", file=project.mark)
    project.image("child", "FROM base-{mark}\nCOPY own /\n", own="1")
    project.image("copy", "FROM scratch\nCOPY --from=child-{mark} /own /\n")
    project.commit("all")
    project.tag("1.0.0")
    return project


def test_a_release_needs_no_engine(daemon_project: Project) -> None:
    project = daemon_project
    assert "3 not built" in project.done("list").last
    assert "1.0.0 released 3 images" in project.done("publish").last
    project.done("verify", "--deep")
    assert "3 up to date" in project.done("list").last

    project.commit("nothing that an image holds")
    project.tag("1.1.0")
    assert "3 stamped" in project.done("push").last

    project.image("child", "FROM base-{mark}\nCOPY own /\n", own="2")
    assert "context: own changed" in project.done("list", "--why", project.name("child")).out
    project.commit("another child")
    project.tag("1.2.0")
    plan = project.done("plan")
    assert "2 images to build, 1 in the registry" == plan.last
    # What the first build took is written down in the registry.
    row = rf"^{project.name('child')} +to build +[0-9.]+s +context: own changed$"
    assert re.search(row, plan.out, re.MULTILINE), plan.out
    routes = project.done("push").last
    assert "2 builder" in routes
    assert "1 stamped" in routes
    tags = {project.place.digest(project.repository("base"), tag) for tag in ("1.0.0", "1.1.0", "1.2.0")}
    assert 3 == len(tags)


@pytest.mark.exhaustive
def test_what_was_built_is_not_built_again_by_another_agent(daemon_project: Project) -> None:
    project = daemon_project
    assert "3 built" in project.done("build").last
    other = project.clone(project.path.parent / "other")
    assert "3 up to date" in other.done("build").last
    assert "3 stamped" in other.done("push").last
    assert "3 already there" in project.done("push").last


@pytest.mark.exhaustive
def test_a_failed_build_leaves_no_tag_and_the_next_run_goes_on(daemon_project: Project) -> None:
    project = daemon_project
    project.image("child", "FROM base-{mark}\nCOPY missing /\n")
    project.commit("broken")
    project.tag("1.1.0")
    outcome = project.invoke("push")
    assert 1 == outcome.code
    assert f"skipped for that: {project.name('copy')}" in outcome.last
    repositories = [project.repository(short) for short in ("base", "child", "copy")]
    assert not [tag for tag in project.place.tags(*repositories) if tag.endswith(":1.1.0")]
    project.image("child", "FROM base-{mark}\nCOPY own /\n", own="1")
    project.commit("mended")
    project.tag("1.2.0")
    assert "1 stamped" in project.done("push").last


@pytest.mark.exhaustive
def test_what_keeps_no_images_needs_a_registry_and_has_nothing_to_tag(daemon_project: Project) -> None:
    project = daemon_project
    assert "which keeps none to tag: `invoke push` gives them" in project.invoke("tag").last
    project.configure(registry="")
    outcome = project.invoke("build")
    assert 2 == outcome.code
    assert "no registry is configured to push them into" in outcome.last


def test_a_variable_that_is_no_address_is_refused_before_anything_else(project: Project) -> None:
    project.image("base", "FROM scratch\nCOPY file /\n", file=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    for task in ("check", "list", "push"):
        outcome = project.invoke(task, BUILDKIT_HOST="kube-pod://builder")
        assert (2, True) == (outcome.code, "BUILDKIT_HOST must be unix:///PATH, tcp://HOST:PORT" in outcome.err)


@pytest.mark.exhaustive
def test_a_builder_that_does_not_answer_is_an_outage(daemon_project: Project) -> None:
    outcome = daemon_project.invoke("build", BUILDKIT_HOST="unix:///nonexistent")
    assert 4 == outcome.code
    assert "no BuildKit daemon answers at unix:///nonexistent" in outcome.err


def test_platforms_of_an_image_may_have_the_same_new_layer(project_in: MakeProject, buildkit_host: str) -> None:
    project = without_engine(project_in(), buildkit_host)
    for number in range(6):
        project.image(f"app{number}", "FROM scratch\nCOPY file /\n", file=f"{project.mark} {number}" * 100_000)
    project.configure(platforms=["linux/amd64", "linux/arm64"])
    project.commit("all")
    project.tag("1.0.0")
    assert "1.0.0 released 6 images" in project.done("publish").last
    project.done("verify", "--deep")
