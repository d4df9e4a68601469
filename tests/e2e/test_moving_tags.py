"""Moving tags never move to an older release."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

from tests.e2e.conftest import MakeProject
from tests.e2e.project import Place, Project
from tests.faults.proxy import wire_to


def publish(project: Project, tag: str) -> None:
    project.commit(tag, **{f"src/docker/{project.name('app')}/data": tag})
    project.tag(tag)
    project.done("publish")


def test_build_metadata_makes_no_release_look_older(project: Project) -> None:
    project.image("app", "FROM scratch\nCOPY data /\n")
    project.configure(moving_tags=["latest"], channels=["edge"])
    publish(project, "1.1.0+b")
    publish(project, "1.0.9+c")
    names = ("latest", "edge", "1.1.0_b", "1.0.9_c")
    tags = {tag: project.place.digest(project.repository("app"), tag) for tag in names}
    assert tags["latest"] == tags["edge"] == tags["1.1.0_b"] != tags["1.0.9_c"]


def test_a_strange_object_among_the_manifests_is_left_alone(project: Project) -> None:
    project.image("app", "FROM scratch\nCOPY data /\n")
    project.configure(moving_tags=["latest"])
    with closing(project.place.client()) as client:
        for name in (".hidden.json", "9.0.0/note.json", "9.0.0_x.json", "notes.txt"):
            client.put_object(Bucket=project.place.bucket, Key=f"{project.mark}/releases/{name}", Body=b"hello")
    publish(project, "1.0.0")
    repository = project.repository("app")
    assert project.place.digest(repository, "1.0.0") == project.place.digest(repository, "latest")


def test_who_moves_a_tag_last_gives_it_to_a_newer_release(place: Place, registry: str, project_in: MakeProject) -> None:
    moving, may_go_on = threading.Event(), threading.Event()

    def hold(data: bytes) -> bytes:
        if data.startswith(b"PUT ") and b"/manifests/latest HTTP/1.1" in data and not moving.is_set():
            moving.set()
            may_go_on.wait()
        return data

    with wire_to(registry) as wire:
        older = project_in(replace(place, registry=wire.address, login=""))
        older.image("app", "FROM scratch\nCOPY data /\n", data=older.mark)
        older.configure(moving_tags=["latest", "{major}"])
        older.commit("all")
        older.tag("1.0.0")
        newer = older.clone(older.home / "newer")
        newer.commit("more", **{f"src/docker/{newer.name('app')}/data": f"{newer.mark} 2"})
        newer.tag("1.1.0")
        wire.sent = hold
        process = older.start("publish")
        try:
            assert moving.wait(60)
            newer.done("publish")
        finally:
            may_go_on.set()
            outcome = older.finish(process)
        assert 0 == outcome.code, outcome.err
        repository = older.repository("app")
        tags = {tag: older.place.digest(repository, tag) for tag in ("1.1.0", "latest", "1", "1.0.0")}
    assert tags["1.1.0"] == tags["latest"] == tags["1"] != tags["1.0.0"]
