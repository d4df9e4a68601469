"""A promotion is killed at each of its requests; the same command again finishes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildtools import pipeline
from buildtools.audit import Verification
from buildtools.git.checkout import Checkout
from buildtools.stages import promotion, releases
from buildtools.stages.signatures import sign_release
from buildtools.stages.verification import audit_releases
from buildtools.task_context import TaskContext
from buildtools.version import Version
from tests.conftest import S3Service, make_repository
from tests.crypto.test_keys import make_pair
from tests.faults.killing import killable_place
from tests.releases import ReleasePlace

pytestmark = pytest.mark.exhaustive

MOST_REQUESTS = 120


class Promote:
    """Promotes to a target, as a task does."""

    def __init__(self, target: str) -> None:
        self._target = target

    def __call__(self, task: TaskContext) -> None:
        pipeline.promote(task.run, "1.0.0", self._target)


def release_signed(place: ReleasePlace) -> None:
    """Release one image and one archive, signed."""
    staged = place.stage("1.0.0", ("app",))
    version = Version.parse(staged.version)
    with place.task() as task:
        task = task.with_checkout(Checkout(version, 0, "https://git.example/widgets.git"))
        releases.claim_version(task, version, staged.commit)
        releases.commit(task, sign_release(task, staged))


@pytest.mark.parametrize("is_signed", [False, True])
def test_killed_at_any_request_it_leaves_no_manifest_that_names_what_is_missing(
    is_signed: bool, tmp_path: Path, registry: str, s3: S3Service, environment: Mapping[str, str]
) -> None:
    bucket = s3.bucket()
    folder, keys = make_repository(tmp_path / "project").path, {}
    if is_signed:
        private, public = make_pair(tmp_path, "P-256")
        (folder / "sign.pem").write_bytes(private)
        (folder / "verify.pub").write_bytes(public)
        keys = {"sign": {"key": "sign.pem"}, "verify_key": "verify.pub"}
    targets = {
        f"t{at}": {"namespace": f"{bucket}/t{at}", "artifacts": f"s3://{bucket}/t{at}"} for at in range(MOST_REQUESTS)
    }
    with killable_place(folder, registry, s3, environment, target=targets, **keys) as switch:
        place = switch.place
        if is_signed:
            release_signed(place)
        else:
            place.release("1.0.0", ("app",), ("daemon",))

        def state(name: str) -> tuple[bool, bool | None]:
            """Whether the target has a claim, and whether all is there that its manifest names; None without one."""
            with place.task() as task, promotion.target_task(task, name) as target:
                released = releases.released(target, Version.parse("1.0.0"))
                is_claimed = target.services.store.head("claims/1.0.0.json") is not None
                is_whole = Verification(audit_releases(target, (released,))).error() is None if released else None
            return is_claimed, is_whole

        at, was_killed, states, finished = 0, True, set(), set()
        while was_killed:
            at += 1
            was_killed = switch.killed(at, Promote(f"t{at}"))
            states.add(state(f"t{at}"))
            with place.task() as task:
                pipeline.promote(task.run, "1.0.0", f"t{at}")
            assert (True, True) == state(f"t{at}"), at
            finished.add(f"t{at}")
        gates = place.store.read("releases/1.0.0.gates.json")
    assert {(False, None), (True, None), (True, True)} == states
    assert gates
    assert finished == set(json.loads(gates.data)["gates"])
