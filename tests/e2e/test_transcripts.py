"""Every transcript of the documentation is what a shell prints, in a project like the one that the pages tell of."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Repository, make_repository
from tests.e2e.project import Place, toml_lines
from tests.transcripts import Shell, steps_of

ROOT = Path(__file__).parent.parent.parent
HOST = "registry.example.com:5000"
INSTALL = """\
mkdir -p build/install/logdaemon/bin build/install/logdaemon/lib
echo 'echo logdaemon' >build/install/logdaemon/bin/logdaemon
echo "$BUILDTOOLS_VERSION" >build/install/logdaemon/lib/version
"""
# What has happened in the project before a page begins. Each page goes on where the one before it ended.
BEFORE = {
    "docs/version.md": """
        for change in 1 2 3; do git commit --quiet --allow-empty --message "change $change"; done
        git push --quiet origin main
    """,
    "docs/release.md": """
        git checkout --quiet 1.4.2~1 && buildtools publish
        git checkout --quiet 1.4.2 && buildtools publish
        for channel in production stage; do buildtools channel $channel --to 1.4.2; done
        git checkout --quiet main && buildtools publish
    """,
    "docs/deploy.md": "buildtools fetch 1.4.2 --to /srv/widgets",
    "docs/runit.md": "mkdir -p /etc/sv /etc/service",
}


@pytest.fixture
def widgets(place: Place, tmp_path: Path) -> Iterator[Shell]:
    """A shell in a repository with two images and a distribution, in which no version is released yet."""
    repository, mark = make_repository(tmp_path / "repository"), secrets.token_hex(5)
    for name in ("home", "srv", "etc"):
        (tmp_path / name).mkdir()
    settings = {
        "registry": place.registry,
        "namespace": "widgets",
        "artifacts": f"s3://{place.bucket}/widgets",
        "moving_tags": ["latest", "{major}.{minor}"],
        # By this they are found again, for the engine is shared by all tests.
        "image": {name: {"labels": {"mark": mark}} for name in ("app", "web")},
        "distribution": {"logdaemon": {"command": "sh script/installdist", "root": "build/install/logdaemon"}},
    }
    repository.write("pyproject.toml", "\n".join(["[tool.buildtools]", *toml_lines(settings, "tool.buildtools"), ""]))
    repository.write("tasks.py", "from buildtools.tasks import namespace\n")
    repository.write(".gitignore", "build/\ndist/\n__pycache__/\n")
    repository.write("script/installdist", INSTALL)
    for version in ("1.4.1", "", "1.4.2"):
        for image in ("app", "web"):
            repository.write(f"src/docker/{image}/Dockerfile", f"FROM scratch\nCOPY {image} /\n")
            repository.write(f"src/docker/{image}/{image}", f"{image} {version} {mark}\n")
        repository.commit(version or "change")
        if version:
            repository.tag(version)
    add_origin(repository, tmp_path / "origin")
    yield Shell(
        tmp_path,
        {**place.variables, **git_identity(), "HOME": str(tmp_path / "home")},
        {HOST: place.registry, "release-artifacts": place.bucket},
    )
    forget_images(place.variables, mark)


def add_origin(repository: Repository, folder: Path) -> None:
    repository.git("init", "--quiet", "--bare", "--initial-branch", "main", str(folder))
    repository.git("remote", "add", "origin", str(folder))
    repository.git("push", "--quiet", "--tags", "origin", "main")


def git_identity() -> dict[str, str]:
    return {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "A. Author"), ("EMAIL", "author@example.com"))
    }


def forget_images(variables: Mapping[str, str], mark: str) -> None:
    from buildtools.image.engine.client import Engine

    with closing(Engine.connect(variables)) as engine:
        for image in engine.api.images(filters={"label": f"mark={mark}"}):
            engine.api.remove_image(image["Id"], force=True)


def test_every_transcript_of_the_pages_is_what_is_printed(widgets: Shell) -> None:
    # A page that is not in the order of events comes last.
    names = [*BEFORE, *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
    differences = []
    for name in dict.fromkeys(names):
        steps = steps_of(ROOT / name, name)
        if steps and name in BEFORE:
            code, printed = widgets.run(f"set -e; {BEFORE[name]}")
            assert 0 == code, printed
        differences += [difference for step in steps if (difference := widgets.differences(step))]
    assert not differences, "\n\n".join(differences)
