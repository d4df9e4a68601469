"""One image fails: what it says, what is skipped, what is finished."""

from __future__ import annotations

from xml.etree import ElementTree

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


@pytest.mark.images_in_engine
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


@pytest.mark.parametrize("command", ["build", "publish"])
def test_a_junit_file_has_a_case_for_each_image_and_one_for_the_task(broken: Project, command: str) -> None:
    file = broken.home / "results/junit.xml"
    outcome = broken.invoke(command, "--junit", str(file))
    suite = ElementTree.parse(file).getroot()
    cases = {case.attrib["name"]: case for case in suite.iter("testcase")}
    results = {name: [child.tag for child in case] for name, case in cases.items()}
    assert {
        broken.name("base"): [],
        broken.name("broken"): ["failure", "system-out"],
        broken.name("child"): ["skipped"],
        broken.name("other"): [],
        command: ["failure"],
    } == results
    assert ("5", "2", "1") == tuple(suite.attrib[key] for key in ("tests", "failures", "skipped"))
    assert "about to fail" in (cases[broken.name("broken")].findtext("system-out") or "").splitlines()
    failure = cases[command].find("failure")
    assert failure is not None
    assert f"error: {failure.attrib['message']}" == outcome.last


@pytest.mark.images_in_engine
def test_a_junit_file_that_cannot_be_written_fails_the_task_at_its_end(project: Project) -> None:
    project.image("app", "FROM {base}\nCOPY mark /\n", mark=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    outcome = project.invoke("build", "--junit", "/proc/junit.xml")
    assert (1, True) == (outcome.code, outcome.last.startswith("error: cannot write /proc/junit.xml (")), outcome.err
    assert f"{project.name('app')}:1.0.0" in project.images()
