"""``promote`` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import S3Service
from tests.releases import ReleasePlace, digests, release_place


@pytest.fixture
def released(tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]) -> Iterator[ReleasePlace]:
    bucket = s3.bucket()
    targets = {
        name: {
            "namespace": f"{bucket}/{name}",
            "artifacts": f"s3://{bucket}/{name}",
            "requires": requires,
            "channels": ["live"],
        }
        for name, requires in {"stage": [], "production": ["stage"]}.items()
    }
    with release_place(tmp_path, registry, s3, environment, target=targets, moving_tags=["latest"]) as place:
        yield place


def test_a_version_goes_from_gate_to_gate(released: ReleasePlace) -> None:
    release = released.release("1.0.0", archives=("daemon",))
    closed = released.invoke("promote", "1.0.0", "--to", "production")
    assert (2, "error: 1.0.0 may not be promoted to production: it has not been promoted to stage: ") == (
        closed.returncode,
        closed.stderr.partition("run `invoke")[0],
    )
    planned = released.invoke("promote", "1.0.0", "--to", "stage", "--dry-run")
    assert (0, 4) == (planned.returncode, planned.stdout.count("would be copied") + planned.stdout.count("be written"))
    assert ["tag latest would be moved to 1.0.0", "channel live would be moved to 1.0.0 (it is new)"] == (
        planned.stdout.splitlines()[-2:]
    )
    staged = released.invoke("promote", "1.0.0", "--to", "stage")
    assert 0 == staged.returncode, staged.stderr
    assert staged.stderr.splitlines()[-1].startswith("1.0.0 promoted to stage: 2 images and 1 archive, s3://")
    assert staged.stderr.endswith(", moved latest, live\n")
    again = released.invoke("promote", "1.0.0", "--to", "stage")
    assert (0, True) == (again.returncode, "1.0.0 was promoted before to stage: " in again.stderr)
    released.invoke("channel", "candidate", "--to", "1.0.0")
    document = json.loads(released.invoke("promote", "candidate", "--to", "production", "--json").stdout)
    assert digests(release) == {image["name"]: image["digest"] for image in document["release"]["images"]}
    assert [True, 1] == [document["written"], document["schema"]]
    # The record of gates beside the manifest is not a version.
    listed = json.loads(released.invoke("history", "--json").stdout)
    assert ["1.0.0"] == [item["version"] for item in listed["items"]]
    assert 0 == released.invoke("verify", "--all").returncode


@pytest.mark.parametrize(
    ("command", "last"),
    [
        ("promote 1.0.0", "promote needs a target: say which: `invoke promote VERSION --to NAME`"),
        (
            "promote 1.0.0 --to nowhere",
            "there is no target nowhere: add [tool.buildtools.target.nowhere] to pyproject.toml",
        ),
        ("promote 1.0.0 --to stage", "version 1.0.0 is not released: s3://"),
    ],
)
def test_a_refusal_says_what_to_do(released: ReleasePlace, command: str, last: str) -> None:
    refused = released.invoke(*command.split())
    assert (2, "", f"error: {last}") == (refused.returncode, refused.stdout, refused.stderr[: len(last) + 7])
