"""``prune`` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import S3Service, make_repository
from tests.contract.registries import own_registry
from tests.releases import release_place


def test_it_says_what_it_would_do_and_does_it_with_yes(
    tmp_path: Path, s3: S3Service, environment: Mapping[str, str]
) -> None:
    repository = make_repository(tmp_path / "repository")
    repository.commit("all")
    repository.tag("0.1.0")
    with (
        own_registry(tmp_path / "registry", environment) as registry,
        release_place(repository.path, registry.host, s3, environment) as place,
    ):
        for version in ("1.0.0", "1.1.0"):
            place.release(version, ("app",), created="2020-01-01T00:00:00Z")
        command = ("prune", "--keep", "1", "--older-than", "30")
        planned = place.invoke(*command)
        assert (0, "dry run: nothing was touched; 1 version would be pruned, 1 kept; do it with --yes\n") == (
            planned.returncode,
            planned.stderr,
        )
        assert [
            ["VERSION", "DATE", "STATE", "WHY"],
            ["1.1.0", "2020-01-01", "kept", "one", "of", "the", "newest", "1"],
            ["1.0.0", "2020-01-01", "pruned"],
        ] == [line.split() for line in planned.stdout.splitlines()]
        done = place.invoke(*command, "--yes", "--json")
        assert (0, "pruned 1 version, 1 kept\n") == (done.returncode, done.stderr)
        assert ["kept", "pruned"] == [item["state"] for item in json.loads(done.stdout)["items"]]
        assert "nothing was touched; 0 versions would be pruned, 1 kept" in place.invoke(*command).stderr
        for arguments in ((), ("--keep", "0", "--older-than", "1"), ("--keep", "x", "--older-than", "1")):
            refused = place.invoke("prune", *arguments)
            assert (2, True) == (refused.returncode, "prune needs two whole numbers" in refused.stderr)
