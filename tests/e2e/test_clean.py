"""``clean``: what nobody uses goes, after it was shown; everything else stays."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from buildtools.image.engine.client import Engine
from tests.e2e.project import Project

pytestmark = pytest.mark.exhaustive

_DAY = 86_400


@pytest.fixture
def built(project: Project) -> Project:
    """A project whose image was built as 1.0.0, and otherwise as 1.1.0."""
    for version in ("1.0.0", "1.1.0"):
        project.image("app", "FROM {base}\nCOPY data /\n", data=project.mark + version)
        project.commit(version)
        project.tag(version)
        project.done("build")
    return project


def image_id(project: Project, version: str) -> str:
    return project.images()[f"{project.name('app')}:{version}"]


def names(project: Project, *flags: str) -> list[str]:
    """What is to be removed, or was."""
    return [each["name"] for each in project.done("clean", "--json", *flags).document["items"]]


def test_images_that_are_not_the_current_ones_are_shown_and_then_removed(built: Project) -> None:
    old = image_id(built, "1.0.0")
    before = built.world()
    shown = names(built, "--older-than", "0")
    assert before == built.world()
    assert [name for name, each in sorted(built.images().items()) if each == old] == sorted(shown)
    assert [] == names(built)
    assert sorted(shown) == sorted(names(built, "--older-than", "0", "--yes"))
    assert set(shown).isdisjoint(built.images())
    assert "built 1 image: 1 up to date" == built.done("build").last
    assert "removed 0 things" == built.done("clean", "--older-than", "0", "--yes").last


def engine_call(project: Project, call: Any) -> Any:
    with closing(Engine.connect(project.place.engine.environment)) as engine, engine.errors():
        return call(engine.api)


def test_an_image_of_a_container_stays(built: Project) -> None:
    old = image_id(built, "1.0.0")
    container = engine_call(built, lambda api: api.create_container(old, ["true"]))
    try:
        assert [] == names(built, "--older-than", "0", "--yes")
        assert old == image_id(built, "1.0.0")
    finally:
        engine_call(built, lambda api: api.remove_container(container["Id"]))


def test_an_image_that_somebody_has_named_stays(built: Project) -> None:
    old = image_id(built, "1.0.0")
    engine_call(built, lambda api: api.tag(old, f"mine-{built.mark}", "1"))
    assert [] == names(built, "--older-than", "0", "--yes")
    assert old == image_id(built, "1.0.0")


def test_what_somebody_built_on_top_stays(built: Project) -> None:
    old = image_id(built, "1.0.0")
    container = engine_call(built, lambda api: api.create_container(old, ["true"]))
    on_top = engine_call(built, lambda api: api.commit(container["Id"], built.name("app"), "mine"))
    engine_call(built, lambda api: api.remove_container(container["Id"]))
    names(built, "--older-than", "0", "--yes")
    assert on_top["Id"] == image_id(built, "mine")


def test_each_variant_for_several_platforms_that_is_not_the_current_one_goes(project: Project) -> None:
    images: list[dict[str, str]] = []
    for version in ("1.0.0", "1.1.0"):
        project.image("app", "FROM scratch\nCOPY data /\n", data=project.mark + version)
        project.configure(platforms=["linux/amd64", "linux/arm64"])
        project.commit(version)
        project.tag(version)
        project.done("build")
        images.append(project.images())
    old, new = images
    assert (3, 6) == (len(old), len(new))
    assert sorted(old) == sorted(names(project, "--older-than", "0", "--yes"))
    assert new.keys() - old.keys() == project.images().keys()


def test_nothing_goes_where_it_is_not_known_what_is_current(built: Project) -> None:
    built.image("app", "FROM 127.0.0.1:1/nobody/has:this\n")
    assert [] == names(built, "--older-than", "0", "--yes")


def test_old_archives_and_caches_of_other_projects_go(project: Project) -> None:
    daemon = project.name("daemon")
    project.image("app", "FROM {base}\n")
    project.configure(distribution={daemon: {"root": "root"}})
    project.commit("all", **{"root/bin/daemon": "x"})
    project.tag("1.0.0")
    project.done("dist")
    other = project.home / "cache/lockstep-buildtools/projects/0123456789abcdef"
    other.mkdir(parents=True)
    (other / "contents").write_text("x")
    stay = [project.write(f"dist/{name}") for name in (f"{daemon}-notes.txt", "other-0.9.0.tgz")]
    archives = [f"dist/{daemon}-{version}.tgz" for version in ("0.9.0", "0.9.0-3-gabcdef1")]
    old = [*map(project.write, archives), other, other / "contents"]
    long_ago = time.time() - 15 * _DAY
    for path in (*stay, *old, project.path / f"dist/{daemon}-1.0.0.tgz"):
        os.utime(path, (long_ago, long_ago))
    assert {*archives, str(other)} == set(names(project))
    names(project, "--yes")
    assert [] == [path for path in old if path.exists()]
    assert all(path.exists() for path in (*stay, project.path / f"dist/{daemon}-1.0.0.tgz"))


def test_an_engine_that_is_down_keeps_nothing_else_from_being_cleaned(project: Project, tmp_path: Path) -> None:
    project.image("app", "FROM {base}\n")
    project.commit("all")
    project.tag("1.0.0")
    no_engine = {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}
    assert "removed 0 things" == project.done("clean", "--yes", **no_engine).last


def test_days_that_are_no_number_are_refused(project: Project) -> None:
    outcome = project.invoke("clean", "--older-than", "soon")
    assert (2, True) == (
        outcome.code,
        outcome.last.startswith("error: --older-than soon is not a whole number of days"),
    )
