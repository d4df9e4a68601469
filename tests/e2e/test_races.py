"""Two publishes at once for one version: one release comes of it, and it stays what its manifest says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from tests.e2e.conftest import MakeProject
from tests.e2e.project import Outcome, Place, Project
from tests.faults.proxy import Wire, wire_to

SHORT = ("app", "base")


@dataclass(frozen=True)
class Pair:
    """Two clones of one repository on two agents; the second reaches the registry over a wire."""

    first: Project
    second: Project
    wire: Wire


@pytest.fixture
def pair(place: Place, registry: str, project_in: MakeProject) -> Iterator[Pair]:
    with wire_to(registry) as wire:
        # Both call the registry by one name, as agents do.
        first = project_in(replace(place, registry=wire.address, login=""))
        first.image("base", "FROM {base}\nCOPY mark /\n", mark=first.mark)
        first.image("app", "FROM base-{mark}\nRUN true\n")
        first.commit("all")
        first.tag("1.0.0")
        second = first.clone(first.home / "second")
        yield Pair(first, second, wire)


def held_back(pair: Pair) -> tuple[Outcome, Outcome]:
    """The first publishes when the second is about to set its tags, which the second then does."""
    # Parents get their tags first, so there is one to wait for.
    about_to_tag, may_go_on = threading.Barrier(2, timeout=60), threading.Event()
    tagging = b"/manifests/1.0.0 HTTP/1.1"

    def hold(data: bytes) -> bytes:
        if data.startswith(b"PUT ") and tagging in data and not may_go_on.is_set():
            about_to_tag.wait()
            may_go_on.wait()
        return data

    pair.wire.sent = hold
    second = pair.second.start("publish")
    about_to_tag.wait()
    pair.wire.sent = lambda data: data
    first = pair.first.invoke("publish")
    may_go_on.set()
    return first, pair.second.finish(second)


def released(project: Project) -> dict[str, str]:
    """What the manifest says of each image."""
    manifest = json.loads(project.place.read(f"{project.mark}/releases/1.0.0.json"))
    return {image["repository"]: image["digest"] for image in manifest["images"]}


def in_registry(project: Project) -> dict[str, str]:
    return {project.repository(short): project.place.digest(project.repository(short), "1.0.0") for short in SHORT}


def test_two_agents_with_the_same_commit_both_succeed(pair: Pair) -> None:
    processes = [project.start("publish") for project in (pair.first, pair.second)]
    outcomes = [project.finish(each) for project, each in zip((pair.first, pair.second), processes, strict=True)]
    assert [0, 0] == [outcome.code for outcome in outcomes], outcomes
    assert ["1.0.0 released", "1.0.0 was"] == sorted(" ".join(outcome.last.split()[:2]) for outcome in outcomes)
    assert released(pair.first) == in_registry(pair.first)


def test_the_later_of_the_same_commit_finds_the_release(pair: Pair) -> None:
    first, second = held_back(pair)
    assert (0, 0) == (first.code, second.code), second.err
    assert released(pair.first) == in_registry(pair.first)


def test_of_two_commits_under_one_tag_one_wins_and_stays_what_it_is(pair: Pair) -> None:
    pair.second.git("tag", "--delete", "1.0.0")
    pair.second.commit("other content", **{f"src/docker/{pair.second.name('base')}/mark": "other"})
    pair.second.tag("1.0.0")
    outcomes = held_back(pair)
    assert [0, 3] == sorted(outcome.code for outcome in outcomes), outcomes
    loser = next(outcome for outcome in outcomes if outcome.code)
    assert loser.last.startswith("error: ")
    assert released(pair.first) == in_registry(pair.first)
    manifest = json.loads(pair.first.place.read(f"{pair.first.mark}/releases/1.0.0.json"))
    winner = pair.first if outcomes[0].code == 0 else pair.second
    assert winner.git("rev-parse", "HEAD") == manifest["commit"]
