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


GRADLE_BUILDS = {
    "one project": ({"build.gradle": "apply plugin: 'application'\n"}, ["repository"]),
    "as Kotlin": ({"build.gradle.kts": "plugins {\n    java\n    application\n}\n"}, ["repository"]),
    "projects": (
        {
            "settings.gradle": "rootProject.name = 'shop'\ninclude 'app', 'lib',\n  'services:api', 'web:api'\n"
            "// include 'old'\n",
            "web/api/build.gradle": "apply plugin: 'application'\n",
            "app/build.gradle": "plugins { id 'buildlogic.java-application-conventions' }\n",
            "lib/build.gradle": "plugins { id 'java-library' }\n",
            "old/build.gradle": "plugins { id 'application' }\n",
            "services/api/build.gradle.kts": 'plugins {\n    id("distribution")\n}\n',
        },
        ["app", "api", "web-api"],
    ),
    "nothing to install": (
        {
            "settings.gradle.kts": 'include("phone")\n',
            "build.gradle": "// plugins { id 'application' }\nplugins { id 'java' }\n",
            "phone/build.gradle": "plugins { id 'com.android.application' }\n",
        },
        [],
    ),
}


@pytest.mark.parametrize(("build", "names"), GRADLE_BUILDS.values(), ids=GRADLE_BUILDS)
def test_what_a_gradle_build_installs_becomes_a_distribution(
    repository: Repository, environment: Mapping[str, str], build: dict[str, str], names: list[str]
) -> None:
    repository.commit("a build", **build)
    init(repository, environment)
    folders = {"app": "app/", "api": "services/api/", "web-api": "web/api/"}
    tasks = {"app": ":app:installDist", "api": ":services:api:installDist", "web-api": ":web:api:installDist"}
    expected = {
        name: {
            "command": f"gradle {tasks.get(name, 'installDist')}",
            "root": f"{folders.get(name, '')}build/install/{name.removeprefix('web-')}",
        }
        for name in names
    }
    assert expected == configuration(repository).get("distribution", {})


@pytest.mark.parametrize(
    ("there", "advice"),
    [
        ({"Dockerfile": "FROM scratch\n"}, "in no image folder: Dockerfile: move each to src/docker/NAME/Dockerfile"),
        (
            {f"{name}/Dockerfile": "FROM scratch\n" for name in ("a", "b", "docker/c", "docker/d")},
            "in no image folder: a/Dockerfile, b/Dockerfile, docker/c/Dockerfile and 1 more: move",
        ),
        ({"src/docker/Web/Dockerfile": "FROM scratch\n"}, "invalid image name: src/docker/Web: rename it, for example"),
        ({".gitignore": "*.toml\n"}, "git ignores pyproject.toml: nothing is released without them in a commit"),
    ],
)
def test_what_will_not_work_is_told(
    repository: Repository, environment: Mapping[str, str], there: dict[str, str], advice: str
) -> None:
    repository.commit("a project", **{"docker/README.md": "", "docker/e/data": "", **there})
    assert f"warning: {advice}" in init(repository, environment).stderr


def test_the_commands_name_the_program_by_its_path_where_it_is_on_none(
    repository: Repository, environment: Mapping[str, str]
) -> None:
    bare = {**environment, "PATH": "/usr/bin:/bin"}
    assert f"{PROGRAM} build" == init(repository, bare).stdout.splitlines()[-1]


def test_the_first_tag_comes_after_the_lightweight_ones(repository: Repository, environment: Mapping[str, str]) -> None:
    repository.commit("first")
    for name in ("v1.10.0", "v1.9.0"):
        repository.git("tag", name)
    assert "git tag -a v1.11.0 -m 1.11.0" == init(repository, environment).stdout.splitlines()[1]
    assert "v" == configuration(repository)["tag_prefix"]


def test_a_dry_run_writes_nothing(repository: Repository, environment: Mapping[str, str]) -> None:
    done = init(repository, environment, "--dry-run")
    assert ({}, True) == (files(repository), "dry run, nothing was touched: wrote tasks.py, " in done.stderr)


def test_outside_of_a_repository_it_is_refused(tmp_path: Path, environment: Mapping[str, str]) -> None:
    done = init(Repository(tmp_path), {**environment, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}, code=2)
    assert ({}, True) == (files(Repository(tmp_path)), "make a repository with `git init`" in done.stderr)


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
