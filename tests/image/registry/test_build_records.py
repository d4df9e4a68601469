from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from buildtools.image.registry.build_records import (
    BuildRecord,
    BuildRecords,
    built_for,
    expected_seconds,
    read_builds,
)
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import DOCKER_CONFIG, Descriptor, Manifest, encode

RECORD = '[{"name": "app", "fingerprint": "f", "commit": "c", "expected": 0, "seconds": %s}]'


class Repository:
    """A repository with one image of no layers."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.name = f"records/{secrets.token_hex(8)}"
        config = encode({"rootfs": {"type": "layers", "diff_ids": []}})
        self.image = Manifest.make(Descriptor(DOCKER_CONFIG, registry.put_blob(self.name, config), len(config)), [])

    def record(self, fingerprint: str, commit: str, seconds: float, name: str = "app") -> tuple[BuildRecord, ...]:
        BuildRecords(self.registry, commit).add(self.name, self.image, {(name, fingerprint): seconds})
        return read_builds(self.registry, self.name)


@pytest.fixture
def repository(registry: str) -> Iterator[Repository]:
    with closing(Registry(registry)) as client:
        yield Repository(client)


def test_an_image_that_was_never_built_has_no_records(repository: Repository) -> None:
    records = read_builds(repository.registry, repository.name)
    assert ((), 0.0, "") == (records, expected_seconds(records, "app", "c1"), built_for(records, "f1"))


def test_what_is_expected_is_what_the_last_build_took(repository: Repository) -> None:
    repository.record("f1", "c1", 12.34)
    records = repository.record("f2", "c2", 20.0)
    assert [("f2", 20.0, 12.3), ("f1", 12.3, 0.0)] == [
        (each.fingerprint, each.seconds, each.expected) for each in records
    ]
    assert ("c1", "c2", "") == (built_for(records, "f1"), built_for(records, "f2"), built_for(records, "f3"))
    assert 20.0 == expected_seconds(records, "app", "c3")


def test_for_a_commit_that_is_being_built_that_stays_what_it_was_before(repository: Repository) -> None:
    repository.record("f1", "c1", 10.0)
    records = repository.record("f2", "c2", 99.0)
    assert 10.0 == expected_seconds(records, "app", "c2")
    assert 10.0 == expected_seconds(repository.record("f2", "c2", 77.0), "app", "c2")


def test_a_build_that_nobody_timed_is_no_measure(repository: Repository) -> None:
    repository.record("f1", "c1", 10.0)
    assert 10.0 == expected_seconds(repository.record("f2", "c2", 0.0), "app", "c3")


def test_variants_of_an_image_have_times_of_their_own(repository: Repository) -> None:
    repository.record("f1", "c1", 10.0, "app@linux/amd64")
    records = repository.record("f2", "c1", 90.0, "app@linux/arm64")
    assert [10.0, 90.0] == [expected_seconds(records, f"app@linux/{each}", "c2") for each in ("amd64", "arm64")]


def test_variants_that_are_built_at_the_same_time_are_all_written_down(repository: Repository) -> None:
    records, names = BuildRecords(repository.registry, "c1"), [f"app@linux/{number}" for number in range(12)]
    with ThreadPoolExecutor(max_workers=len(names)) as threads:
        list(
            threads.map(lambda name: records.add(repository.name, repository.image, {(name, f"f-{name}"): 1.0}), names)
        )
    assert sorted(names) == sorted(each.name for each in read_builds(repository.registry, repository.name))


def test_only_the_last_builds_are_kept(repository: Repository) -> None:
    for number in range(20):
        records = repository.record(f"f{number}", f"c{number}", 1.0)
    assert [f"f{number}" for number in range(19, 3, -1)] == [each.fingerprint for each in records]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "[7]",
        "[{}]",
        RECORD % "NaN",
        RECORD % "-1",
        RECORD % "Infinity",
        '{"name": "app"}',
        '[{"name": "app", "seconds": "soon"}]',
    ],
)
def test_what_cannot_be_read_is_no_record(repository: Repository, text: str) -> None:
    document = {**repository.image.document, "annotations": {"lockstep.builds": text}}
    repository.registry.put_manifest(
        repository.name, "fp-records", Manifest(repository.image.media_type, encode(document))
    )
    assert () == read_builds(repository.registry, repository.name)


def test_a_manifest_without_annotations_is_no_record(repository: Repository) -> None:
    repository.registry.put_manifest(repository.name, "fp-records", repository.image)
    assert () == read_builds(repository.registry, repository.name)
    assert ["f1"] == [each.fingerprint for each in repository.record("f1", "c1", 1.0)]
