"""``doctor``: what is well, what is not, what to do, and an exit code by the worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildtools.sandbox.process import free_ports
from tests.e2e.project import Outcome, Project
from tests.small_disk import small_disk

pytestmark = [pytest.mark.exhaustive, pytest.mark.images_in_engine]

CLOSED = f"127.0.0.1:{free_ports(1)[0]}"
NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
NO_REGISTRY = {"INVOKE_BUILDTOOLS_REGISTRY": CLOSED}
NO_STORE = {"AWS_ENDPOINT_URL_S3": f"http://{CLOSED}"}


@pytest.fixture
def healthy(project: Project) -> Project:
    project.image("app", "FROM {base}\n")
    project.commit("all")
    project.tag("1.0.0")
    return project


def states(outcome: Outcome) -> dict[str, set[str]]:
    """How each subject was found."""
    found: dict[str, set[str]] = {}
    for each in outcome.document["diagnoses"]:
        found.setdefault(each["subject"], set()).add(each["health"])
    return found


def test_what_is_well_is_said_and_nothing_is_changed(healthy: Project) -> None:
    before = healthy.world()
    outcome = healthy.invoke("doctor", "--json", "--dry-run")
    assert before == healthy.world()
    found = states(outcome)
    assert 0 == outcome.code, outcome.out
    # The machine's own disks, and what other tests leave in its engine, may be worth a warning.
    well = ("buildtools", "configuration", "git", "engine", "clock", "registry", "store")
    assert [{"ok"}] * len(well) == [found[subject] for subject in well]
    assert {"engine's store", "images", "containers", "engine's disk", "mounts", "project's disk"} < found.keys()
    facts = [each["fact"] for each in outcome.document["diagnoses"]]
    assert "version 1.0.0" in facts
    assert f"takes pushes to {healthy.repository('app')}" in facts
    assert "speaks plain http, more shows after the first push" in facts


@dataclass(frozen=True)
class Ill:
    """Variables that make something fail, what is then not well, and the exit code."""

    variables: Mapping[str, str]
    subjects: str
    code: int


@pytest.mark.parametrize(
    "ill",
    [
        Ill(NO_ENGINE, "engine", 4),
        Ill(NO_REGISTRY, "registry", 4),
        Ill(NO_STORE, "store", 4),
        Ill({**NO_ENGINE, **NO_REGISTRY, **NO_STORE}, "engine, registry, store", 4),
        Ill({"DOCKER_CONFIG": "/nonexistent"}, "registry", 2),
        Ill({"AWS_SECRET_ACCESS_KEY": "wrong"}, "store", 2),
        Ill({**NO_ENGINE, "AWS_SECRET_ACCESS_KEY": "wrong"}, "engine, store", 2),
        Ill({"INVOKE_BUILDTOOLS_VERIFY_KEY": "nowhere.pub"}, "signing", 2),
        Ill({**NO_ENGINE, "INVOKE_BUILDTOOLS_REGSTRY": "x"}, "configuration, engine", 2),
    ],
    ids=lambda ill: f"{ill.subjects} {ill.code}",
)
def test_what_is_not_well_is_named_and_the_worst_gives_the_exit_code(healthy: Project, ill: Ill) -> None:
    outcome = healthy.invoke("doctor", **ill.variables)
    assert (ill.code, f"error: not well: {ill.subjects}: do what is said above") == (outcome.code, outcome.last)
    lines = [line for line in outcome.out.splitlines() if line.startswith("failed ")]
    assert set(ill.subjects.split(", ")) == {line.split()[1] for line in lines}


def test_the_capabilities_of_the_registry_are_shown(healthy: Project) -> None:
    healthy.done("push")
    before = healthy.world()
    facts = [each["fact"] for each in healthy.done("doctor", "--json", "--dry-run").document["diagnoses"]]
    expected = {
        "speaks plain http, mounts layers, sends parts of layers, returns sizes",
        "deletes, so `invoke prune` works",
    }
    assert (expected, before) == (expected & {*facts}, healthy.world())


def test_a_dirty_tree_is_a_warning(healthy: Project) -> None:
    healthy.write("tasks.py", "from buildtools.tasks import namespace  # mine\n")
    outcome = healthy.invoke("doctor", "--json")
    assert (0, {"warning"}) == (outcome.code, states(outcome)["git"])


@pytest.mark.parametrize("size", ["1m", "8m,nr_inodes=2"], ids=["space", "inodes"])
def test_a_full_disk_fails(healthy: Project, size: str) -> None:
    with small_disk(healthy.home / "cache", size):
        (healthy.home / "cache/data").write_bytes(bytes(1024 * 1024))
        outcome = healthy.invoke("doctor", "--json")
    assert 1 == outcome.code
    assert "failed" in states(outcome)["cache's disk"]


def test_a_cache_that_cannot_be_written_is_a_warning(healthy: Project) -> None:
    outcome = healthy.invoke("doctor", "--json", XDG_CACHE_HOME="/proc/nowhere")
    (cache,) = [each for each in outcome.document["diagnoses"] if each["subject"] == "cache's disk"]
    fact = "/proc/nowhere/lockstep-buildtools cannot be written (No such file or directory), "
    assert (0, "warning", True) == (outcome.code, cache["health"], cache["fact"].startswith(fact))


def test_a_mount_that_no_container_holds_is_named(healthy: Project) -> None:
    folder = Path("/var/lib/docker/overlay2") / f"lost-{healthy.mark}" / "merged"
    if not folder.parents[1].is_dir():
        pytest.skip("the engine's images are elsewhere")
    try:
        with small_disk(folder):
            outcome = healthy.invoke("doctor", "--json")
            assert {"warning"} == states(outcome)["mounts"]
    finally:
        folder.rmdir()
        folder.parent.rmdir()
