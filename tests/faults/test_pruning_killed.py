"""Pruning is killed at each of its requests; the next run finishes it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from buildtools.stages.pruning import prune_releases
from buildtools.stages.verification import verify_all
from tests.conftest import S3Service, make_repository
from tests.contract.registries import own_registry
from tests.faults.killing import killable_place

pytestmark = pytest.mark.exhaustive


def test_killed_at_any_request_it_leaves_no_release_in_part_and_the_next_run_finishes(
    tmp_path: Path, s3: S3Service, environment: Mapping[str, str]
) -> None:
    repository = make_repository(tmp_path / "repository")
    repository.commit("all")
    repository.tag("0.1.0")
    with (
        own_registry(tmp_path / "registry", environment) as registry,
        killable_place(repository.path, registry.host, s3, environment) as switch,
    ):
        place = switch.place
        place.release("2.0.0", ("app",))
        at, was_killed, ends = 0, True, set()
        while was_killed:
            at += 1
            for version, archives in (("1.0.0", ("daemon",)), ("1.1.0", ())):
                if place.store.head(f"releases/{version}.json") is None:
                    place.release(version, ("app",), archives, created="2020-01-01T00:00:00Z")
            was_killed = switch.killed(at, partial(prune_releases, keep=1, days=1))
            ends.add(tuple(place.store.head(f"releases/{version}.json") is None for version in ("1.0.0", "1.1.0")))
            with place.task() as task:
                # What still is a release is a whole one.
                assert None is verify_all(task, deep=False).error(), at
                # Before there is a record, nothing has begun.
                if place.store.list("prunes/") or (True, True) in ends:
                    prune_releases(task, 1, 1)
                    assert ["claims/2.0.0.json", "releases/2.0.0.json"] == [each.key for each in place.store.list()], at
                    assert [{"app": ""}] * 2 == [place.tags(version, "app") for version in ("1.0.0", "1.1.0")], at
    assert {(True, True), (False, False)} <= ends
