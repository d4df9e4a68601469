"""``check``: every error at once, with its place, and nothing but files is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import Repository

NOWHERE = {
    "DOCKER_HOST": "unix:///nonexistent/docker.sock",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "DOCKER_CONFIG": "/nonexistent",
}
CONFIGURATION = """\
[project]
name = "x"

[tool.buildtools]
regstry = "x"
jobs = "many"
registry_ca = "absent.pem"
artifacts = "s3://own/widgets"
verify_key = "absent.pub"
moving_tags = [
    "a b",
]
channels = ["edge", "fp-1"]

[tool.buildtools.target.far]
artifacts = "s3://own/widgets/"
channels = ["1.4"]
requires = ["far"]

[tool.buildtools.stage]
compose = ["compose.yaml", "absent.yaml"]

[tool.buildtools.image.bse]
target = "final"

[tool.buildtools.image.base]
context = "nowhere"

[tool.buildtools.image.arm]
platform = "linux/amr64"

[tool.buildtools.image.app]
cache_from = ["UPPER"]
"""
DOCKERFILES = {
    "app": "FROM base:::\nCOPY . /\n",
    "arm": "FROM scratch\n",
    "base": "FROM scratch\n",
    "late": "RUN before any FROM\n",
    "other": "FROM scratch\nCOPY . /\n",
    "round": "FROM trip\n",
    "trip": "FROM round\n",
    "hen": "FROM scratch\nCOPY --from=egg / /\n",
    "egg": "FROM hen\n",
    "typo": "FROM scratch\nCOPPY . /\nRUN <<END\nCOPPY\nEND\n\nFRIED egg\n",
    "other-typo": "# syntax=example.com/front:end\nFROM scratch\nCOPPY . /\n",
}


def check(repository: Repository, environment: Mapping[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("buildtools"), "check", *flags],
        cwd=repository.path,
        env={**environment, **NOWHERE, "HOME": str(repository.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def broken(repository: Repository) -> list[str]:
    """Break everything; how each error begins, in any order."""
    repository.write("pyproject.toml", CONFIGURATION)
    repository.write("invoke.yaml", "buildtools:\n  image:\n    app:\n      ssh: perhaps\n")
    for name, text in DOCKERFILES.items():
        repository.write(f"src/docker/{name}/Dockerfile", text)
    repository.write("compose.yaml")
    repository.write("src/docker/other/.dockerignore", "fine\n[\n")
    repository.write("src/docker/Upper/Dockerfile", "FROM scratch\n")
    repository.write("src/docker/none/data.txt")
    return [
        "pyproject.toml line 5: unknown key regstry (did you mean registry?)",
        "pyproject.toml line 6: jobs must be a whole number",
        "pyproject.toml line 7: registry_ca: absent.pem is not a file",
        "pyproject.toml line 9: verify_key: absent.pub ",
        "pyproject.toml line 10: moving_tags: 'a b' must be a tag",
        "pyproject.toml line 13: channels: a channel cannot be called fp-1: that is the tag of a fingerprint",
        "pyproject.toml line 15: target.far has the same artifacts as the project itself: set artifacts under ",
        "pyproject.toml line 17: target.far.channels: a channel cannot be called 1.4: that is a version",
        "pyproject.toml line 18: target.far.requires: targets require each other in a cycle: far -> far: ",
        "pyproject.toml line 21: stage.compose: absent.yaml is not a file",
        "pyproject.toml line 23: image.bse: unknown image: bse: did you mean base?",
        "pyproject.toml line 27: image.base.context: nowhere is not a folder",
        "pyproject.toml line 30: image.arm.platform must be one platform",
        "pyproject.toml line 33: image.app.cache_from: 'UPPER' is not an image reference",
        f"{repository.path}/invoke.yaml line 4: image.app.ssh must be true or false",
        "src/docker/app/Dockerfile line 1: 'base:::' is not an image reference",
        "src/docker/late/Dockerfile line 1: ",
        "src/docker/typo/Dockerfile line 2: unknown instruction COPPY: did you mean COPY?",
        "src/docker/typo/Dockerfile line 7: unknown instruction FRIED",
        f"{repository.path}/src/docker/other/.dockerignore line 2 is an invalid pattern",
        "image folders depend on each other in a cycle: round -> trip -> round: ",
        "image folders depend on each other in a cycle: egg -> hen -> egg: ",
        "invalid image name: src/docker/Upper",
        "no Dockerfile: src/docker/none/Dockerfile",
    ]


def test_every_error_comes_at_once_with_its_place(repository: Repository, environment: Mapping[str, str]) -> None:
    errors = broken(repository)
    repository.commit("all of it")
    repository.tag("1.0.0")
    done = check(repository, environment)
    *details, last = done.stderr.splitlines()
    assert (2, "") == (done.returncode, done.stdout)
    assert f"error: the check found {len(errors)} errors: fix the errors above" == last
    assert [] == [text for text in errors if sum(line.startswith(text) for line in details) != 1], details
    assert len(errors) == len(details)


def test_the_errors_are_a_document_too(repository: Repository, environment: Mapping[str, str]) -> None:
    errors = broken(repository)
    error = json.loads(check(repository, environment, "--json").stdout)["error"]
    assert (2, len(errors)) == (error["exit_code"], len(error["details"]))


def test_platforms_and_cycles_are_errors_like_others(repository: Repository, environment: Mapping[str, str]) -> None:
    repository.write(
        "pyproject.toml", '[tool.buildtools]\njobs = -1\n[tool.buildtools.image.base]\nplatform = "linux/386"\n'
    )
    for name in ("a", "b"):
        repository.write(f"src/docker/{name}/Dockerfile", "FROM scratch\nCOPY --from=base / /\n")
    repository.write("src/docker/base/Dockerfile", "FROM scratch\n")
    details = check(repository, environment).stderr
    assert [1, 1, 1] == [
        details.count(text)
        for text in (
            "src/docker/a/Dockerfile line 2: base is",
            "src/docker/b/Dockerfile line 2: base is",
            "jobs must be",
        )
    ]
    repository.write("src/docker/base/Dockerfile", "FROM a\n")
    details = check(repository, environment).stderr
    assert [1, 1] == [details.count(text) for text in ("in a cycle: a -> base -> a", "jobs must be")]


def test_a_good_project_needs_no_tag_to_be_checked(repository: Repository, environment: Mapping[str, str]) -> None:
    repository.write("pyproject.toml", '[tool.buildtools]\nregistry = "r.example"\n')
    repository.write("src/docker/base/Dockerfile", "FROM scratch\n")
    repository.write("src/docker/app/Dockerfile", "ARG REGISTRY\nARG VERSION\nFROM ${REGISTRY}/base:${VERSION}\n")
    done = check(repository, environment, "--json")
    assert {"schema": 1, "images": ["base", "app"], "distributions": []} == json.loads(done.stdout)
    warning, summary = done.stderr.splitlines()
    assert warning.startswith("warning: there is no commit yet: ")
    assert "no errors: 2 image folders and 0 distributions checked" == summary
