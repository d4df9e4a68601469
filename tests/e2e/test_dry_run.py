"""``--dry-run``, and Invoke's own ``--dry``, say what would happen and touch nothing."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import MakeProject
from tests.e2e.project import Project


@pytest.fixture(scope="module")
def project(make_project_here: MakeProject) -> Project:
    project = make_project_here()
    project.image("base", "FROM {base}\nCOPY mark /\n", mark=project.mark)
    project.image("app", "FROM base-{mark}\nCOPY app.txt /\n", **{"app.txt": "1"})
    project.configure(
        moving_tags=["latest"],
        channels=["edge"],
        image={project.name("app"): {"before": "touch before-was-run"}},
        distribution={project.name("daemon"): {"command": "mkdir -p build/d && touch build/d/x", "root": "build/d"}},
    )
    project.commit("all")
    project.tag("1.0.0")
    return project


def plan(project: Project, *command: str) -> dict[str, str]:
    """What a dry run says of each member, by its short name; nothing may be different afterwards."""
    before = project.world()
    outcome = project.done(*command, "--json")
    assert before == project.world()
    assert "dry run: nothing was touched" == outcome.last
    assert 1 == outcome.document["schema"]
    return {item["name"].replace(f"-{project.mark}", ""): item["action"] for item in outcome.document["items"]}


@pytest.fixture(scope="module")
def plans(project: Project) -> dict[str, dict[str, str]]:
    """What dry runs say before anything is done, when all is published, and when one image changed."""
    manifest = f"s3://{project.place.bucket}/{project.mark}/releases"
    made = {f"first {command}": plan(project, command, "--dry-run") for command in ("build", "push", "dist", "publish")}
    made["first --dry publish"] = plan(project, "--dry", "publish")
    project.done("publish")
    made |= {f"again {command}": plan(project, command, "--dry-run") for command in ("build", "tag", "publish")}
    project.forget_images()
    made["forgotten build"] = plan(project, "build", "--dry-run")
    project.done("build")
    project.commit("change app", **{f"src/docker/{project.name('app')}/app.txt": "2"})
    project.tag("1.1.0")
    made |= {f"changed {command}": plan(project, command, "--dry-run") for command in ("build", "publish")}
    return json.loads(json.dumps(made).replace(manifest, "releases"))  # type: ignore[no-any-return]


@pytest.mark.images_in_engine
def test_dry_runs_say_what_would_happen(plans: dict[str, dict[str, str]]) -> None:
    build, push = "be built", "be built and pushed"
    made = {"daemon-1.0.0.tgz": "be made"}
    sent = {"daemon-1.0.0.tgz": "be made and uploaded"}
    moves = {"tag latest": "be moved to 1.0.0", "channel edge": "be moved to 1.0.0"}
    publish = {"base": push, "app": push, **sent, "releases/1.0.0.json": "be written", **moves}
    same = "not change"
    still = dict.fromkeys(moves, same)
    assert {
        "first build": {"base": build, "app": build},
        "first push": {"base": push, "app": push},
        "first dist": made,
        "first publish": publish,
        "first --dry publish": publish,
        "again build": {"base": same, "app": same},
        "again tag": {"base": same, "app": same},
        "again publish": {"base": same, "app": same, **sent, "releases/1.0.0.json": "be compared", **still},
        "forgotten build": {"base": "be pulled", "app": "be pulled"},
        "changed build": {"base": same, "app": build},
        "changed publish": {
            "base": "be stamped, unchanged",
            "app": push,
            "daemon-1.1.0.tgz": "be made and uploaded",
            "releases/1.1.0.json": "be written",
            **dict.fromkeys(moves, "be moved to 1.1.0"),
        },
    } == plans
