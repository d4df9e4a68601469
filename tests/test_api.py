"""What other programs may use: how a run is made, and that all of it is documented."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildtools import Refused, api
from tests.conftest import Repository
from tests.test_tasks import difference

PAGE = (Path(__file__).parent.parent / "docs/api.md").read_text()


@pytest.fixture
def project(repository: Repository) -> Repository:
    repository.write("pyproject.toml", '[tool.buildtools]\ntag_prefix = "v"\njobs = 3\n')
    repository.write("src/docker/app/Dockerfile", "FROM scratch\n")
    repository.commit("first")
    repository.tag("v1.0.0")
    return repository


@pytest.mark.parametrize("name", api.__all__)
def test_a_public_name_is_documented(name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE)


def test_a_run_is_about_the_project_in_a_folder(project: Repository, environment: Mapping[str, str]) -> None:
    run = api.project_run(project.path, environment=environment)
    assert ("1.0.0", 3, project.path) == (api.current_version(run).text, run.jobs, run.settings.root)
    assert 5 == api.project_run(project.path, environment=environment, jobs=5).jobs


def test_a_run_has_all_levels_of_the_configuration(
    project: Repository, environment: Mapping[str, str], tmp_path: Path
) -> None:
    project.write("invoke.yaml", "buildtools:\n  namespace: from-the-project\n  registry: project.example.com\n")
    (tmp_path / "runtime.yaml").write_text("buildtools:\n  registry: runtime.example.com\n")
    variables = {
        "INVOKE_RUNTIME_CONFIG": f"{tmp_path}/runtime.yaml",
        "INVOKE_BUILDTOOLS_REMOTE": "from-the-environment",
    }
    settings = api.project_run(project.path, environment={**environment, **variables}).settings
    assert ("from-the-project", "runtime.example.com") == (settings.namespace, settings.registry)
    assert ("from-the-environment", "v") == (settings.remote, settings.tag_prefix)


@pytest.mark.parametrize("name", ["invoke.yaml", "runtime.yaml"])
def test_a_file_that_cannot_be_read_is_one_message(
    project: Repository, environment: Mapping[str, str], name: str
) -> None:
    file = project.write(name, "a: [")
    with pytest.raises(Refused, match="Invoke cannot use"):
        api.project_run(project.path, environment={**environment, "INVOKE_RUNTIME_CONFIG": str(file)})


def test_errors_in_the_configuration_come_all_at_once(project: Repository, environment: Mapping[str, str]) -> None:
    project.write("pyproject.toml", "[tool.buildtools]\nregistri = 1\nnamespace = 2\n")
    with pytest.raises(Refused, match=r"(?s)namespace.*registri|registri.*namespace"):
        api.project_run(project.path, environment=environment)


def test_a_run_changes_nothing_of_the_process(project: Repository) -> None:
    program = f"from buildtools import api; api.current_version(api.project_run({str(project.path)!r}))"
    assert "[]" == difference(program)
