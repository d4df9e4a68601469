"""What a release holds is what its commit says, whatever its own commands or somebody else write meanwhile."""

from __future__ import annotations

import pytest

from tests.e2e.project import Project

UNTOUCHED: tuple[list[str], list[str]] = ([], [])


def released(project: Project) -> tuple[list[str], list[str]]:
    """The tags of versions and the objects that there are."""
    tags = [tag for tag in project.place.tags(*project.folders()) if ":fp-" not in tag]
    return tags, [key for key in project.place.objects() if key.startswith(project.mark)]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        # Not in a context: that may be noticed earlier, by the build.
        ("echo more >> notes", "the tree is dirty (notes)"),
        ("git -c user.name=a -c user.email=a@b commit -q --allow-empty -m more", "another commit was checked out"),
    ],
)
@pytest.mark.parametrize("when", ["before", "command"])
def test_a_command_that_changes_the_checkout_stops_the_release(
    project: Project, when: str, command: str, said: str
) -> None:
    project.image("app", "FROM scratch\nCOPY tracked /\n", tracked=project.mark)
    project.write("notes")
    made = f"mkdir -p build/d; touch build/d/a; {command if when == 'command' else ''}"
    project.configure(
        image={project.name("app"): {"before": command if when == "before" else ""}},
        distribution={project.name("daemon"): {"command": made, "root": "build/d"}},
    )
    project.commit("all")
    project.tag("1.0.0")
    outcome = project.invoke("publish")
    assert (2, UNTOUCHED) == (outcome.code, released(project)), outcome.err
    assert said in outcome.last


def test_a_distribution_that_writes_into_a_context_stops_the_release(project: Project) -> None:
    made = f"src/docker/{project.name('app')}/made"
    project.image("app", "FROM scratch\nCOPY tracked mad[e] /\n", tracked=project.mark)
    project.write(".gitignore", "build/\ndist/\n__pycache__/\nmade\n")
    project.configure(
        distribution={
            project.name("daemon"): {
                "command": "mkdir -p build/d; "
                f"until [ -e build/surveyed ]; do sleep 0.01; done; touch build/d/a; [ -e {made} ] || echo 1 > {made}",
                "root": "build/d",
            }
        }
    )
    project.commit("all")
    project.tag("1.0.0")
    project.done("push")
    project.commit("more")
    project.tag("1.0.1")
    process = project.start("publish")
    assert process.stderr
    for line in process.stderr:
        if line.endswith(f"[{project.name('app')}] push started\n"):
            break
    project.write("build/surveyed")
    outcome = project.finish(process)
    assert 1 == outcome.code, outcome.err
    assert "context: made added" in outcome.last
    assert [] == [key for key in project.place.objects() if key.startswith(f"{project.mark}/releases")]
    assert 0 == project.invoke("publish").code
