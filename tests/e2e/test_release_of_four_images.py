"""A second, different repository releases four images and an archive with nothing but a one-line tasks.py."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from contextlib import closing
from dataclasses import dataclass

import pytest

from buildtools.image.engine.client import Engine
from tests.e2e.conftest import MakeProject
from tests.e2e.project import Outcome, Project

SHORT = ("app", "base", "tool", "web")

pytestmark = pytest.mark.images_in_engine


@dataclass(frozen=True)
class Story:
    """The project once its first version is out, and how each command ended on the way."""

    project: Project
    outcomes: dict[str, Outcome]


def four_images(project: Project) -> None:
    """``base`` is a parent of the others in three ways; ``tool`` has the version as an input."""
    mark = project.mark
    project.image("base", "FROM {base}\nCOPY base.txt /\n", **{"base.txt": mark})
    project.image(
        "app",
        "ARG REGISTRY\nARG VERSION\nFROM ${REGISTRY}/base-{mark}:${VERSION}\nCOPY app.txt /\n",
        **{"app.txt": mark},
    )
    project.image("web", "FROM base-{mark}\nRUN echo web >/web.txt\n")
    project.image(
        "tool",
        "FROM {base}\nCOPY --from=base-{mark} /base.txt /\nARG VERSION\nRUN echo ${VERSION} >/version.txt\n",
    )
    made = "mkdir -p build/daemon/bin && echo $BUILDTOOLS_VERSION >build/daemon/bin/daemon"
    project.configure(
        moving_tags=["latest", "{major}.{minor}"],
        distribution={project.name("daemon"): {"command": made, "root": "build/daemon"}},
    )


@pytest.fixture(scope="module")
def story(make_project_here: MakeProject) -> Story:
    project = make_project_here()
    four_images(project)
    project.commit("the first")
    project.tag("1.0.0")
    outcomes = {
        name: project.done(*command.split())
        for name, command in {
            "version": "version",
            "version --json": "version --json",
            "list": "list",
            "build": "build",
            "list --json": "list --json",
            "tag": "tag --json",
            "push": "push --json",
            "dist": "dist --json",
            "publish": "publish --json",
            "verify": "verify --json",
        }.items()
    }
    return Story(project, outcomes)


def test_every_command_succeeds_and_says_so_last(story: Story) -> None:
    last = {name: outcome.last for name, outcome in story.outcomes.items()}
    mark = story.project.mark
    assert {
        "version": "1.0.0",
        "list": "listed 4 images: 4 not built",
        "build": "built 4 images: 4 built",
        "tag": "tagged 4 images: 4 up to date",
        "push": "pushed 4 images: 4 direct",
        "dist": "made 1 archive in dist/",
        "publish": f"1.0.0 released 4 images and 1 archive, s3://{story.project.place.bucket}/{mark}/releases/1.0.0.json",
        "verify": "release 1.0.0 is intact: 4 images and 1 archive",
    } == {name: text.partition(", moved ")[0] for name, text in last.items() if "--json" not in name}


def test_version_stands_alone_on_standard_output(story: Story) -> None:
    assert ("1.0.0\n", "") == (story.outcomes["version"].out, story.outcomes["version"].err)


@pytest.mark.parametrize("name", ["version --json", "list --json", "tag", "push", "dist", "publish", "verify"])
def test_json_has_a_schema_number(story: Story, name: str) -> None:
    assert 1 == story.outcomes[name].document["schema"]


def test_parents_come_first_in_the_list(story: Story) -> None:
    listed = [item["name"] for item in story.outcomes["list --json"].document["items"]]
    assert [story.project.name(short) for short in ("base", "app", "tool", "web")] == listed


@pytest.mark.parametrize("command", ["list --json", "build --json"])
def test_only_some_come_with_their_parents(story: Story, command: str) -> None:
    outcome = story.project.done(*command.split(), "--only", f"{story.project.name('web')}")
    assert [story.project.name(short) for short in ("base", "web")] == [
        item["name"] for item in outcome.document["items"]
    ]


def test_an_image_pulled_by_digest_says_its_version(story: Story) -> None:
    project = story.project
    manifest = json.loads(project.place.read(f"{project.mark}/releases/1.0.0.json"))
    user, _, password = project.place.login.partition(":")
    said = {}
    with closing(Engine.connect(project.place.engine.environment)) as engine:
        for image in manifest["images"]:
            pinned = f"{image['registry']}/{image['repository']}"
            engine.api.pull(pinned, tag=image["digest"], auth_config={"username": user, "password": password})
            labels = engine.api.inspect_image(f"{pinned}@{image['digest']}")["Config"]["Labels"]
            said[image["name"]] = (
                labels["org.opencontainers.image.version"],
                labels["org.opencontainers.image.revision"],
            )
    assert dict.fromkeys(map(project.name, SHORT), ("1.0.0", project.git("rev-parse", "HEAD"))) == said


def test_the_archive_in_s3_is_the_one_in_dist_with_the_version_in_its_root(story: Story) -> None:
    project = story.project
    name = project.name("daemon")
    content = project.place.read(f"{project.mark}/{name}/{name}-1.0.0.tgz")
    assert (project.path / "dist" / f"{name}-1.0.0.tgz").read_bytes() == content
    manifest = json.loads(project.place.read(f"{project.mark}/releases/1.0.0.json"))
    assert [hashlib.sha256(content).hexdigest()] == [archive["sha256"] for archive in manifest["archives"]]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert {f"{name}-1.0.0"} == {member.name.partition("/")[0] for member in archive}
        daemon = archive.extractfile(f"{name}-1.0.0/bin/daemon")
        assert daemon
        assert b"1.0.0\n" == daemon.read()


def test_moving_tags_point_to_the_release(story: Story) -> None:
    project = story.project
    repository = project.repository("app")
    digests = {tag: project.place.digest(repository, tag) for tag in ("1.0.0", "latest", "1.0")}
    assert dict.fromkeys(digests, digests["1.0.0"]) == digests
    assert digests["1.0.0"]


def test_publishing_again_writes_nothing(story: Story) -> None:
    project = story.project
    before = project.world()
    again = project.done("publish")
    after = project.world()
    assert (before["tags"], before["objects"], before["images"]) == (after["tags"], after["objects"], after["images"])
    assert "was released before with the same content" in again.last


@pytest.fixture(scope="module")
def next_version(story: Story) -> tuple[Story, Outcome, dict[str, str]]:
    project = story.project
    before = project.place.tags(*project.folders())
    project.commit("another app", **{f"src/docker/{project.name('app')}/app.txt": "another"})
    project.tag("1.1.0")
    return story, project.done("publish", "--json"), before


def test_a_new_version_builds_only_what_changed(next_version: tuple[Story, Outcome, dict[str, str]]) -> None:
    story, outcome, before = next_version
    project = story.project
    started = {line for line in outcome.err.splitlines() if line.endswith("] build started")}
    assert {f"[{project.name(short)}] build started" for short in ("app", "tool")} == started
    tags = project.place.tags(*project.folders())
    assert [] == [
        tag for tag, digest in before.items() if tags[tag] != digest and not tag.endswith((":latest", ":fp-records"))
    ]


def test_all_images_carry_the_new_version(next_version: tuple[Story, Outcome, dict[str, str]]) -> None:
    project = next_version[0].project
    said = {}
    for short in SHORT:
        repository = project.repository(short)
        _, body, _ = project.place.request(
            "GET",
            f"{repository}/manifests/1.1.0",
            Accept="application/vnd.docker.distribution.manifest.v2+json",
        )
        _, config, _ = project.place.request("GET", f"{repository}/blobs/{json.loads(body)['config']['digest']}")
        said[short] = json.loads(config)["config"]["Labels"]["org.opencontainers.image.version"]
    assert dict.fromkeys(SHORT, "1.1.0") == said
