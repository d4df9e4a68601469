"""``prune`` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from buildtools.image.engine.client import Engine
from tests.conftest import S3Service, make_repository
from tests.contract.registries import own_registry
from tests.e2e.project import Project
from tests.releases import release_place


def test_it_says_what_it_would_do_and_does_it_with_yes(
    tmp_path: Path, s3: S3Service, environment: Mapping[str, str]
) -> None:
    repository = make_repository(tmp_path / "repository")
    repository.commit("all")
    repository.tag("0.1.0")
    with (
        own_registry(tmp_path / "registry", environment) as registry,
        release_place(repository.path, registry.host, s3, environment) as place,
    ):
        for version in ("1.0.0", "1.1.0"):
            place.release(version, ("app",), created="2020-01-01T00:00:00Z")
        command = ("prune", "--keep", "1", "--older-than", "30")
        planned = place.invoke(*command)
        assert (0, "dry run: nothing was touched; 1 version would be pruned, 1 kept; do it with --yes\n") == (
            planned.returncode,
            planned.stderr,
        )
        assert [
            ["VERSION", "DATE", "STATE", "WHY"],
            ["1.1.0", "2020-01-01", "kept", "one", "of", "the", "newest", "1"],
            ["1.0.0", "2020-01-01", "pruned"],
        ] == [line.split() for line in planned.stdout.splitlines()]
        done = place.invoke(*command, "--yes", "--json")
        assert (0, "pruned 1 version, 1 kept\n") == (done.returncode, done.stderr)
        assert ["kept", "pruned"] == [item["state"] for item in json.loads(done.stdout)["items"]]
        assert "nothing was touched; 0 versions would be pruned, 1 kept" in place.invoke(*command).stderr
        for arguments in ((), ("--keep", "0", "--older-than", "1"), ("--keep", "x", "--older-than", "1")):
            refused = place.invoke("prune", *arguments)
            assert (2, True) == (refused.returncode, "prune needs two whole numbers" in refused.stderr)


def build_versions(project: Project, *versions: str) -> None:
    for version in versions:
        project.image("app", "FROM {base}\nCOPY data /\n", data=project.mark + version)
        project.commit(version)
        project.tag(version)
        project.done("tag")


def versions_in_engine(project: Project) -> set[str]:
    """The tags of the app's names without a registry."""
    return {tag for name, _, tag in (each.rpartition(":") for each in project.images()) if name == project.name("app")}


def pruned_names(project: Project, *flags: str) -> list[str]:
    return [each["name"] for each in project.done("prune", "--engine", "--json", *flags).document["items"]]


@pytest.mark.images_in_engine
def test_in_the_engine_all_but_the_newest_names_go(project: Project) -> None:
    build_versions(project, "1.4.9", "1.4.10", "1.5.0")
    images = project.images()
    old = images[f"{project.name('app')}:1.4.9"]
    (own_name,) = [name for name, each in images.items() if each == old and ":fp-" in name]
    with closing(Engine.connect(project.place.engine.environment)) as engine:
        # As where containerd's store has pulled it.
        engine.tag(old, project.reference("app", own_name.rpartition(":")[2]))
    before = project.images()
    shown = pruned_names(project, "--keep", "2")
    assert before == project.images()
    # The name by which it is known as the project's comes last.
    assert ([name for name, each in sorted(before.items()) if each == old], own_name) == (sorted(shown), shown[-1])
    assert shown == pruned_names(project, "--keep", "2", "--yes")
    assert set(before) - set(shown) == set(project.images())
    assert "removed 0 things" == project.done("prune", "--engine", "--keep", "2", "--yes").last


@pytest.mark.exhaustive
def test_in_the_engine_the_version_of_the_checkout_and_others_prefixes_stay(project: Project) -> None:
    build_versions(project, "1.4.0", "2.0.0", "2.1.0", "1.5.0", "1.6.0")
    pruned_names(project, "--keep", "1", "--prefix", "2.", "--yes")
    assert {"1.4.0", "1.5.0", "1.6.0", "2.1.0"} == {tag for tag in versions_in_engine(project) if "fp-" not in tag}
    pruned_names(project, "--keep", "1", "--yes")
    assert {"1.6.0", "2.1.0"} == {tag for tag in versions_in_engine(project) if "fp-" not in tag}


@pytest.mark.exhaustive
def test_in_the_engine_what_a_container_or_somebody_has_stays(project: Project) -> None:
    def call(action: Any) -> Any:
        with closing(Engine.connect(project.place.engine.environment)) as engine, engine.errors():
            return action(engine.api)

    build_versions(project, "1.0.0", "1.1.0", "1.2.0")
    images, app = project.images(), project.name("app")
    container = call(lambda api: api.create_container(images[f"{app}:1.0.0"], ["true"]))
    on_top = call(lambda api: api.commit(container["Id"], app, "mine-1"))
    call(lambda api: api.tag(images[f"{app}:1.1.0"], app, "mine"))
    try:
        pruned_names(project, "--keep", "1", "--yes")
    finally:
        call(lambda api: api.remove_container(container["Id"]))
    left = project.images()
    assert images[f"{app}:1.0.0"] == left[f"{app}:1.0.0"]
    assert (on_top["Id"], images[f"{app}:1.1.0"]) == (left[f"{app}:mine-1"], left[f"{app}:mine"])
    assert f"{app}:1.1.0" not in left
