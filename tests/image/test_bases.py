"""What is known of the images from outside that image folders are built on."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from buildtools.image.bases import BaseImage, find_bases
from buildtools.image.engine.client import Engine
from buildtools.image.folder.folders import ImageFolder, image_folders
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    Descriptor,
    Manifest,
    encode,
)
from buildtools.platform import Platform
from buildtools.settings import Settings

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


def store(client: Registry, repository: str, tag: str, *onbuild: str, platform: Platform = AMD) -> Descriptor:
    """An image without layers, for a platform, in a registry."""
    config = encode(
        {
            "architecture": platform.architecture,
            "os": platform.system,
            "config": {"OnBuild": list(onbuild)},
            "rootfs": {"type": "layers", "diff_ids": []},
        }
    )
    digest = client.put_blob(repository, config)
    manifest = Manifest.make(Descriptor(DOCKER_CONFIG, digest, len(config)), [])
    client.put_manifest(repository, tag or manifest.digest, manifest)
    return Descriptor(DOCKER_MANIFEST, manifest.digest, len(manifest.body))


def built_on(root: Path, *references: str, builder: Platform = AMD) -> tuple[ImageFolder, ...]:
    for number, reference in enumerate(references):
        folder = root / "src/docker" / f"image{number}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "Dockerfile").write_text(f"FROM {reference}\n")
    return image_folders(Settings(root=root), None, builder=builder)


@pytest.fixture
def find(client: Registry, cache: Cache, tmp_path: Path) -> Callable[..., dict[str, BaseImage]]:
    def find(*references: str, engine: Engine | None = None, builder: Platform = AMD) -> dict[str, BaseImage]:
        return find_bases(built_on(tmp_path, *references, builder=builder), engine, lambda _: client, cache)[builder]

    return find


Find = Callable[..., dict[str, BaseImage]]


def test_a_registry_tells_of_the_onbuild_instructions_by_tag_and_by_digest(
    client: Registry, namespace: str, find: Find
) -> None:
    repository = f"{namespace}/base"
    digest = store(client, repository, "1", "COPY app /app", "RUN make").digest
    by_tag, by_digest = f"{client.host}/{repository}:1", f"{client.host}/{repository}@{digest}"
    triggers = ("COPY app /app", "RUN make")
    assert {
        by_tag: BaseImage(by_tag, digest, triggers),
        by_digest: BaseImage(by_digest, digest, triggers),
    } == find(by_tag, by_digest)


def test_an_engine_that_has_it_tells_the_same(connected: Engine, client: Registry, namespace: str, find: Find) -> None:
    reference = f"{client.host}/{namespace}/base:1"
    store(client, f"{namespace}/base", "1", "COPY app /app")
    connected.pull(reference, None)
    assert None is not connected.inspect(reference)
    try:
        assert find(reference) == find(reference, engine=connected)
    finally:
        connected.untag(reference)


def test_an_engine_that_has_it_for_another_platform_is_not_asked(
    connected: Engine, client: Registry, namespace: str, find: Find
) -> None:
    reference = f"{client.host}/{namespace}/base:1"
    store(client, f"{namespace}/base", "1", "COPY amd /")
    connected.pull(reference, None)
    digest = store(client, f"{namespace}/base", "1", "COPY arm /", platform=ARM).digest
    try:
        assert ("COPY amd /",) == find(reference, engine=connected)[reference].triggers
        assert (
            BaseImage(reference, digest, ("COPY arm /",)) == find(reference, engine=connected, builder=ARM)[reference]
        )
    finally:
        connected.untag(reference)


def test_of_an_index_the_image_for_the_platform_counts(client: Registry, namespace: str, find: Find) -> None:
    repository = f"{namespace}/base"
    platforms = (AMD, Platform("linux", "arm", "v6"), ARM)
    entries = [
        {**store(client, repository, "", f"COPY {each} /", platform=each).document(), "platform": _described(each)}
        for each in platforms
    ]
    attestation = {**entries[0], "platform": {"os": "unknown", "architecture": "unknown"}}
    index = Manifest(
        DOCKER_LIST, encode({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [attestation, *entries]})
    )
    client.put_manifest(repository, "1", index)
    reference = f"{client.host}/{repository}:1"
    for platform in (AMD, ARM):
        assert (
            BaseImage(reference, index.digest, (f"COPY {platform} /",)) == find(reference, builder=platform)[reference]
        )
    newer = find(reference, builder=Platform("linux", "arm", "v7"))[reference]
    assert ("COPY linux/arm/v6 /",) == newer.triggers
    other = find(reference, builder=Platform("linux", "s390x"))[reference]
    assert BaseImage(reference, other_platforms=platforms) == other


def _described(platform: Platform) -> dict[str, str]:
    parts = {"os": platform.system, "architecture": platform.architecture, "variant": platform.variant}
    return {key: value for key, value in parts.items() if value}


def test_what_an_onbuild_names_is_a_base_too(client: Registry, namespace: str, find: Find) -> None:
    tools = f"{client.host}/{namespace}/tools:1"
    digest = store(client, f"{namespace}/tools", "1").digest
    store(client, f"{namespace}/base", "1", f"COPY --from={tools} / /")
    reference = f"{client.host}/{namespace}/base:1"
    assert BaseImage(tools, digest) == find(reference)[tools]


def test_by_its_digest_an_image_is_asked_for_once(
    client: Registry, cache: Cache, namespace: str, find: Find, tmp_path: Path
) -> None:
    digest = store(client, f"{namespace}/base", "1", "COPY app /app").digest
    reference = f"{client.host}/{namespace}/base@{digest}"
    bases = find(reference)
    with closing(Registry("127.0.0.1:9", pause=0.01)) as nobody:
        assert {AMD: bases} == find_bases(built_on(tmp_path, reference), None, lambda _: nobody, cache)


@pytest.mark.parametrize("kind", ["manifests", "configs"])
def test_a_damaged_cache_costs_time_only(client: Registry, cache: Cache, namespace: str, find: Find, kind: str) -> None:
    digest = store(client, f"{namespace}/base", "1", "COPY app /app").digest
    reference = f"{client.host}/{namespace}/base@{digest}"
    bases = find(reference)
    for path in (cache.folder / kind).iterdir():
        document = json.loads(path.read_bytes())
        path.write_text(json.dumps({**document, "config": {**document["config"], "OnBuild": []}}))
    assert bases == find(reference)


def test_what_nobody_has_has_no_digest_and_an_outage_is_told_apart(
    client: Registry, cache: Cache, namespace: str, find: Find, tmp_path: Path
) -> None:
    reference = f"{client.host}/{namespace}/base:1"
    assert {reference: BaseImage(reference)} == find(reference)
    with closing(Registry("127.0.0.1:9", pause=0.01)) as nobody:
        away = find_bases(built_on(tmp_path, reference), None, lambda _: nobody, cache)
    assert {AMD: {reference: BaseImage(reference, unreachable=True)}} == away
