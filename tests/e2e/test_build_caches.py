"""A fresh agent runs again only what changed, where builds write their cache to a place that it can read."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools.image.engine.client import Engine
from buildtools.image.registry.manifest import DOCKER_LAYER
from tests.conftest import EngineService
from tests.e2e.conftest import MakeProject
from tests.e2e.project import MANIFEST_KINDS, Place, Project, fresh_agent

pytestmark = [pytest.mark.other_engine, pytest.mark.images_in_engine]

# Whoever runs the step again gets another layer of it. No other test has such a step.
DOCKERFILE = "FROM {base}\nRUN cat /proc/sys/kernel/random/uuid >/{mark}\nCOPY file /\n"
KINDS = ["registry", pytest.param("inline", marks=pytest.mark.exhaustive), "local"]


@pytest.fixture
def content_place(content_place: Place, registry_busybox: str) -> Place:
    """All agents have their base from one registry: what each imports by itself has a digest of its own.

    BuildKit finds the cache of a step by the digest of the image below, once it has built on that.
    """
    return replace(content_place, engine=replace(content_place.engine, base_busybox=registry_busybox))


@pytest.fixture
def fresh_engine(fresh_engine: EngineService, registry_busybox: str) -> EngineService:
    return replace(fresh_engine, base_busybox=registry_busybox)


def layers(project: Project, version: str) -> list[str]:
    """The layers of the image ``app``, by the digests of what is in them."""
    repository = project.repository("app")
    status, body, _ = project.place.request("GET", f"{repository}/manifests/{version}", Accept=MANIFEST_KINDS)
    assert 200 == status, body
    config = project.place.request("GET", f"{repository}/blobs/{json.loads(body)['config']['digest']}")[1]
    diff_ids: list[str] = json.loads(config)["rootfs"]["diff_ids"]
    return diff_ids


def released(project: Project, version: str, content: str, base: str = "{base}") -> list[str]:
    """The layers of a version in which a file has this content."""
    project.image("app", DOCKERFILE.replace("{base}", base), file=content)
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


def configure(project: Project, kind: str, folder: Path) -> None:
    """Let all images have a cache of this kind."""
    place = folder / "shared" / "{name}"
    written, read = {
        "registry": ("type=registry,mode=max", "type=registry"),
        "inline": ("type=inline", "type=registry"),
        "local": (f"type=local,dest={place},mode=max", f"type=local,src={place}"),
    }[kind]
    project.configure(cache_to=[written], cache_from=[read])


@pytest.fixture(params=KINDS)
def cached(request: pytest.FixtureRequest, project_in: MakeProject, content_place: Place, tmp_path: Path) -> Project:
    """A project whose images have a cache of one kind."""
    project = project_in(content_place)
    configure(project, request.param, tmp_path)
    return project


def test_a_fresh_agent_takes_unchanged_steps_from_a_cache(
    cached: Project, fresh_engine: EngineService, tmp_path: Path
) -> None:
    before, after = released_twice(cached, fresh_engine, tmp_path / "agent")
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


def test_an_agent_that_has_built_on_a_pulled_parent_takes_other_steps_on_it_from_a_cache(
    cached: Project, fresh_engine: EngineService, tmp_path: Path
) -> None:
    cached.image("parent", "FROM {base}\nCOPY file /\n", file=cached.mark)
    before = released(cached, "1.0.0", "one", base="parent-{mark}")
    agent = fresh_agent(cached, fresh_engine, tmp_path / "agent")
    agent.image("other", "FROM parent-{mark}\nRUN echo {mark}\n")
    agent.done("build", "--only", cached.name("other"))
    after = released(agent, "1.1.0", "two", base="parent-{mark}")
    agent.forget_images()
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


@pytest.mark.exhaustive
def test_layers_that_were_built_before_there_was_a_cache_are_compressed_as_without_one(
    project_in: MakeProject, content_place: Place, tmp_path: Path
) -> None:
    project = project_in(content_place)
    project.image("app", DOCKERFILE, file="one")
    project.commit("all")
    project.tag("1.0.0")
    project.done("build")
    configure(project, "registry", tmp_path)
    assert "1 direct" in project.done("push").last
    version = project.done("version").out.strip()
    body = project.place.request("GET", f"{project.repository('app')}/manifests/{version}", Accept=MANIFEST_KINDS)[1]
    assert {DOCKER_LAYER} == {layer["mediaType"] for layer in json.loads(body)["layers"]}


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
    configure(project, "local", shared)
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
