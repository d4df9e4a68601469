"""Moving tags never move to an older release."""

from __future__ import annotations

from contextlib import closing

from tests.e2e.project import Project


def publish(project: Project, tag: str) -> None:
    project.commit(tag, **{f"src/docker/{project.name('app')}/data": tag})
    project.tag(tag)
    project.done("publish")


def test_build_metadata_makes_no_release_look_older(project: Project) -> None:
    project.image("app", "FROM scratch\nCOPY data /\n")
    project.configure(moving_tags=["latest"])
    publish(project, "1.1.0+b")
    publish(project, "1.0.9+c")
    tags = {tag: project.place.digest(project.repository("app"), tag) for tag in ("latest", "1.1.0_b", "1.0.9_c")}
    assert tags["latest"] == tags["1.1.0_b"] != tags["1.0.9_c"]


def test_a_strange_object_among_the_manifests_is_left_alone(project: Project) -> None:
    project.image("app", "FROM scratch\nCOPY data /\n")
    project.configure(moving_tags=["latest"])
    with closing(project.place.client()) as client:
        for name in (".hidden.json", "9.0.0/note.json", "notes.txt"):
            client.put_object(Bucket=project.place.bucket, Key=f"{project.mark}/releases/{name}", Body=b"hello")
    publish(project, "1.0.0")
    repository = project.repository("app")
    assert project.place.digest(repository, "1.0.0") == project.place.digest(repository, "latest")
