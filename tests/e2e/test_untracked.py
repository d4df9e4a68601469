"""An image takes in what is in its context. What of that no commit has is released under no version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.project import Outcome, Project

DOCKERFILE = "FROM scratch\nCOPY tracked [a-z]* /\n"


@pytest.fixture
def project(project: Project) -> Project:
    """A project whose ``publish`` has nothing to complain about."""
    project.image("app", DOCKERFILE, tracked=project.mark)
    project.image("other", "FROM scratch\nCOPY tracked /\n", tracked=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    return project


def released(project: Project) -> list[str]:
    """The tags and the objects that there are, a fingerprint's too."""
    own = [key for key in project.place.objects() if key.startswith(project.mark)]
    return [*project.place.tags(*project.folders()), *own]


def refused(project: Project, *command: str) -> Outcome:
    """A command that must be refused, with nothing sent and nothing built."""
    outcome = project.invoke(*command)
    assert (2, "", []) == (outcome.code, outcome.out, released(project)), outcome.err
    assert not project.images()
    assert "commit or delete them; or list them in .gitignore" in outcome.last
    return outcome


@pytest.mark.parametrize("command", [("publish",), ("publish", "--dry-run")])
def test_what_no_commit_has_is_not_released(project: Project, command: tuple[str, ...]) -> None:
    app = f"src/docker/{project.name('app')}"
    project.write(f"{app}/stray")
    assert f"error: untracked files would be included in {app} ({app}/stray): " in refused(project, *command).last
    for number in range(6):
        project.write(f"{app}/deep/{number}")
    few = ", ".join(f"{app}/deep/{number}" for number in range(5))
    assert f"({few} and 2 more): " in refused(project, *command).last


@pytest.mark.parametrize("name", ["pyproject.toml", "invoke.yaml", "tasks.py"])
@pytest.mark.parametrize("ignored", [False, True])
def test_what_decides_a_release_must_be_committed(project: Project, name: str, ignored: bool) -> None:
    if (project.path / name).exists():
        project.git("rm", "--cached", "--quiet", name)
    else:
        project.write(name, "{}\n")
    if ignored:
        project.write(".gitignore", f"{name}\n")
        project.git("add", ".gitignore")
    project.git("commit", "--quiet", "--allow-empty", "--message", "without it")
    project.git("tag", "--delete", "1.0.0")
    project.tag("1.0.0")
    outcome = project.invoke("publish")
    assert (2, []) == (outcome.code, released(project)), outcome.err
    assert f"error: uncommitted files would decide the release ({name}): commit them" in outcome.last


def test_a_new_image_folder_must_be_committed(project: Project) -> None:
    project.image("new", "FROM scratch\nCOPY tracked /\n", tracked="")
    new = f"src/docker/{project.name('new')}"
    assert f"error: untracked files would be included in {new} ({new}/Dockerfile, " in refused(project, "publish").last


def test_a_new_ignore_file_must_be_committed(project: Project) -> None:
    ignoring = f"src/docker/{project.name('app')}/.dockerignore"
    project.write(ignoring, "stray\n")
    assert f"({ignoring}): " in refused(project, "publish").last


def test_what_before_makes_must_be_ignored(project: Project) -> None:
    made = f"src/docker/{project.name('app')}/made"
    project.configure(image={project.name("app"): {"before": f"echo {project.mark} > {made}"}})
    project.commit("before")
    project.tag("1.0.1")
    assert f"({made}): " in refused(project, "publish").last
    (project.path / made).unlink()
    project.write(".gitignore", "build/\ndist/\n__pycache__/\nmade\n")
    project.commit("ignored")
    project.tag("1.0.2")
    project.done("publish")
    assert (project.path / made).exists()


def test_what_no_image_takes_in_may_lie_anywhere(project: Project) -> None:
    app, other = (f"src/docker/{project.name(name)}" for name in ("app", "other"))
    project.write(f"{app}/.dockerignore", "left-out\n")
    project.write(f"{app}/.gitignore", "*.made\n")
    project.commit("ignore files")
    project.tag("1.0.1")
    for name in ("notes", f"{app}/left-out", f"{app}/x.made", f"{other}/not-copied"):
        project.write(name)
    project.done("publish", "--dry-run")
    project.done("publish")
    assert "1.0.1" == project.done("version").out.strip()


def test_a_context_may_be_the_whole_project_or_lie_outside_of_the_repository(project: Project) -> None:
    elsewhere = project.home / "context"
    elsewhere.mkdir()
    (elsewhere / "tracked").write_text(project.mark)
    project.configure(
        image={
            project.name("app"): {"context": ".", "dockerfile": "Dockerfile"},
            project.name("other"): {"context": str(elsewhere)},
        }
    )
    project.image("app", "FROM scratch\nCOPY pyproject.toml src* /\n")
    project.commit("contexts")
    project.tag("1.0.1")
    project.write("src/stray")
    assert (
        f"error: untracked files would be included in src/docker/{project.name('app')} (src/stray): "
        in refused(project, "publish").last
    )
    (project.path / "src/stray").unlink()
    project.done("publish")


def test_a_project_may_be_a_folder_of_its_repository(project: Project) -> None:
    (project.path / "deep").mkdir()
    project.git("mv", "src", "tasks.py", "pyproject.toml", "deep")
    project.commit("deeper")
    project.tag("1.0.1")
    inner = replace(project, path=project.path / "deep")
    stray = f"src/docker/{project.name('app')}/stray"
    inner.write(stray)
    assert f"({stray}): " in refused(inner, "publish").last
    project.write(".gitignore", "build/\ndist/\n__pycache__/\nstray\n")
    project.commit("ignored")
    project.tag("1.0.2")
    inner.done("publish")


def test_what_may_be_dirty_says_so(project: Project) -> None:
    project.write(f"src/docker/{project.name('app')}/stray", project.mark)
    for command in (("publish", "--allow-dirty", "--dry-run"), ("publish", "--allow-dirty")):
        outcome = project.done(*command)
        assert "/stray): this is 1.0.0-dirty\n" in outcome.err
    tags = [tag.rpartition(":")[2] for tag in released(project) if ":" in tag and ":fp-" not in tag]
    assert ["1.0.0-dirty"] * 2 == tags
    assert [] == [key for key in released(project) if "/releases/" in key or "/claims/" in key]


def test_push_goes_on_and_tells(project: Project) -> None:
    project.write(f"src/docker/{project.name('app')}/stray", project.mark)
    assert "/stray): 1.0.0 is not what its commit says\n" in project.done("push").err
    project.write(f"src/docker/{project.name('app')}/tracked", "changed")
    assert "stray" not in project.done("push").err


@pytest.mark.images_in_engine
def test_modes_that_git_does_not_keep_are_told(project: Project) -> None:
    assert "git does not keep" not in project.done("push").err
    file = project.path / "src/docker" / project.name("other") / "tracked"
    file.chmod(0o640)
    project.commit("more")
    warning = f"warning: git does not keep the mode of {file.relative_to(project.path)} (640), so another clone builds"
    assert warning in project.done("push").err
