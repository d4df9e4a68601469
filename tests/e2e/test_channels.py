"""``channel`` and ``rollback`` as a user meets them; they need neither an engine nor a git repository."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import S3Service
from tests.e2e.project import Project
from tests.releases import ReleasePlace, digests, release_place


@pytest.fixture
def released(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[ReleasePlace]:
    with release_place(tmp_path, registry, s3, environment) as place:
        yield place


def test_what_moves_is_told_and_the_past_is_shown(released: ReleasePlace) -> None:
    old, new = released.release("1.0.0"), released.release("1.1.0")
    first = released.invoke("channel", "stage", "--to", "1.0.0")
    assert (0, "stage is a new channel and moved to 1.0.0, 2 tags with it\n") == (first.returncode, first.stderr)
    released.invoke("channel", "stage", "--to", "1.1.0")
    rolled_back = released.invoke("rollback", "stage")
    assert (0, "stage moved back from 1.1.0 to 1.0.0, 2 tags with it\n") == (rolled_back.returncode, rolled_back.stderr)
    header, *rows = (line.split() for line in rolled_back.stdout.splitlines())
    prefix = f"{released.settings.registry}/{released.settings.namespace}"
    assert ["TAG", "BEFORE", "AFTER"] == header
    assert [
        [f"{prefix}/{name}:stage", digests(new)[name][:19], digests(old)[name][:19]] for name in ("app", "web")
    ] == rows
    shown = released.invoke("channel", "stage")
    assert (0, "stage points to 1.0.0\n") == (shown.returncode, shown.stderr)
    assert [
        ["VERSION", "COMMIT", "MOVED"],
        ["1.0.0", old.commit[:12], "back"],
        ["1.1.0", new.commit[:12], "forward"],
        ["1.0.0", old.commit[:12], "forward"],
    ] == [line.split() for line in shown.stdout.splitlines()]


def test_a_program_gets_a_document(released: ReleasePlace) -> None:
    release = released.release("1.0.0", ("app",))
    document = json.loads(released.invoke("channel", "stage", "--to", "1.0.0", "--json").stdout)
    reference = f"{released.settings.registry}/{released.settings.namespace}/app:stage"
    assert {
        "schema": 1,
        "channel": "stage",
        "version": "1.0.0",
        "commit": release.commit,
        "location": released.store.location("channels/stage.json"),
        "before": "",
        "dry_run": False,
        "tags": [{"reference": reference, "before": "", "after": release.images[0].digest}],
        "moves": [{"version": "1.0.0", "commit": release.commit}],
    } == document


def test_a_dry_run_says_what_would_move(released: ReleasePlace) -> None:
    for version in ("1.0.0", "1.1.0"):
        released.release(version)
    planned = released.invoke("channel", "stage", "--to", "1.0.0", "--dry-run")
    said = "dry run: nothing was touched; stage is a new channel and would move to 1.0.0, 2 tags with it\n"
    assert (0, said) == (planned.returncode, planned.stderr)
    for version in ("1.0.0", "1.1.0"):
        released.invoke("channel", "stage", "--to", version)
    planned = released.invoke("--dry", "rollback", "stage", "--json")
    assert (0, True, "1.0.0") == (
        planned.returncode,
        (document := json.loads(planned.stdout))["dry_run"],
        document["version"],
    )
    assert "1.1.0" == json.loads(released.invoke("channel", "stage", "--json").stdout)["version"]


@pytest.mark.parametrize(
    ("command", "last"),
    [
        ("channel stage", "there is no channel stage: make it with `invoke channel stage --to VERSION`"),
        ("rollback stage", "there is no channel stage: make it with `invoke channel stage --to VERSION`"),
        (
            "channel 1.0 --to 1.0.0",
            "a channel cannot be called 1.0: that is a version: choose another name, such as `stage`",
        ),
        ("channel stage --to -", "the version '-' cannot be an image tag"),
    ],
)
def test_a_refusal_is_one_line(released: ReleasePlace, command: str, last: str) -> None:
    refused = released.invoke(*command.split())
    assert (2, "", f"error: {last}") == (refused.returncode, refused.stdout, refused.stderr[: len(last) + 7])
    assert 1 == refused.stderr.count("\n")


def test_publish_leaves_the_tag_of_a_channel_alone(project: Project) -> None:
    project.image("app", "FROM scratch\nCOPY data /\n", data=project.mark)
    project.commit("all")
    project.tag("1.0.0")
    project.done("publish")
    for name in ("stage", "latest"):
        project.done("channel", name, "--to", "1.0.0")
    project.configure(moving_tags=["latest"])
    project.commit("more", data="more")
    project.tag("1.1.0")
    project.git("checkout", "--quiet", "HEAD~1")
    project.tag("stage")
    by_version = project.invoke("publish")
    assert (2, "stage is the name of a channel: rename the git tag, or take stage out of moving_tags") == (
        by_version.code,
        by_version.last.removeprefix("error: "),
    )
    project.git("checkout", "--quiet", "1.1.0")
    by_moving_tag = project.invoke("publish", "--dry-run")
    assert (2, True) == (by_moving_tag.code, "latest is the name of a channel: " in by_moving_tag.last)
    by_channel = project.invoke(
        "publish", "--dry-run", INVOKE_BUILDTOOLS_MOVING_TAGS="", INVOKE_BUILDTOOLS_CHANNELS="v1"
    )
    assert (2, True) == (by_channel.code, "a channel cannot be called v1: that is a version" in by_channel.last)
