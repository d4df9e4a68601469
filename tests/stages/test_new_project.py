"""``init``: what a repository lacks is written, what is there stays, and the commands that are printed work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import EngineService, Repository
from tests.killed_program import killed_at

PROGRAM = Path(sys.executable).with_name("buildtools")


def init(
    repository: Repository, environment: Mapping[str, str], *flags: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [PROGRAM, "init", *flags],
        cwd=repository.path,
        env={**environment, "HOME": str(repository.path.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (code, False) == (done.returncode, "Traceback" in done.stderr), done.stderr
    return done


def configuration(repository: Repository) -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((repository.path / "pyproject.toml").read_text())["tool"]["buildtools"]
    return table


def files(repository: Repository) -> dict[str, bytes]:
    """Every file of the work tree."""
    paths = (path for path in repository.path.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path.relative_to(repository.path)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("is_repeated", [False, True])
def test_the_commands_that_it_prints_work(
    repository: Repository, environment: Mapping[str, str], engine: EngineService, is_repeated: bool
) -> None:
    repository.commit("a project", **{"README.md": "hello\n", ".gitignore": "*.log"})
    commands = init(repository, environment).stdout
    if is_repeated:
        commands = init(repository, environment).stdout
    assert 3 == len(commands.splitlines())
    author = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["sh", "-e"],
        input=f"{commands}buildtools version\n",
        cwd=repository.path,
        env={**environment, **author, **engine.environment, "HOME": str(repository.path.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert "\napp:0.1.0  " in done.stdout
    assert "0.1.0" == done.stdout.splitlines()[-1]
    again = init(repository, environment, "--json")
    document = json.loads(again.stdout)
    assert ([], ["buildtools check", "buildtools build", "buildtools list"]) == (
        document["files"],
        document["commands"],
    )


def test_it_changes_nothing_that_is_there(repository: Repository, environment: Mapping[str, str]) -> None:
    mine = {
        "tasks.py": "print('mine')\n",
        "Jenkinsfile": "node {}\n",
        "docker/web/Dockerfile": "FROM scratch\n",
        "pyproject.toml": '[tool.buildtools]\nimages = "docker"\n',
        ".gitignore": "dist\n.sandbox\n.venv/\n__pycache__",
    }
    repository.commit("mine", **mine)
    done = init(repository, environment)
    assert {name: text.encode() for name, text in mine.items()} == files(repository)
    assert "warning: tasks.py is as it was: import the namespace" in done.stderr


def test_what_it_adds_to_keeps_its_lines_line_ends_mode_and_link(
    repository: Repository, environment: Mapping[str, str]
) -> None:
    project = repository.write("config/pyproject.toml", '[project]\r\nname = "x"')
    project.write_bytes(b'[project]\r\nname = "x"')
    project.chmod(0o640)
    (repository.path / "pyproject.toml").symlink_to("config/pyproject.toml")
    init(repository, environment)
    assert (True, 0o640) == ((repository.path / "pyproject.toml").is_symlink(), project.stat().st_mode & 0o777)
    assert project.read_bytes().startswith(b'[project]\r\nname = "x"\r\n\r\n[tool.buildtools]\r\n')
    assert "x" == tomllib.loads(project.read_bytes().decode())["project"]["name"]


def test_it_finds_out_what_it_can(repository: Repository, environment: Mapping[str, str]) -> None:
    repository.write("settings.gradle", "rootProject.name = 'logdaemon'\n")
    repository.write("build.gradle", "plugins {\n  id 'application'\n}\n")
    repository.write("gradlew")
    repository.write("docker/web/Dockerfile", "FROM scratch\n")
    repository.git("remote", "add", "upstream", "git@git.example:team/Big_Widgets.git")
    repository.commit("first")
    repository.git("branch", "--move", "trunk")
    repository.tag("v1.4.2")
    init(repository, environment)
    assert {
        "namespace": "big-widgets",
        "images": "docker",
        "tag_prefix": "v",
        "release_branch": "trunk",
        "remote": "upstream",
        "distribution": {"logdaemon": {"command": "./gradlew installDist", "root": "build/install/logdaemon"}},
    } == configuration(repository)
    assert not (repository.path / "src").exists()
    ignored = (repository.path / ".gitignore").read_text().split()
    assert ["/dist/", "/.sandbox/", "/.venv/", "__pycache__/", "/build/", "/.gradle/"] == ignored


def test_a_dry_run_writes_nothing(repository: Repository, environment: Mapping[str, str]) -> None:
    done = init(repository, environment, "--dry-run")
    assert ({}, True) == (files(repository), "dry run, nothing was touched: wrote tasks.py, " in done.stderr)


def test_outside_of_a_repository_it_is_refused(tmp_path: Path, environment: Mapping[str, str]) -> None:
    done = init(Repository(tmp_path), {**environment, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}, code=2)
    assert ({}, True) == (files(Repository(tmp_path)), "is in no git repository" in done.stderr)


def test_a_table_that_cannot_be_added_to_is_refused(repository: Repository, environment: Mapping[str, str]) -> None:
    repository.write("pyproject.toml", "tool = { other = 1 }\n")
    assert "pyproject.toml has no room for a [tool.buildtools]" in init(repository, environment, code=2).stderr
    assert ["pyproject.toml"] == list(files(repository))


@pytest.mark.exhaustive
def test_killed_at_any_moment_it_leaves_whole_files_and_the_next_run_ends_it(
    repository: Repository, environment: Mapping[str, str]
) -> None:
    whole: dict[str, bytes] = {}
    number, was_killed = 0, True
    while was_killed:
        number += 3
        repository.git("clean", "--quiet", "--force", "-dx")
        variables = {**environment, "HOME": str(repository.path.parent)}
        was_killed = killed_at(number, "repository", "init", folder=repository.path, environment=variables)
        left = files(repository)
        init(repository, environment)
        whole = whole or files(repository)
        assert whole == files(repository)
        assert [] == [name for name, data in left.items() if not name.endswith(".partial") and data != whole[name]]
    assert number > 10
    assert os.path.lexists(repository.path / "Jenkinsfile")
