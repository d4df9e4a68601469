"""A command loads what it needs: most of the time that a quiet one takes is imports."""

from __future__ import annotations

import pytest

from tests.e2e.project import Project

BUILD = {
    "docker",
    "hpack",
    "isal",
    "buildtools.image.engine.build",
    "buildtools.image.engine.buildkit",
    "buildtools.image.push.layers",
}
CLIENTS = {"requests", "urllib3", "boto3", "botocore", "dulwich", "rich", "tarfile"}


@pytest.fixture
def released(project: Project) -> Project:
    project.image("app", "FROM {base}\nCOPY data /\n", data=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    project.done("publish")
    return project


def loaded(project: Project, *arguments: str) -> set[str]:
    """The modules that a command imports."""
    lines = project.done(*arguments, PYTHONPROFILEIMPORTTIME="1").err.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.mark.images_in_engine
def test_what_changes_nothing_loads_neither_build_code_nor_a_client_library(released: Project) -> None:
    for command in ("version", "list", "build", "push"):
        modules = loaded(released, command)
        assert (command, "buildtools.git.checkout" in modules, set()) == (command, True, (BUILD | CLIENTS) & modules)


def test_an_audit_loads_no_build_code(released: Project) -> None:
    # It names its version, so it needs no checkout either.
    modules = loaded(released, "verify", "--release", "1.0.0")
    unneeded = {*BUILD, "buildtools.git", "buildtools.image.folder", "buildtools.image.engine", "buildtools.image.push"}
    assert (True, set()) == ("boto3" in modules, unneeded & modules)
