"""Files for the next step of a pipeline: ``dist/VERSION/``, written by ``push`` and ``publish``.

A folder appears complete, after those of other versions were removed, and with them their archives in ``dist``. So
``dist/*/release.env`` never matches two versions, and never a partial one.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.compose import images_file
from buildtools.release import Release, ReleasedArchive
from buildtools.task_context import TaskContext
from buildtools.version import Version

RELEASE = "release.json"
_VARIABLES = "release.env"
COMPOSE = "compose.override.yaml"
_ATTESTATION = "attestation.json"
# The files that describe a release.
DOCUMENTS = (RELEASE, _VARIABLES, COMPOSE)
_PREFIX = ".outputs-"


def write_outputs(task: TaskContext, members: Release, manifest: bytes = b"", statement: bytes = b"") -> Path:
    """Write the outputs of the task's version; returns the folder.

    Without ``manifest`` the version is not released, and there is no ``release.json``; without a signed ``statement``
    there is no ``attestation.json``. Archives in ``dist`` are linked into the folder, so that it is complete by itself.

    :raises BuildToolsError: if the folder cannot be written.
    """
    dist = task.settings.root / "dist"
    return _write(dist, members, lambda key: task.services.store.location(key), manifest, statement)


def _write(dist: Path, members: Release, location: Callable[[str], str], manifest: bytes, statement: bytes) -> Path:
    folder = dist / Version.parse(members.version).image_tag
    try:
        dist.mkdir(parents=True, exist_ok=True)
        for path in dist.glob(f"{_PREFIX}*"):
            # Left by a killed run.
            shutil.rmtree(path, ignore_errors=True)
        new = dist / f"{_PREFIX}{os.urandom(8).hex()}"
        new.mkdir()
        write_documents(new, members, location, manifest)
        if statement:
            (new / _ATTESTATION).write_bytes(statement)
        if members.archives:
            digests = [f"{archive.sha256}  {_file_name(archive)}\n" for archive in members.archives]
            (new / "digests.txt").write_text("".join(digests))
        for archive in members.archives:
            _link(dist, new, archive)
        for path in dist.iterdir():
            if path != new and (path / _VARIABLES).is_file():
                if path != folder:
                    _unlink_archives(dist, path)
                shutil.rmtree(path)
        new.rename(folder)
    except OSError as error:
        raise BuildToolsError(
            f"cannot write {folder} ({error.strerror}), though its images and archives are where they should be",
            f"check {dist}, then run the same command again",
        ) from None
    return folder


def write_documents(folder: Path, members: Release, location: Callable[[str], str], manifest: bytes) -> None:
    """Write files that describe a release's members to shells and Compose and, given a manifest, to programs.

    :raises OSError: if the folder cannot be written.
    """
    lines = [f"{name}={shlex.quote(value)}" for name, value in _variables(members, location)]
    (folder / _VARIABLES).write_text("".join(f"{line}\n" for line in lines))
    (folder / COMPOSE).write_text(images_file(pinned_images(members)))
    if manifest:
        (folder / RELEASE).write_bytes(manifest)


def pinned_images(members: Release) -> dict[str, str]:
    """The references by digest of a release's images, by image name."""
    return {image.name: f"{image.registry}/{image.repository}@{image.digest}" for image in members.images}


def image_variables(images: Mapping[str, str]) -> dict[str, str]:
    """The references of images by shell and Compose variable, such as ``IMAGE_APP``."""
    names: set[str] = set()
    return {_unique("IMAGE", name, names): reference for name, reference in sorted(images.items())}


def _variables(members: Release, location: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    yield "VERSION", members.version
    yield "REVISION", members.commit
    yield from image_variables(pinned_images(members)).items()
    names: set[str] = set()
    for archive in sorted(members.archives, key=lambda archive: archive.name):
        variable = _unique("ARCHIVE", archive.name, names)
        names.add(f"{variable}_SHA256")
        yield variable, location(archive.key)
        yield f"{variable}_SHA256", archive.sha256


def _unique(prefix: str, name: str, names: set[str]) -> str:
    """An unused shell variable name. If two names differ only in punctuation, the second gets ``_2``."""
    plain = f"{prefix}_{re.sub('[^A-Z0-9]', '_', name.upper())}"
    number = 1
    while (variable := plain if number == 1 else f"{plain}_{number}") in names:
        number += 1
    names.add(variable)
    return variable


def _link(dist: Path, folder: Path, archive: ReleasedArchive) -> None:
    name = _file_name(archive)
    # The released archive may be another agent's; then this one's is of no use here.
    with suppress(FileNotFoundError):
        if (dist / name).stat().st_size == archive.size:
            try:
                os.link(dist / name, folder / name)
            except OSError:
                # The file system may not have hard links.
                shutil.copyfile(dist / name, folder / name)


def _unlink_archives(dist: Path, folder: Path) -> None:
    """Delete the archives in ``dist`` that are also in ``folder``."""
    for path in folder.glob("*.tgz"):
        (dist / path.name).unlink(missing_ok=True)


def _file_name(archive: ReleasedArchive) -> str:
    return archive.key.rpartition("/")[2]
