"""Members of releases that tar and an engine take, made without a build."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping

from buildtools.archive.checksums import checksums_of
from buildtools.archive.store import ArtifactStore
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import DOCKER_CONFIG, DOCKER_LAYER, Descriptor, Manifest, digest_of, encode
from buildtools.release import Release, ReleasedArchive, ReleasedImage, archive_key, manifest_key
from buildtools.version import Version
from tests.image.images import layer_tar

COMMITTED = "2026-11-29T08:00:00Z"


def put_image(registry: Registry, repository: str, version: str, files: Mapping[str, bytes]) -> ReleasedImage:
    """An image of one layer with these files, under the tag of a version; its name is the repository's last part."""
    tar = layer_tar(files)
    layer = gzip.compress(tar, mtime=0)
    config = encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"org.opencontainers.image.version": version}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]},
        }
    )
    manifest = Manifest.make(
        Descriptor(DOCKER_CONFIG, registry.put_blob(repository, config), len(config)),
        [Descriptor(DOCKER_LAYER, registry.put_blob(repository, layer), len(layer))],
    )
    digest = registry.put_manifest(repository, version, manifest)
    return ReleasedImage(repository.rpartition("/")[2], registry.host, repository, version, digest)


def tgz(root: str, files: Mapping[str, bytes]) -> bytes:
    """An archive with these files below its root folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def put_archive(store: ArtifactStore, name: str, version: str, content: bytes) -> ReleasedArchive:
    """An archive of a version in the store."""
    checksums, key = checksums_of(content), archive_key(name, Version.parse(version))
    store.upload(key, lambda out: out.write(content), checksums)
    return ReleasedArchive(name, key, checksums.size, checksums.sha256, checksums.composite)


def put_release(store: ArtifactStore, version: str, *members: ReleasedImage | ReleasedArchive) -> Release:
    """A release of these members, whose manifest is in the store."""
    images = tuple(member for member in members if isinstance(member, ReleasedImage))
    archives = tuple(member for member in members if isinstance(member, ReleasedArchive))
    release = Release(version, version.encode().hex().ljust(40, "0"), COMMITTED, images, archives)
    assert store.create(manifest_key(Version.parse(version)), release.manifest(), "application/json")
    return release
