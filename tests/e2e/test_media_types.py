"""The setting ``media_types``: what the manifests of a release are written with, and that engines pull them."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools.image.engine.client import Engine
from buildtools.image.registry.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
)
from tests.conftest import EngineService
from tests.e2e.conftest import MakeProject
from tests.e2e.project import MANIFEST_KINDS, Place, Project, fresh_agent

NAMES = {"docker": {DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER}, "oci": {OCI_MANIFEST, OCI_CONFIG, OCI_LAYER}}


def names(project: Project, short: str, tag: str) -> set[str]:
    status, body, headers = project.place.request(
        "GET", f"{project.repository(short)}/manifests/{tag}", Accept=MANIFEST_KINDS
    )
    assert 200 == status, body
    document = json.loads(body)
    assert headers["Content-Type"] == document["mediaType"]
    return {document["mediaType"], document["config"]["mediaType"], *(each["mediaType"] for each in document["layers"])}


@pytest.mark.parametrize(("first", "second"), [("docker", "oci"), ("oci", "docker")])
def test_a_release_has_the_media_types_that_are_configured(project: Project, first: str, second: str) -> None:
    project.image("base", "FROM scratch\nCOPY a /\n", a=project.mark)
    project.image("app", "FROM base-{mark}\nCOPY b /\n", b=project.mark)
    project.configure(media_types=first)
    project.commit("the first")
    project.tag("1.0.0")
    project.done("publish")
    assert [NAMES[first]] * 2 == [names(project, short, "1.0.0") for short in ("base", "app")]

    project.configure(media_types=second)
    project.commit("others")
    project.tag("1.1.0")
    assert "1.1.0 released 2 images and 0 archives" in project.done("publish").last
    assert [NAMES[first], NAMES[second]] == [names(project, "app", tag) for tag in ("1.0.0", "1.1.0")]
    for version in ("1.0.0", "1.1.0"):
        project.done("verify", "--deep", "--release", version)

    reference = project.reference("app", "1.1.0")
    with closing(Engine.connect(project.place.engine.environment)) as engine:
        engine.untag(reference)
        user, _, password = project.place.login.partition(":")
        lines = engine.api.pull(
            reference, auth_config={"username": user, "password": password}, stream=True, decode=True
        )
        assert [] == [line["error"] for line in lines if "error" in line]
        pulled = engine.inspect(reference)
    assert pulled is not None
    assert "1.1.0" == pulled["Config"]["Labels"]["org.opencontainers.image.version"]


@pytest.mark.exhaustive
@pytest.mark.other_engine
@pytest.mark.images_in_engine
@pytest.mark.parametrize("cache_to", [[], ["type=inline"]])
def test_a_layer_with_zstandard_stays_so_and_is_named_as_other_agents_pull_it(
    project_in: MakeProject,
    place: Place,
    content_engine: EngineService,
    fresh_engine: EngineService,
    registry: str,
    tmp_path: Path,
    cache_to: list[str],
) -> None:
    project = project_in(replace(place, registry=registry, login=""))
    project.image("base", "FROM scratch\nCOPY file /base\n", file=project.mark)
    project.commit("a base")
    project.tag("1.0.0")
    project.done("push")
    base = f"{registry}/outside/{project.mark}:1"
    compress = [
        "--format",
        "oci",
        "--dest-compress-format",
        "zstd",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]
    copy = ["skopeo", "copy", "--quiet", *compress]
    subprocess.run([*copy, f"docker://{project.reference('base', '1.0.0')}", f"docker://{base}"], check=True)

    agent = fresh_agent(project, content_engine, tmp_path / "first")
    agent.configure(cache_to=cache_to)
    agent.image("app", f"FROM {base}\nCOPY file /\n", file=project.mark)
    agent.commit("an app")
    agent.tag("1.1.0")
    # Without a cache, all but the layer of the base is compressed here, and nothing is sent uncompressed before.
    assert ("1 engine" if cache_to else "1 direct") in agent.done("push", "--only", agent.name("app")).last
    other = fresh_agent(agent, fresh_engine, tmp_path / "other")
    other.image("child", "FROM app-{mark}\nCOPY file /child\n", file=project.mark)
    other.commit("a child")
    other.tag("1.2.0")
    other.done("push", "--only", other.name("child"))
    kinds = {*NAMES["oci"], "application/vnd.oci.image.layer.v1.tar+zstd"}
    assert [kinds] * 3 == [names(other, "app", "1.1.0"), names(other, "app", "1.2.0"), names(other, "child", "1.2.0")]
    for used in (agent, other):
        used.forget_images()
