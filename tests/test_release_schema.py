"""The published JSON Schema of the manifest says what the reader takes and the writer writes."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from buildtools import BuildToolsError
from buildtools.release import MANIFEST_SCHEMA, Release, ReleasedArchive, ReleasedImage

DOCUMENT = json.loads((Path(__file__).parent.parent / "docs/release.schema.json").read_text())
SCHEMA = Draft202012Validator(DOCUMENT)
IMAGE = ReleasedImage("app", "r.example:5000", "team/app", "1.4.2", "sha256:" + "a" * 64, "f" * 64)
ARCHIVE = ReleasedArchive("daemon", "daemon/daemon-1.4.2.tgz", 10, "c" * 64)
RELEASE = Release("1.4.2", "d" * 40, "2026-11-23T08:00:00Z", (IMAGE,), (ARCHIVE,), "sha256:" + "e" * 64)


def changed(path: tuple[str | int, ...], value: Any) -> Any:
    document = json.loads(RELEASE.manifest())
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return document


def test_what_is_written_follows_the_schema_and_no_field_is_left_out_of_it() -> None:
    SCHEMA.validate(json.loads(RELEASE.manifest()))
    assert MANIFEST_SCHEMA == DOCUMENT["properties"]["schema"]["const"]
    for kind, name in ((ReleasedImage, "images"), (ReleasedArchive, "archives")):
        assert {field.name for field in fields(kind)} <= DOCUMENT["properties"][name]["items"]["properties"].keys()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("version",), 1),
        (("commit",), "not printable: \n"),
        (("created",), None),
        (("images",), {}),
        (("images", 0), "app"),
        (("attestation",), "e" * 64),
        (("attestation",), ""),
        (("images", 0, "digest"), "sha256:" + "A" * 64),
        (("images", 0, "tag"), 1),
        (("archives", 0, "size"), "10"),
        (("archives", 0, "sha256"), "c" * 63),
        (("archives", 0, "key"), "ä"),
    ],
)
def test_what_the_schema_does_not_allow_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    document = changed(path, value)
    assert not SCHEMA.is_valid(document)
    with pytest.raises(BuildToolsError):
        Release.parse(json.dumps(document).encode(), "releases/1.4.2.json")


@pytest.mark.parametrize("path", [("added",), ("images", 0, "added"), ("archives", 0, "added")])
def test_a_field_that_a_later_version_adds_is_passed_over(path: tuple[str | int, ...]) -> None:
    document = changed(path, {"any": ["thing"]})
    SCHEMA.validate(document)
    assert RELEASE == Release.parse(json.dumps(document).encode(), "releases/1.4.2.json")


def test_a_manifest_without_a_statement_says_nothing_of_one() -> None:
    document = json.loads(replace(RELEASE, attestation="").manifest())
    assert "attestation" not in document
    SCHEMA.validate(document)


@pytest.mark.parametrize("schema", [2, 99])
def test_a_later_schema_is_refused_with_the_way_to_read_it(schema: int) -> None:
    with pytest.raises(BuildToolsError, match=rf"has schema {schema}, .*: use a newer lockstep-buildtools"):
        Release.parse(json.dumps(changed(("schema",), schema)).encode(), "releases/1.4.2.json")
