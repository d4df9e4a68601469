"""``push`` and ``publish`` hand the version over to the next step in ``dist/VERSION/``."""

from __future__ import annotations

import subprocess

from tests.e2e.project import Project


def test_the_next_step_finds_what_was_pushed_and_then_what_was_released(project: Project) -> None:
    name = project.name("daemon")
    project.image("app", "FROM scratch\nCOPY mark /\n", mark=project.mark)
    project.configure(distribution={name: {"command": "mkdir -p build/d && echo 1 >build/d/x", "root": "build/d"}})
    project.commit("all")
    project.tag("1.0.0")
    project.done("push")
    folder = project.path / "dist/1.0.0"
    assert ["compose.override.yaml", "release.env"] == sorted(path.name for path in folder.iterdir())
    project.done("publish")
    expected = ["compose.override.yaml", f"{name}-1.0.0.tgz", "digests.txt", "release.env", "release.json"]
    assert sorted(expected) == sorted(path.name for path in folder.iterdir())
    manifest = project.place.read(f"{project.mark}/releases/1.0.0.json")
    assert manifest == (folder / "release.json").read_bytes()
    subprocess.run(["sha256sum", "--check", "--quiet", "digests.txt"], cwd=folder, check=True)
    digest = project.place.digest(project.repository("app"), "1.0.0")
    reference = f"{project.place.registry}/{project.repository('app')}@{digest}"
    assert reference in (folder / "release.env").read_text()
    assert reference in (folder / "compose.override.yaml").read_text()

    project.commit("more")
    project.tag("1.1.0")
    project.done("publish")
    assert ["1.1.0"] == [path.name for path in (project.path / "dist").iterdir() if path.is_dir()]


def test_the_history_has_what_was_released_and_what_was_not(project: Project) -> None:
    project.image("app", "FROM scratch\nCOPY mark /\n", mark=project.mark)
    project.configure(moving_tags=["latest"])
    project.commit("all")
    project.tag("1.0.0")
    assert "no version is released yet; release one with `invoke publish`" == project.done("history").last
    project.done("publish")
    outcome = project.done("history", "--json")
    (entry,) = outcome.document["items"]
    commit = project.git("rev-parse", "HEAD")
    assert ("1.0.0", "released", commit, [project.name("app")], [], ["latest"]) == tuple(
        entry[key] for key in ("version", "state", "commit", "images", "archives", "moving_tags")
    )
    plain = project.done("history")
    assert "listed 1 version: 1 released" == plain.last
    assert ["1.0.0", "released", commit[:12], "latest"] == [
        plain.out.splitlines()[1].split()[at] for at in (0, 1, 3, -1)
    ]
