"""What the store knows of versions, with the real S3."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from buildtools.archive.object_store.s3_store import S3Store
from buildtools.archive.store import ArtifactStore, Content
from buildtools.cancellation import Cancellation
from buildtools.events import unheard
from buildtools.release import Release, ReleasedArchive, ReleasedImage, manifest_key
from buildtools.run import Run
from buildtools.services import Services
from buildtools.settings import Settings
from buildtools.stages.history import HistoryEntry, VersionState, read_history
from buildtools.task_context import TaskContext
from buildtools.version import Version
from tests.conftest import S3Service

IMAGE = ReleasedImage("app", "r.example", "team/app", "1", "sha256:" + "a" * 64)
ARCHIVE = ReleasedArchive("daemon", "daemon/daemon.tgz", 1, "b" * 64)
DATE = "2026-11-23T08:00:00Z"


class Place:
    """A prefix of a bucket with releases, and the cache of one user. ``reads`` are the keys that were read."""

    def __init__(self, folder: Path, s3: S3Service) -> None:
        self._settings = Settings(
            folder,
            artifacts=f"s3://{s3.bucket()}/team",
            s3_endpoint=s3.endpoint,
            moving_tags=("latest", "{major}"),
        )
        self._environment = {"HOME": str(folder), **s3.environment}
        self.cache = folder / "cache"
        self.store = S3Store.connect(self._settings.artifacts, endpoint=s3.endpoint, environment=self._environment)
        self.reads: list[str] = []

    def release(self, version: str, *members: ReleasedImage | ReleasedArchive) -> None:
        images = tuple(each for each in members if isinstance(each, ReleasedImage))
        archives = tuple(each for each in members if isinstance(each, ReleasedArchive))
        content = Release(version, version.encode().hex(), DATE, images, archives).manifest()
        self.put(manifest_key(Version.parse(version)), content)
        self.claim(version)

    def claim(self, version: str) -> None:
        claim = {"schema": 1, "version": version, "commit": version.encode().hex()}
        self.put(f"claims/{Version.parse(version).image_tag}.json", json.dumps(claim).encode())

    def put(self, key: str, content: bytes) -> None:
        assert self.store.create(key, content, "application/json")

    def history(self) -> tuple[HistoryEntry, ...]:
        run = Run(self._settings, self._environment, unheard, Cancellation(), self.cache)
        with TaskContext(run, _CountingServices(run, self.reads)) as task:
            return read_history(task)


class _CountingStore:
    def __init__(self, store: ArtifactStore, reads: list[str]) -> None:
        self._store, self._reads = store, reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read_all(self, keys: Sequence[str]) -> list[Content | None]:
        self._reads += keys
        return self._store.read_all(keys)


class _CountingServices(Services):
    def __init__(self, run: Run, reads: list[str]) -> None:
        super().__init__(run.settings, run.environment, run.cancelled)
        self.store = _CountingStore(super().store, reads)  # it passes all else on


@pytest.fixture
def place(tmp_path: Path, s3: S3Service) -> Place:
    return Place(tmp_path, s3)


def test_an_empty_store_has_no_history(place: Place) -> None:
    assert () == place.history()


def test_versions_come_newest_first_with_commit_date_and_members(place: Place) -> None:
    for version in ("1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1", "1.10.0-3-gabcdef1"):
        place.release(version, IMAGE, ARCHIVE)
    place.claim("2.0.0")
    history = place.history()
    assert ["2.0.0", "2.0.0-rc.1", "1.10.0-3-gabcdef1", "1.10.0", "1.9.0", "1.0.0"] == [
        each.version for each in history
    ]
    assert HistoryEntry("2.0.0", VersionState.CLAIMED, b"2.0.0".hex()) == history[0]
    released = HistoryEntry("1.0.0", VersionState.RELEASED, b"1.0.0".hex(), DATE, ("app",), ("daemon",))
    assert released == history[-1]


def test_the_newest_version_of_each_moving_tag_has_it(place: Place) -> None:
    for version in ("1.0.0", "1.2.0", "2.0.0", "2.1.0-rc.1"):
        place.release(version, IMAGE)
    assert {"2.0.0": ("latest", "2"), "1.2.0": ("1",)} == {
        each.version: each.moving_tags for each in place.history() if each.moving_tags
    }


def test_a_manifest_is_read_once_and_a_claim_only_where_there_is_none(place: Place) -> None:
    for version in ("1.0.0", "1.1.0"):
        place.release(version, IMAGE)
    place.claim("1.2.0")
    first = place.history()
    assert ["claims/1.2.0.json", "releases/1.0.0.json", "releases/1.1.0.json"] == sorted(place.reads)
    place.reads.clear()
    assert first == place.history()
    assert ["claims/1.2.0.json"] == place.reads
    place.reads.clear()
    place.release("1.3.0", IMAGE)
    assert "1.3.0" == place.history()[0].version
    assert ["claims/1.2.0.json", "releases/1.3.0.json"] == sorted(place.reads)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('\\"app', '\\"ape'),
        lambda text: text.replace("{", "", 1),
        lambda text: text.replace("releases/", "x", 1),
        lambda text: text.replace('["', "[[", 1),
        lambda text: "7",
        lambda text: "",
    ],
)
def test_a_damaged_cache_costs_time_only(place: Place, damage: Callable[[str], str]) -> None:
    place.release("1.0.0", IMAGE)
    expected = place.history()
    (file,) = (place.cache / "manifests").iterdir()
    before = file.read_text()
    file.write_text(damage(before))
    assert before != file.read_text()
    assert expected == place.history()


def test_a_manifest_that_was_replaced_is_read_again(place: Place) -> None:
    place.release("1.0.0", IMAGE)
    place.history()
    place.store.delete("releases/1.0.0.json")
    place.put("releases/1.0.0.json", Release("1.0.0", "c" * 40, DATE, (), (ARCHIVE,)).manifest())
    assert ((), ("daemon",)) == ((entry := place.history()[0]).images, entry.archives)


def test_a_release_that_was_deleted_is_gone(place: Place) -> None:
    place.release("1.0.0", IMAGE)
    place.history()
    place.store.delete("releases/1.0.0.json")
    assert [VersionState.CLAIMED] == [each.state for each in place.history()]


def test_what_cannot_be_read_is_a_line_of_its_own_and_other_objects_are_none(place: Place) -> None:
    place.release("1.0.0", IMAGE)
    place.put("releases/1.1.0.json", b"<html>")
    place.put("releases/1.2.0.json", b'{"schema": 99}')
    place.put("claims/1.3.0.json", b"[]")
    place.put("releases/1.4.0.json", Release("1.0.0", "a" * 40, "2026-11-23T08:00:00Z", (), ()).manifest())
    for key in ("releases/1.0.0.txt", "releases/index.html", "releases/old/1.0.0.json", "claims/note"):
        place.put(key, b"{}")
    history = place.history()
    states = {each.version: each.state for each in history}
    unreadable = dict.fromkeys(("1.4.0", "1.3.0", "1.2.0", "1.1.0"), VersionState.UNREADABLE)
    assert {**unreadable, "1.0.0": VersionState.RELEASED} == states
    reasons = ["is the manifest of 1.0.0", "is not a claim", "has schema 99", "is not a release manifest"]
    assert [True] * 4 == [reason in each.reason for reason, each in zip(reasons, history, strict=False)]
