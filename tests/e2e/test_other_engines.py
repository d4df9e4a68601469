"""One commit, released by this machine's engine and by one of Debian 13: what is the same, and what need not be."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from buildtools.image.engine.client import Engine
from tests.conftest import EngineService
from tests.e2e.project import MANIFEST_KINDS, Place, Project
from tests.image.images import load

pytestmark = pytest.mark.other_engine

SHORT = ("base", "child", "copy")


def on_engine(project: Project, engine: EngineService, name: str = "other") -> Project:
    """The same checkout on an agent with another engine and caches of its own."""
    home = project.home.with_name(f"{project.home.name}-{name}")
    home.mkdir()
    place = project.place
    variables = {**place.variables, **engine.environment}
    return replace(project, place=replace(place, engine=engine, variables=variables), home=home)


def in_namespace(project: Project, name: str) -> dict[str, str]:
    """The environment that lets a project release into a namespace of its own."""
    place = project.place
    return {
        "INVOKE_BUILDTOOLS_NAMESPACE": f"e2e/{project.mark}/{name}",
        "INVOKE_BUILDTOOLS_ARTIFACTS": f"s3://{place.bucket}/{project.mark}/{name}",
    }


def base_in_registry(place: Place, mark: str) -> str:
    """A base image that every engine has to pull from the registry."""
    repository = f"{place.registry}/e2e/{mark}/outside"
    user, _, password = place.login.partition(":")
    with closing(Engine.connect(place.engine.environment)) as engine:
        engine.tag(load(engine, [{"outside": mark.encode()}], ""), f"{repository}:1")
        login = {"username": user, "password": password}
        for line in engine.api.push(repository, "1", auth_config=login, stream=True, decode=True):
            assert "error" not in line
        engine.untag(f"{repository}:1")
    return f"{repository}:1"


@pytest.fixture
def agents(project: Project, other_engine: EngineService) -> tuple[Project, Project]:
    """One checkout on two agents: that of this machine's engine, and that of the other."""
    base = base_in_registry(project.place, project.mark)
    project.image("base", f'FROM {base}\nENV A=1\nSTOPSIGNAL 9\nCMD echo "$A"\n')
    project.image("child", "FROM base-{mark}\nUSER 1:2\nVOLUME /data\nONBUILD RUN true\n")
    project.image("copy", f"FROM {base}\nCOPY file /\n", file=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    return project, on_engine(project, other_engine)


def image(project: Project, repository: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Manifest, configuration and digest of version 1.0.0, as the registry has them."""
    status, body, headers = project.place.request("GET", f"{repository}/manifests/1.0.0", Accept=MANIFEST_KINDS)
    assert 200 == status, body
    manifest = json.loads(body)
    config = json.loads(project.place.request("GET", f"{repository}/blobs/{manifest['config']['digest']}")[1])
    return manifest, config, headers["Docker-Content-Digest"]


def test_one_commit_is_one_manifest_where_the_layers_are_the_same(agents: tuple[Project, Project]) -> None:
    released = {}
    for agent, name in zip(agents, ("ours", "theirs"), strict=True):
        variables = in_namespace(agent, name)
        assert "1.0.0 released 3 images" in agent.done("publish", **variables).last
        agent.done("verify", "--deep", **variables)
        released[name] = {short: image(agent, f"e2e/{agent.mark}/{name}/{agent.name(short)}") for short in SHORT}
    for short in ("base", "child"):
        assert released["ours"][short] == released["theirs"][short]
    # COPY makes a layer, and each engine makes it in its own way; whatever else is said of the image is the same.
    (ours, our_config, _), (theirs, their_config, _) = (released[name]["copy"] for name in ("ours", "theirs"))
    assert ours["layers"][0] == theirs["layers"][0]
    assert ours["layers"][1]["mediaType"] == theirs["layers"][1]["mediaType"]
    assert our_config.pop("rootfs")["diff_ids"][0] == their_config.pop("rootfs")["diff_ids"][0]
    assert our_config == their_config
    assert ours["mediaType"] == theirs["mediaType"]


def test_an_agent_with_another_engine_goes_on_where_the_first_stopped(agents: tuple[Project, Project]) -> None:
    ours, theirs = agents
    ours.done("push")
    digests = {short: ours.place.digest(ours.repository(short), "1.0.0") for short in SHORT}
    assert "3 already there" in theirs.done("push").last
    ours.commit("nothing that an image holds")
    ours.tag("1.1.0")
    assert "3 stamped" in theirs.done("push").last
    assert "3 already there" in ours.done("push").last
    assert digests == {short: ours.place.digest(ours.repository(short), "1.0.0") for short in SHORT}


@pytest.mark.images_in_engine
def test_one_commit_is_one_manifest_whatever_the_store_that_an_engine_of_one_version_keeps_images_in(
    project: Project, layers_engine: EngineService, content_engine: EngineService
) -> None:
    base = base_in_registry(project.place, project.mark)
    # More than one piece of what is read of containerd's store at once.
    project.image("copy", f"FROM {base}\nCOPY file /\n", file=project.mark * 500_000)
    project.commit("all")
    project.tag("1.0.0")
    released, archives = [], []
    for number, engine in enumerate((layers_engine, content_engine)):
        agent = on_engine(project, engine, str(number))
        outcome = agent.done("-d", "push", **in_namespace(agent, str(number)))
        archives.append("/images/get" in outcome.err)
        released.append(image(agent, f"e2e/{agent.mark}/{number}/{agent.name('copy')}"))
    assert released[0] == released[1]
    assert [True, False] == archives
