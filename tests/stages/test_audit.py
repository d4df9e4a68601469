from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from buildtools.cancellation import Cancellation
from buildtools.events import unheard
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import DOCKER_CONFIG, DOCKER_LAYER, Descriptor, Manifest, digest_of, encode
from buildtools.release import Audit, MemberState, Release, ReleasedImage
from buildtools.run import Run
from buildtools.settings import Settings
from buildtools.stages.releases import audit_release
from buildtools.task_context import TaskContext
from tests.contract.registries import own_registry
from tests.faults.answers import answering

SHARED = b"a layer, shared by all"


@pytest.fixture
def client(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[Registry]:
    with (
        own_registry(tmp_path / "registry", environment) as registry,
        closing(Registry(registry.host, pause=0.01)) as client,
    ):
        yield client


def put_image(client: Registry, name: str) -> ReleasedImage:
    diff_ids = [digest_of(layer) for layer in (SHARED, name.encode())]
    config = {"config": {"Labels": {"name": name}}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    parts = [
        Descriptor(kind, client.put_blob(name, blob), len(blob))
        for kind, blob in (
            (DOCKER_CONFIG, encode(config)),
            (DOCKER_LAYER, SHARED),
            (DOCKER_LAYER, name.encode()),
        )
    ]
    digest = client.put_manifest(name, "1.0.0", Manifest.make(parts[0], parts[1:]))
    return ReleasedImage(name, client.host, name, "1.0.0", digest)


def audited(tmp_path: Path, *images: ReleasedImage) -> Audit:
    run = Run(Settings(tmp_path), {"HOME": str(tmp_path)}, unheard, Cancellation(), tmp_path / "cache")
    with TaskContext(run) as task:
        return audit_release(task, Release("1.0.0", "c" * 40, "", images, ()), deep=False)


def states(audit: Audit) -> dict[str, MemberState]:
    return {finding.name: finding.state for finding in audit.findings if finding.state is not MemberState.INTACT}


def test_findings_come_in_the_order_of_the_release(client: Registry, tmp_path: Path) -> None:
    images = [put_image(client, f"app{number}") for number in range(20)]
    client.delete_manifest("app7", images[7].digest)
    found = audited(tmp_path, *images)
    assert [image.name for image in images] == [finding.name for finding in found.findings]
    assert {"app7": MemberState.MISSING} == states(found)


def test_a_shared_layer_that_one_repository_alone_has_lost_is_missed_there(client: Registry, tmp_path: Path) -> None:
    images = [put_image(client, f"app{number}") for number in range(3)]
    layer = client.put_blob("app1", SHARED)
    client._transport.request("DELETE", f"/v2/app1/blobs/{layer}", expected=(202,))
    assert {"app1": MemberState.MISSING} == states(audited(tmp_path, *images))


def test_a_registry_that_once_did_not_answer_is_not_asked_again(tmp_path: Path) -> None:
    with answering(*[(503, {})] * 999) as script:
        images = [
            ReleasedImage(f"app{number}", script.host, "app", "1.0.0", "sha256:" + "0" * 64) for number in range(40)
        ]
        found = audited(tmp_path, *images)
    assert [MemberState.UNREACHABLE] * 40 == [finding.state for finding in found.findings]
    # Of those who ask at the same time, each tries five times.
    assert len(script.asked) <= 8 * 5
