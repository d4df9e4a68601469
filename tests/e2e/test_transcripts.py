"""Every transcript of the documentation is what a shell prints, in a project like the one that the pages tell of."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools.image.docker.credentials import Credentials
from buildtools.image.registry.build_records import BuildRecords
from buildtools.image.registry.client import Registry
from tests import json_page
from tests.conftest import Repository, make_repository
from tests.cosign import Cosign
from tests.e2e.project import Place, toml_lines
from tests.payload.conftest import require
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
        git checkout --quiet main && git tag -f -a 1.5.0 -m 1.5.0 && buildtools publish
    """,
    "docs/deploy.md": "buildtools fetch 1.4.2 --to /srv/widgets",
    "docs/runit.md": "mkdir -p /etc/sv /etc/service",
    "docs/api.md": "git commit --quiet --allow-empty --message more",
    "docs/environments.md": "",
    "docs/failures.md": "",
}


@pytest.fixture
def widgets(place: Place, tmp_path: Path) -> Iterator[Shell]:
    """A shell in a repository with two images and a distribution, in which no version is released yet."""
    repository, mark = make_repository(tmp_path / "repository"), secrets.token_hex(5)
    bucket = place.s3.bucket()
    for name in ("home", "srv", "etc"):
        (tmp_path / name).mkdir()
    settings = {
        "registry": place.registry,
        "namespace": f"{mark}/widgets",
        "artifacts": f"s3://{bucket}/widgets",
        "moving_tags": ["latest", "{major}.{minor}"],
        # By this they are found again, for the engine is shared by all tests.
        "image": {name: {"labels": {"mark": mark}} for name in ("app", "web")},
        "distribution": {"logdaemon": {"command": "sh script/installdist", "root": "build/install/logdaemon"}},
        "target": {
            name: {"namespace": f"{mark}/{name}/widgets", "artifacts": f"s3://{bucket}/{name}", **gates}
            for name, gates in {"staging": {}, "production": {"requires": ["staging"]}}.items()
        },
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
        {HOST: f"{place.registry}/{mark}", "release-artifacts": bucket},
    )
    forget_images(place.variables, {"label": f"mark={mark}"})


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


def forget_images(variables: Mapping[str, str], filters: Mapping[str, str]) -> None:
    from buildtools.image.engine.client import Engine

    with closing(Engine.connect(variables)) as engine:
        for image in engine.api.images(filters=filters):
            engine.api.remove_image(image["Id"], force=True)


# Those that are there, also such as are not part of the story.
APART = ("start.md", "signing.md", "stage.md", "jenkins.md")
ALL = [*BEFORE, *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md") if page.name not in APART)]


@pytest.mark.parametrize(
    "names",
    [["docs/release.md", "docs/api.md"], pytest.param([*dict.fromkeys(ALL)], marks=pytest.mark.exhaustive)],
    ids=["first", "all"],
)
def test_transcripts_of_pages_are_what_is_printed(widgets: Shell, names: list[str]) -> None:
    differences = []
    for name in names:
        steps = steps_of(ROOT / name, name)
        if steps and name in BEFORE:
            code, printed = widgets.run(f"set -e; cd {widgets.scratch}/repository; {BEFORE[name]}")
            assert 0 == code, printed
        differences += [difference for step in steps if (difference := widgets.differences(step))]
    assert not differences, "\n\n".join(differences)


@pytest.mark.exhaustive
def test_releases_are_signed_as_the_page_says(widgets: Shell, cosign: Cosign) -> None:
    path = f"{cosign.program.parent}{os.pathsep}{widgets.environment['PATH']}"
    shell = replace(widgets, environment={**widgets.environment, "PATH": path})
    settings = 'sign = { key = "env:RELEASE_KEY" }\\nverify_key = "cosign.pub"'
    code, printed = shell.run(
        f"cd {shell.scratch}/repository && sed -i '/^.tool.buildtools.$/a {settings}' pyproject.toml && "
        "export COSIGN_PASSWORD=…"
    )
    assert 0 == code, printed
    differences = [shell.differences(step) for step in steps_of(ROOT / "docs/signing.md", "docs/signing.md")]
    assert [] == [difference for difference in differences if difference]


# The page's health check asks for this program.
DATABASE = """\
FROM {base}
RUN printf '#!/bin/sh\\n' >/bin/pg_isready && chmod +x /bin/pg_isready
CMD ["sleep", "60"]
LABEL mark={mark}
"""
APPLICATION = """\
FROM {base}
COPY app /
CMD ["sleep", "60"]
HEALTHCHECK --interval=1s CMD test -e /app
"""


@pytest.mark.exhaustive
def test_a_version_is_tried_out_as_the_page_says(widgets: Shell, place: Place) -> None:
    require("docker-compose")
    shell = replace(widgets, names={**widgets.names, "/home/me/widgets": "/repository"})
    project, mark = shell.scratch / "repository", secrets.token_hex(5)
    first, *steps = steps_of(ROOT / "docs/stage.md", "docs/stage.md")
    for name, text in (("database", DATABASE), ("app", APPLICATION)):
        (project / "src/docker" / name).mkdir(exist_ok=True)
        dockerfile = text.format(base=place.engine.base_busybox, mark=mark)
        (project / "src/docker" / name / "Dockerfile").write_text(dockerfile)
    code, printed = shell.run(f"""
        set -e; cd {project}; mkdir tests; printf '#!/bin/sh\\n' >tests/smoke; chmod +x tests/smoke
        printf '[tool.buildtools.stage]\\nsmoke = "tests/smoke"\\n' >>pyproject.toml
        sed -i 's/requires = .*/requires = ["stage"]/' pyproject.toml
        {first.command}
        git add . && git commit --quiet --message 'A stack' && git tag -a 1.5.0 -m 1.5.0 && buildtools publish
    """)
    assert 0 == code, printed
    differences = [difference for step in steps if (difference := shell.differences(step))]
    forget_images(place.variables, {"label": f"mark={mark}"})
    assert not differences, "\n\n".join(differences)


# How many seconds each of the page's images took the last time.
TIMES = {"base": 100.0, "billing": 130.0, "orders": 115.0, "search": 72.0, "stock": 90.0}


@pytest.mark.exhaustive
def test_a_version_is_divided_among_agents_as_the_page_says(widgets: Shell, place: Place) -> None:
    folders = widgets.scratch / "repository/src/docker"
    mark = widgets.names[HOST].rpartition("/")[2]
    for name in TIMES:
        (folders / name).mkdir()
        content = f"packages.txt /\nLABEL mark={mark}" if name == "base" else f"{name}.txt /"
        base = "scratch" if name == "base" else "base"
        (folders / name / "Dockerfile").write_text(f"FROM {base}\nCOPY {content}\n")
        (folders / name / ("packages.txt" if name == "base" else f"{name}.txt")).write_text(mark)
    release = "git add . && git commit --quiet --message more && git tag -a 1.5.0 -m 1.5.0 && buildtools publish"
    code, printed = widgets.run(f"cd {widgets.scratch}/repository && {release}")
    assert 0 == code, printed
    credentials = Credentials(Path(place.variables["DOCKER_CONFIG"]), place.variables)
    with closing(Registry(place.registry, credentials)) as client:
        for name, seconds in TIMES.items():
            repository = f"{mark}/widgets/{name}"
            manifest = client.get_manifest(repository, "1.5.0")
            assert manifest
            BuildRecords(client, "0" * 40).add(repository, manifest, {(name, "0" * 64): seconds})
    widgets.run("echo more >>src/docker/base/packages.txt && git commit --quiet --all --message more")
    differences = [widgets.differences(step) for step in steps_of(ROOT / "docs/jenkins.md", "docs/jenkins.md")]
    assert [""] == differences


@pytest.mark.parametrize("page", ["docs/start.md", pytest.param("README.md", marks=pytest.mark.exhaustive)])
def test_a_first_release_goes_as_the_page_says(place: Place, tmp_path: Path, page: str) -> None:
    (tmp_path / "home").mkdir()
    mark = secrets.token_hex(5)
    passed_on = {name: place.variables[name] for name in ("PATH", "DOCKER_HOST", "LC_ALL")}
    shell = Shell(tmp_path, {**passed_on, **git_identity(), "HOME": str(tmp_path / "home")}, {})
    if page == "README.md":
        shell.run(f"cd {make_repository(tmp_path / 'repository').path}")
    differences = []
    for step in steps_of(ROOT / page, page):
        differences += [difference] if (difference := shell.differences(step)) else []
        if step.command == "buildtools init":
            # The engine is shared by all tests, and has built the example as it is.
            shell.run(f"echo LABEL mark={mark} >>src/docker/app/Dockerfile")
    shell.run("buildtools sandbox.down")
    forget_images(place.variables, {"label": f"mark={mark}"})
    assert not differences, "\n\n".join(differences)


@pytest.mark.exhaustive
def test_the_fields_of_each_document_are_those_of_the_page(widgets: Shell) -> None:
    code, printed = widgets.run(f"""
        cd {widgets.scratch}/repository && git checkout --quiet 1.4.2 && buildtools publish
        buildtools channel stage --to 1.4.2 && git checkout --quiet main && echo more >>src/docker/app/app
        git commit --quiet --all --message more && git tag -a 1.5.0 -m 1.5.0 && git push --quiet --tags origin main
    """)
    assert 0 == code, printed
    differences = []
    for section in json_page.sections():
        if "release" in section.command.split():
            widgets.run("git commit --quiet --allow-empty --message more && git push --quiet origin main")
        # What a trial prints is held against its value: these images hold no program to run.
        if section.title != "stage":
            _, printed = widgets.run(f"{section.command} 2>/dev/null")
            document = json.loads(printed)
            differences += [f"{section.title}: {line}" for line in json_page.differences(section.fields, document)]
            if section.title in json_page.SCHEMAS:
                json_page.SCHEMAS[section.title].validate(document)
    assert [] == differences
