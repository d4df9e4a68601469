"""A fresh agent runs again only what changed, where builds write their cache to a place that it can read."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools.image.engine.client import Engine
from tests.conftest import EngineService
from tests.e2e.conftest import MakeProject
from tests.e2e.project import MANIFEST_KINDS, Place, Project

pytestmark = pytest.mark.other_engine

# Whoever runs the step again gets another layer of it.
DOCKERFILE = "FROM {base}\nRUN cat /proc/sys/kernel/random/uuid >/stamp\nCOPY file /\n"


def layers(project: Project, version: str) -> list[str]:
    """The layers of the image ``app``, by the digests of what is in them."""
    repository = project.repository("app")
    status, body, _ = project.place.request("GET", f"{repository}/manifests/{version}", Accept=MANIFEST_KINDS)
    assert 200 == status, body
    config = project.place.request("GET", f"{repository}/blobs/{json.loads(body)['config']['digest']}")[1]
    diff_ids: list[str] = json.loads(config)["rootfs"]["diff_ids"]
    return diff_ids


def fresh_agent(project: Project, folder: Path) -> Project:
    """The same project on an agent that has built nothing yet."""
    project.forget_images()
    with closing(Engine.connect(project.place.engine.environment)) as engine, engine.errors():
        # Dangling images and the cache; nobody else's builds on this engine count on it.
        engine.api.prune_images()
        engine.api._post(engine.api._url("/build/prune?all=1")).raise_for_status()
    return project.clone(folder)


def released_twice(project: Project, folder: Path) -> tuple[list[str], list[str]]:
    """The layers of two versions, between which a file changed and the agent was replaced by a fresh one."""
    project.image("app", DOCKERFILE, file="one")
    project.commit("all")
    project.tag("1.0.0")
    project.done("push")
    project.image("app", DOCKERFILE, file="two")
    project.commit("another file")
    project.tag("1.1.0")
    agent = fresh_agent(project, folder)
    agent.done("push")
    return layers(project, "1.0.0"), layers(project, "1.1.0")


def test_a_fresh_agent_takes_unchanged_steps_from_a_registry(
    project_in: MakeProject, content_place: Place, tmp_path: Path
) -> None:
    project = project_in(content_place)
    project.configure(cache_to=["type=registry,mode=max"], cache_from=["type=registry"])
    before, after = released_twice(project, tmp_path / "agent")
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


@pytest.mark.exhaustive
def test_without_a_cache_it_runs_them_again(project_in: MakeProject, content_place: Place, tmp_path: Path) -> None:
    before, after = released_twice(project_in(content_place), tmp_path / "agent")
    assert before[-2] != after[-2]


def test_a_fresh_agent_takes_unchanged_steps_out_of_the_last_image(
    project_in: MakeProject, place: Place, other_engine: EngineService, tmp_path: Path
) -> None:
    project = project_in(replace(place, engine=other_engine, variables={**place.variables, **other_engine.environment}))
    project.configure(cache_to=["type=inline"], cache_from=["type=registry"])
    before, after = released_twice(project, tmp_path / "agent")
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]
