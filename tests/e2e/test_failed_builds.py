"""One image fails: what it says, what is skipped, what is finished."""

from __future__ import annotations

import pytest

from tests.e2e.project import Project


@pytest.fixture
def broken(project: Project) -> Project:
    """``child`` is built from ``broken``, which is built from ``base``; ``other`` depends on nobody."""
    project.image("base", "FROM {base}\nCOPY mark /\n", mark=project.mark)
    project.image("broken", "FROM base-{mark}\n\nRUN echo about to fail && \\\n    exit 7\n")
    project.image("child", "FROM broken-{mark}\n")
    project.image("other", "FROM {base}\nCOPY mark /\nRUN true\n", mark=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    return project


def test_a_failure_names_image_line_and_instruction_and_the_rest_is_finished(broken: Project) -> None:
    name = broken.name("broken")
    outcome = broken.invoke("build")
    assert 1 == outcome.code
    assert (
        f"error: 1 of 4 images failed: {name}; skipped for that: {broken.name('child')}: "
        "fix the errors above and run again; images that were built are kept"
    ) == outcome.last
    message = outcome.err[outcome.err.rindex("] build skipped") :]
    wanted = [f"{name}/Dockerfile:3", "> 3 | RUN echo", "RUN echo about to fail", "exit code 7", "| about to fail"]
    assert [] == [words for words in wanted if words not in message], message
    assert f"[{broken.name('child')}] build skipped in 0.0s: {name} failed\n" in outcome.err
    built = [name for name in broken.images() if name.endswith(":1.0.0")]
    assert {f"{broken.name(short)}:1.0.0" for short in ("base", "other")} == {*built}
    assert "" == outcome.out


def test_a_failed_publish_names_nothing_and_is_completed_when_it_is_corrected(broken: Project) -> None:
    failed = broken.invoke("publish")
    assert 1 == failed.code
    assert [] == [tag for tag in broken.place.tags(*broken.folders()) if tag.endswith(":1.0.0")]
    assert {} == broken.place.objects() or broken.mark not in str(broken.place.objects())
    broken.image("broken", "FROM base-{mark}\nRUN true\n")
    broken.commit("correct it")
    broken.git("tag", "--delete", "1.0.0")
    broken.tag("1.0.0")
    assert "1.0.0 released 4 images and 0 archives" in broken.done("publish").last


def test_a_file_that_is_not_a_dockerfile_is_refused_with_its_line(project: Project) -> None:
    project.image("app", "FROM {base}\nRUM true\n")
    project.commit("all")
    project.tag("1.0.0")
    outcome = project.invoke("build")
    assert (True, True) == (f"{project.name('app')}/Dockerfile" in outcome.err, "RUM" in outcome.err), outcome.err
    assert outcome.code in (1, 2)
    assert {} == project.images()
