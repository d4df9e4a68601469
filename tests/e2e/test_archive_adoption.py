"""What becomes of an archive that the store has already, under the name that a release gives its own."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from tests.e2e.project import Project


def make(project: Project, **settings: Any) -> str:
    """A tagged project whose one distribution is another one with each build; the archive's key in the bucket."""
    name = project.name("daemon")
    build = {"command": "mkdir -p build/d && cat /proc/sys/kernel/random/uuid >build/d/x", "root": "build/d"}
    project.configure(distribution={name: {**build, **settings}})
    project.image("app", "FROM scratch\nCOPY x /\n", x="1")
    project.write(".gitignore", "build/\ndist/\n")
    project.commit("a daemon and an image")
    project.tag("1.0.0")
    return f"{project.mark}/{name}/{name}-1.0.0.tgz"


def delete(project: Project, key: str) -> None:
    with closing(project.place.client()) as client:
        client.delete_object(Bucket=project.place.bucket, Key=f"{project.mark}/{key}")


def put(project: Project, key: str, content: bytes) -> None:
    with closing(project.place.client()) as client:
        client.put_object(Bucket=project.place.bucket, Key=key, Body=content)


def keys(project: Project) -> set[str]:
    return {key.removeprefix(f"{project.mark}/") for key in project.place.objects() if key.startswith(project.mark)}


def test_the_archive_of_the_claimed_commit_is_released_whoever_built_it(project: Project) -> None:
    key = make(project)
    project.done("publish")
    archive = project.place.read(key)
    delete(project, "releases/1.0.0.json")
    again = project.done("publish")
    assert "warning: " in again.err
    assert "the build is not reproducible" in again.err
    assert "1.0.0/x" in again.err
    assert archive == project.place.read(key)
    assert archive == (project.path / "dist" / key.rpartition("/")[2]).read_bytes()
    assert 0 == project.invoke("verify", "--deep").code


def test_another_build_of_what_says_to_be_reproducible_is_a_conflict(project: Project) -> None:
    make(project, reproducible=True)
    project.done("publish")
    delete(project, "releases/1.0.0.json")
    assert 3 == project.invoke("publish").code
    assert "releases/1.0.0.json" not in keys(project)


def test_an_archive_that_lay_there_before_the_version_was_claimed_is_a_conflict_each_time(project: Project) -> None:
    key = make(project)
    put(project, key, b"of somebody")
    for _ in range(2):
        outcome = project.invoke("publish")
        assert (3, True) == (outcome.code, "is neither claimed nor released" in outcome.last)
    assert b"of somebody" == project.place.read(key)
    assert {key.removeprefix(f"{project.mark}/")} == keys(project)


def test_a_dirty_version_takes_the_place_of_what_lies_there(project: Project) -> None:
    key = make(project).replace("1.0.0", "1.0.0-dirty")
    project.write(".gitignore", "build/\ndist/\nmore/\n")
    put(project, key, b"of somebody")
    project.done("publish", "--allow-dirty")
    assert b"of somebody" != project.place.read(key)
