"""A fresh agent runs again only what changed, where builds write their cache to a place that it can read."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools.image.engine.client import Engine
from tests.conftest import EngineService
from tests.e2e.conftest import MakeProject
from tests.e2e.project import MANIFEST_KINDS, Place, Project

pytestmark = [pytest.mark.other_engine, pytest.mark.images_in_engine]

# Whoever runs the step again gets another layer of it. No other test has such a step.
DOCKERFILE = "FROM {base}\nRUN cat /proc/sys/kernel/random/uuid >/{mark}\nCOPY file /\n"


def layers(project: Project, version: str) -> list[str]:
    """The layers of the image ``app``, by the digests of what is in them."""
    repository = project.repository("app")
    status, body, _ = project.place.request("GET", f"{repository}/manifests/{version}", Accept=MANIFEST_KINDS)
    assert 200 == status, body
    config = project.place.request("GET", f"{repository}/blobs/{json.loads(body)['config']['digest']}")[1]
    diff_ids: list[str] = json.loads(config)["rootfs"]["diff_ids"]
    return diff_ids


def fresh_agent(project: Project, engine: EngineService, folder: Path) -> Project:
    """The same project on an agent whose engine has built nothing of it."""
    agent = project.clone(folder)
    variables = {**project.place.variables, **engine.environment}
    return replace(agent, place=replace(project.place, engine=engine, variables=variables))


def released(project: Project, version: str, content: str) -> list[str]:
    """The layers of a version in which a file has this content."""
    project.image("app", DOCKERFILE, file=content)
    project.commit(version)
    project.tag(version)
    project.done("push")
    return layers(project, version)


def released_twice(project: Project, engine: EngineService, folder: Path) -> tuple[list[str], list[str]]:
    """The layers of two versions, between which a file changed and the agent was replaced by a fresh one."""
    before = released(project, "1.0.0", "one")
    agent = fresh_agent(project, engine, folder)
    after = released(agent, "1.1.0", "two")
    agent.forget_images()
    return before, after


def in_registry() -> dict[str, list[str]]:
    return {"cache_to": ["type=registry,mode=max"], "cache_from": ["type=registry"]}


def in_folder(path: Path) -> dict[str, list[str]]:
    folder = path / "shared" / "{name}"
    return {"cache_to": [f"type=local,dest={folder},mode=max"], "cache_from": [f"type=local,src={folder}"]}


@pytest.mark.parametrize("kind", ["registry", pytest.param("inline", marks=pytest.mark.exhaustive), "local"])
def test_a_fresh_agent_takes_unchanged_steps_from_a_cache(
    project_in: MakeProject, content_place: Place, fresh_engine: EngineService, tmp_path: Path, kind: str
) -> None:
    project = project_in(content_place)
    inline = {"cache_to": ["type=inline"], "cache_from": ["type=registry"]}
    project.configure(**{"registry": in_registry(), "inline": inline, "local": in_folder(tmp_path)}[kind])
    before, after = released_twice(project, fresh_engine, tmp_path / "agent")
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


@pytest.mark.exhaustive
def test_without_a_cache_it_runs_them_again(
    project_in: MakeProject, content_place: Place, fresh_engine: EngineService, tmp_path: Path
) -> None:
    before, after = released_twice(project_in(content_place), fresh_engine, tmp_path / "agent")
    assert before[-2] != after[-2]


@pytest.mark.exhaustive
def test_an_engine_that_keeps_no_content_writes_a_cache_into_the_image(
    project_in: MakeProject, place: Place, layers_engine: EngineService, tmp_path: Path
) -> None:
    variables = {**place.variables, **layers_engine.environment}
    project = project_in(replace(place, engine=layers_engine, variables=variables))
    project.configure(cache_to=["type=inline"], cache_from=["type=registry"])
    before = released(project, "1.0.0", "one")
    project.forget_images()
    with closing(Engine.connect(layers_engine.environment)) as engine, engine.errors():
        engine.api.prune_images()
        engine.api.prune_builds()
    assert before[:-1] == released(project.clone(tmp_path / "agent"), "1.1.0", "two")[:-1]


def built_with_folder(project: Project, shared: Path) -> Path:
    """Build a project of one image; the folder that then has its cache."""
    project.configure(**in_folder(shared))
    project.image("app", DOCKERFILE, file="one")
    project.commit("all")
    project.tag("1.0.0")
    project.done("build")
    return shared / "shared" / project.name("app")


@pytest.mark.exhaustive
def test_a_folder_is_one_that_other_clients_of_buildkit_read(
    project_in: MakeProject, content_place: Place, tmp_path: Path
) -> None:
    folder = built_with_folder(project_in(content_place), tmp_path)
    (entry,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    assert {"org.opencontainers.image.ref.name": "latest"} == entry["annotations"]
    blobs = {path.name: path.read_bytes() for path in (folder / "blobs/sha256").iterdir()}
    assert [] == [name for name, content in blobs.items() if hashlib.sha256(content).hexdigest() != name]
    manifest = json.loads(blobs[entry["digest"].removeprefix("sha256:")])
    members = manifest.get("manifests") or [manifest["config"], *manifest["layers"]]
    assert {member["digest"].removeprefix("sha256:") for member in members} < blobs.keys()
    assert sorted(path.name for path in folder.iterdir()) == ["blobs", "index.json", "oci-layout"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("damage", ["blobs are cut", "blobs are gone", "index is broken"])
def test_a_damaged_folder_costs_time_only(
    project_in: MakeProject, content_place: Place, fresh_engine: EngineService, tmp_path: Path, damage: str
) -> None:
    project = project_in(content_place)
    folder = built_with_folder(project, tmp_path)
    for path in (folder / "blobs/sha256").iterdir():
        if damage == "blobs are cut":
            path.write_bytes(path.read_bytes()[:-1])
        elif damage == "blobs are gone":
            path.unlink()
    if damage == "index is broken":
        (folder / "index.json").write_text("[]")
    agent = fresh_agent(project, fresh_engine, tmp_path / "agent")
    assert "1 built" in agent.done("build").last
    agent.forget_images()
