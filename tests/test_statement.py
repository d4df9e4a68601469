"""What is signed of a release, and what a manifest can say otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.statement import Origin, contradictions, statement_of

APP = ReleasedImage("app", "r.example", "w/app", "1.4.2", "sha256:" + "a" * 64, "f" * 64)
WEB = ReleasedImage("web", "r.example", "w/web", "1.4.2", "sha256:" + "b" * 64, "e" * 64)
DAEMON = ReleasedArchive("daemon", "daemon/daemon-1.4.2.tgz", 10, "c" * 64, "Y29tcG9zaXRl")
RELEASE = Release("1.4.2", "d" * 40, "2026-11-23T08:00:00Z", (APP, WEB), (DAEMON,))
GONE = "is missing in the manifest"
ORIGIN = Origin("https://git.example/widgets.git", "v1.4.2", "1" * 40)


def test_all_members_are_subjects_and_the_commit_is_what_they_are_made_of() -> None:
    document = json.loads(statement_of(RELEASE, ORIGIN))
    assert ["https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"] == [
        document["_type"],
        document["predicateType"],
    ]
    assert {"app:1.4.2": "a" * 64, "web:1.4.2": "b" * 64, "daemon-1.4.2.tgz": "c" * 64} == {
        subject["name"]: subject["digest"]["sha256"] for subject in document["subject"]
    }
    commit, tag = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert ("git+https://git.example/widgets.git", "d" * 40) == (commit["uri"], commit["digest"]["gitCommit"])
    assert ("refs/tags/v1.4.2", "1" * 40) == (tag["name"], tag["digest"]["gitTag"])


def test_a_commit_without_tag_and_remote_has_neither() -> None:
    (commit,) = json.loads(statement_of(RELEASE, Origin()))["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"digest", "annotations"} == commit.keys()
    (commit,) = json.loads(statement_of(RELEASE, Origin("git.example:widgets")))["predicate"]["buildDefinition"][
        "resolvedDependencies"
    ]
    assert "git.example:widgets" == commit["uri"]


def test_the_order_of_members_makes_no_difference_nor_does_where_they_lie() -> None:
    statement = statement_of(RELEASE, ORIGIN)
    assert statement == statement_of(replace(RELEASE, images=(WEB, APP)), ORIGIN)
    elsewhere = tuple(replace(image, registry="other.example", repository="x") for image in RELEASE.images)
    assert () == contradictions(statement, replace(RELEASE, images=elsewhere, attestation="sha256:" + "9" * 64))
    assert () == contradictions(statement, Release.parse(RELEASE.manifest(), "here"))


@pytest.mark.parametrize(
    ("edited", "clauses"),
    [
        ({"commit": "e" * 40}, ["the commit is another one"]),
        ({"created": "2026-11-24T08:00:00Z"}, ["the date is another one"]),
        ({"images": (APP,)}, [f"web:1.4.2 {GONE}"]),
        ({"archives": ()}, [f"daemon-1.4.2.tgz {GONE}"]),
        ({"images": (APP, replace(WEB, digest=APP.digest))}, ["web:1.4.2 is another one"]),
        (
            {"images": (replace(APP, tag="latest"), WEB)},
            ["app:1.4.2 is missing in the manifest", "app:latest is not signed"],
        ),
        ({"images": (APP, WEB, APP)}, ["the manifest names a member twice"]),
        ({"images": (APP, WEB, replace(APP, digest=WEB.digest))}, ["app:1.4.2 is another one"]),
        ({"images": (APP, replace(WEB, fingerprint="0" * 64))}, ["web:1.4.2 is another one"]),
        ({"archives": (replace(DAEMON, composite="b3RoZXI="),)}, ["daemon-1.4.2.tgz is another one"]),
        ({"archives": (replace(DAEMON, size=11),)}, ["daemon-1.4.2.tgz is another one"]),
        (
            {"version": "1.4.3"},
            [
                "the version is another one",
                f"daemon-1.4.2.tgz {GONE}",
                "daemon-1.4.3.tgz is not signed",
            ],
        ),
    ],
    ids=str,
)
def test_whatever_a_manifest_says_otherwise_is_named(edited: dict[str, Any], clauses: list[str]) -> None:
    assert clauses == list(contradictions(statement_of(RELEASE, ORIGIN), replace(RELEASE, **edited)))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"_type": 1}', b"[" * 99999, b'{"_type": "x", "predicateType": "y"}']
)
def test_what_is_not_such_a_statement_confirms_nothing(content: bytes) -> None:
    (clause,) = contradictions(content, RELEASE)
    assert clause in ("it cannot be read", "it is another kind of statement")
