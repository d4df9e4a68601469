"""Signing is killed at each of its requests; the same again makes the same release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from buildtools.crypto.envelope import sealed
from buildtools.crypto.keys import SigningKey
from buildtools.git.checkout import Checkout
from buildtools.image.registry.manifest import digest_of
from buildtools.release import Release
from buildtools.stages import releases
from buildtools.stages.signatures import sign_release
from buildtools.stages.verification import verify_named
from buildtools.statement import Origin, statement_of
from buildtools.task_context import TaskContext
from buildtools.version import Version
from tests.conftest import S3Service, make_repository
from tests.crypto.test_keys import make_pair
from tests.faults.killing import killable_place

pytestmark = pytest.mark.exhaustive

SOURCE = "https://git.example/widgets.git"


class Sign:
    """Signs a staged release and commits it, as publish does."""

    def __init__(self, staged: Release) -> None:
        self._staged = staged

    def __call__(self, task: TaskContext) -> None:
        version = Version.parse(self._staged.version)
        task = task.with_checkout(Checkout(version, 0, SOURCE))
        releases.commit(task, sign_release(task, self._staged))


def test_killed_at_any_request_it_is_finished_by_the_next_run_and_is_the_same(
    tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    folder = make_repository(tmp_path / "project").path
    private, public = make_pair(tmp_path, "P-256")
    (folder / "sign.pem").write_bytes(private)
    (folder / "verify.pub").write_bytes(public)
    key = SigningKey.read(private, "sign.pem", None)
    settings = {"sign": {"key": "sign.pem"}, "verify_key": "verify.pub"}
    with killable_place(folder, registry, s3, environment, **settings) as switch:
        place = switch.place
        at, was_killed, states = 0, True, set()
        while was_killed:
            at += 1
            staged = place.stage(f"1.{at}.0", ("app",))
            version, again = Version.parse(staged.version), Sign(staged)
            with place.task() as task:
                releases.claim_version(task, version, staged.commit)
            was_killed = switch.killed(at, again)
            with place.task() as task:
                states.add(releases.released(task, version) is not None)
                again(task)
                release = releases.released_version(task, version)
                assert None is verify_named(task, [staged.version], deep=False).error(), at
            assert digest_of(sealed(statement_of(staged, Origin(SOURCE)), key)) == release.attestation
    assert {False, True} == states
    assert at > 10
