"""A machine that runs releases, and releases that nobody built."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from buildtools.archive.object_store.s3_store import S3Store
from buildtools.image.registry.client import Registry
from buildtools.release import ReleasedImage
from tests.e2e.project import Outcome, Project
from tests.members import put_archive, put_image, put_release, tgz

NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}


@dataclass(frozen=True)
class Machine:
    """A machine that runs a project's releases: a folder with the configuration, and one that it fetches into."""

    project: Project
    to: Path

    def fetch(self, version: str, *flags: str, **variables: str) -> Outcome:
        # No program is needed, git least of all.
        return self.project.invoke("fetch", version, "--to", str(self.to), *flags, PATH="/nonexistent", **variables)

    def states(self, version: str, *flags: str, **variables: str) -> list[str]:
        """What became of each member, images first."""
        outcome = self.fetch(version, *flags, "--json", **variables)
        assert 0 == outcome.code, outcome.err
        return [member["state"] for member in outcome.document["members"]]

    @property
    def current(self) -> str:
        return str((self.to / "current").readlink())

    def files(self) -> dict[str, tuple[int, int, str]]:
        """Everything there is, and what would tell that it was written again."""
        return {
            str(path.relative_to(self.to)): (path.lstat().st_ino, path.lstat().st_mtime_ns, content(path))
            for path in [self.to, *self.to.rglob("*")]
        }

    def tree(self) -> dict[str, str]:
        """Everything there is."""
        return {path: text for path, (_, _, text) in self.files().items()}

    def leftovers(self) -> list[str]:
        return [path.name for path in self.to.iterdir() if path.name.startswith(".")]


def content(path: Path) -> str:
    return str(path.readlink()) if path.is_symlink() else path.read_text("latin-1") if path.is_file() else ""


def make_machine(project: Project, folder: Path) -> Machine:
    (folder / "host").mkdir()
    (folder / "home").mkdir()
    for name in ("pyproject.toml", "tasks.py"):
        (folder / "host" / name).write_bytes((project.path / name).read_bytes())
    return Machine(replace(project, path=folder / "host", home=folder / "home"), folder / "srv" / "widgets")


def make_releases(project: Project, *versions: str) -> ReleasedImage:
    """Releases of an image and an archive that nobody built; the last one's image."""
    place = project.place
    store = S3Store.connect(f"s3://{place.bucket}/{project.mark}", environment=place.variables)
    with closing(Registry(place.registry)) as registry:
        for version in versions:
            image = put_image(registry, project.repository("app"), version, {"app": os.urandom(1000)})
            content = tgz("daemon", {"bin/daemon": version.encode(), "lib/data": os.urandom(3_000_000)})
            put_release(store, version, image, put_archive(store, project.name("daemon"), version, content))
    return image
