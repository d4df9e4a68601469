"""The setting ``media_types``: what the manifests of a release are written with, and that engines pull them."""

from __future__ import annotations

import json
from contextlib import closing

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
from tests.e2e.project import MANIFEST_KINDS, Project

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
