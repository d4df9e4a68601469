"""JUnit XML of a run, read back by an XML parser."""

from __future__ import annotations

import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools import BuildToolsError
from buildtools.events import Finished, Log, Outcome
from buildtools.junit import Cases


def written(cases: Cases, folder: Path, error: str = "") -> ElementTree.Element:
    cases.write(folder / "junit.xml", error)
    return ElementTree.parse(folder / "junit.xml").getroot()


def test_a_step_that_is_done_again_is_one_case_with_its_last_outcome(tmp_path: Path) -> None:
    cases = Cases("push")
    cases(Finished("app", "push", Outcome.FAILED, 1.0, "cut off"))
    cases(Finished("app", "push", Outcome.DONE, 2.5))
    case, task = written(cases, tmp_path).iter("testcase")
    assert {"classname": "buildtools.push", "name": "app", "time": "2.500"} == case.attrib
    assert ([], "push", "buildtools.task") == ([*case], task.attrib["name"], task.attrib["classname"])


def test_a_long_log_is_shown_from_its_end(tmp_path: Path) -> None:
    cases = Cases("build")
    for number in range(1000):
        cases(Log("app", f"line {number}"))
    cases(Finished("app", "build", Outcome.FAILED, 1.0, "exit code 1"))
    lines = (written(cases, tmp_path, "failed").findtext("testcase/system-out") or "").splitlines()
    assert (200, "line 999") == (len(lines), lines[-1])


@settings(deadline=None)
@given(st.text(), st.text())
def test_any_text_makes_a_file_that_can_be_read(name: str, log: str) -> None:
    cases = Cases("build")
    cases(Log(name, log))
    cases(Finished(name, "build", Outcome.FAILED, 1.0, log))
    with tempfile.TemporaryDirectory() as folder:
        suite = written(cases, Path(folder), log)
    assert ("2" if log else "1") == suite.attrib["failures"]


def test_a_path_without_a_name_is_one_message() -> None:
    for path in (Path(), Path("/")):
        with pytest.raises(
            BuildToolsError, match=r"cannot write .* \(it names no file\): name another file with --junit"
        ):
            Cases("build").write(path)
