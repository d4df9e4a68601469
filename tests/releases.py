"""Releases made without an engine: tiny images, small archives, and the manifest that names them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildtools.archive.checksums import checksums_of
from buildtools.archive.object_store.s3_store import S3Store
from buildtools.cancellation import Cancellation
from buildtools.events import Event
from buildtools.image.registry.client import Registry
from buildtools.image.registry.lookup import tag_digest
from buildtools.image.registry.manifest import DOCKER_CONFIG, DOCKER_LAYER, Descriptor, Manifest, digest_of, encode
from buildtools.release import Release, ReleasedArchive, ReleasedImage, archive_key, claim_key, manifest_key
from buildtools.run import Run
from buildtools.services import Services
from buildtools.settings import Settings
from buildtools.settings_reader import merge_layers, read_pyproject
from buildtools.task_context import TaskContext
from buildtools.version import Version
from tests.conftest import S3Service
from tests.e2e.project import toml_lines

SHARED_LAYER = b"a layer, shared by all"


@dataclass(frozen=True)
class ReleasePlace:
    """A registry and a bucket with releases, and a folder whose configuration names them.

    ``events`` is what tasks reported. ``environment`` has what opens the store.
    """

    settings: Settings
    environment: Mapping[str, str]
    store: S3Store
    client: Registry
    events: list[Event] = field(default_factory=list)

    @contextmanager
    def task(self, *, dry_run: bool = False) -> Iterator[TaskContext]:
        """A task here."""
        cache = self.settings.root / "cache"
        run = Run(self.settings, self.environment, self.events.append, Cancellation(), cache, dry_run=dry_run)
        services = Services(run.settings, run.environment, run.cancelled)
        # A client of S3 takes longer to make than all else here takes.
        services.store = self.store
        with TaskContext(run, services) as task:
            yield task

    def release(
        self,
        version: str,
        images: Sequence[str] = ("app", "web"),
        archives: Sequence[str] = (),
        created: str = "2026-11-23T08:00:00Z",
    ) -> Release:
        """A released version; each member's content is its name and the version."""
        release, parsed = self.stage(version, images, archives, created), Version.parse(version)
        for key in (manifest_key(parsed), claim_key(parsed)):
            assert self.store.create(key, release.manifest(), "application/json")
        return release

    def stage(
        self,
        version: str,
        images: Sequence[str] = ("app", "web"),
        archives: Sequence[str] = ("daemon",),
        created: str = "2026-11-23T08:00:00Z",
    ) -> Release:
        """The members of a version, in their places."""
        parsed = Version.parse(version)
        return Release(
            version,
            digest_of(version.encode()).removeprefix("sha256:")[:40],
            created,
            tuple(self.put_image(name, parsed.image_tag) for name in images),
            tuple(self._put_archive(name, parsed) for name in archives),
        )

    def put_image(self, name: str, tag: str) -> ReleasedImage:
        """An image of two layers, one of which all share."""
        repository, own = f"{self.settings.namespace}/{name}", f"{name} {tag}".encode()
        diff_ids = [digest_of(layer) for layer in (SHARED_LAYER, own)]
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        config = {"config": {"Labels": {"name": f"{name} {tag}"}}, "rootfs": rootfs}
        blobs = ((DOCKER_CONFIG, encode(config)), (DOCKER_LAYER, SHARED_LAYER), (DOCKER_LAYER, own))
        parts = [Descriptor(kind, self.client.put_blob(repository, blob), len(blob)) for kind, blob in blobs]
        digest = self.client.put_manifest(repository, tag, Manifest.make(parts[0], parts[1:]))
        return ReleasedImage(name, self.settings.registry, repository, tag, digest)

    def _put_archive(self, name: str, version: Version) -> ReleasedArchive:
        content = f"{name} {version}".encode()
        checksums = checksums_of(content)
        key = archive_key(name, version)
        self.store.upload(key, lambda out: out.write(content), checksums)
        return ReleasedArchive(name, key, checksums.size, checksums.sha256, checksums.composite)

    def tags(self, tag: str, *names: str) -> dict[str, str]:
        """What a tag of each of these images points to; without names, of app and web."""
        repositories = {name: f"{self.settings.namespace}/{name}" for name in names or ("app", "web")}
        return {name: tag_digest(self.client, repository, tag) or "" for name, repository in repositories.items()}

    def command(self, *arguments: str) -> dict[str, Any]:
        """How ``subprocess`` starts ``invoke`` here."""
        variables = {"HOME": str(self.settings.root), "XDG_CACHE_HOME": str(self.settings.root / "invoke-cache")}
        return {
            "args": [sys.executable, "-m", "invoke", *arguments],
            "cwd": self.settings.root,
            "env": {**self.environment, **variables},
            "stdin": subprocess.DEVNULL,
            "text": True,
        }

    def invoke(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What ``invoke`` does here; it must not print a traceback."""
        done = subprocess.run(**self.command(*arguments), capture_output=True, check=False)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done


def digests(release: Release) -> dict[str, str]:
    """The digest of each image of a release."""
    return {image.name: image.digest for image in release.images}


@contextmanager
def release_place(
    folder: Path, registry: str, s3: S3Service, environment: Mapping[str, str], **settings: Any
) -> Iterator[ReleasePlace]:
    """An empty place in a bucket and a namespace of its own."""
    bucket = s3.bucket()
    values: dict[str, Any] = {
        "registry": registry,
        "namespace": bucket,
        "artifacts": f"s3://{bucket}/team",
        "s3_endpoint": s3.endpoint,
        **settings,
    }
    (folder / "tasks.py").write_text("from buildtools.tasks import namespace\n")
    lines = ["[tool.buildtools]", *toml_lines(values, "tool.buildtools"), ""]
    (folder / "pyproject.toml").write_text("\n".join(lines))
    read = merge_layers(folder, [read_pyproject(folder)])
    variables = {**environment, **s3.environment, "HOME": str(folder)}
    store = S3Store.connect(values["artifacts"], endpoint=values["s3_endpoint"], environment=variables)
    with closing(Registry(registry, pause=0.01)) as client:
        yield ReleasePlace(read, variables, store, client)
