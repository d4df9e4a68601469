"""What the next step of a pipeline gets: ``dist/VERSION/``, written by ``push`` and ``publish``.

A folder appears as a whole, and those of other versions are removed before: ``dist/*/release.env`` is never that of two
versions, and never a part of one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.release import Release, ReleasedArchive
from buildtools.task_context import TaskContext
from buildtools.version import Version

RELEASE = "release.json"
_VARIABLES = "release.env"
_COMPOSE = "compose.override.yaml"
# The files that tell of a release.
DOCUMENTS = (RELEASE, _VARIABLES, _COMPOSE)
_PREFIX = ".outputs-"


def write_outputs(task: TaskContext, members: Release, manifest: bytes = b"") -> Path:
    """Write the outputs of the task's version; the folder.

    Without ``manifest`` the version is not released, and there is no ``release.json``. Archives that lie in ``dist``
    are linked into the folder, so that it is all that is needed.

    :raises BuildToolsError: the folder cannot be written.
    """
    return _write(task.settings.root / "dist", members, lambda key: task.services.store.location(key), manifest)


def _write(dist: Path, members: Release, location: Callable[[str], str], manifest: bytes) -> Path:
    folder = dist / Version.parse(members.version).image_tag
    try:
        dist.mkdir(parents=True, exist_ok=True)
        for path in dist.glob(f"{_PREFIX}*"):
            # A run that was killed left it.
            shutil.rmtree(path, ignore_errors=True)
        new = Path(tempfile.mkdtemp(dir=dist, prefix=_PREFIX))
        new.chmod(0o755)
        write_documents(new, members, location, manifest)
        if members.archives:
            digests = [f"{archive.sha256}  {_file_name(archive)}\n" for archive in members.archives]
            (new / "digests.txt").write_text("".join(digests))
        for archive in members.archives:
            _link(dist, new, archive)
        for path in dist.iterdir():
            if path != new and (path / _VARIABLES).is_file():
                shutil.rmtree(path)
        new.rename(folder)
    except OSError as error:
        raise BuildToolsError(
            f"cannot write {folder} ({error.strerror}), though its images and archives are where they should be",
            f"check {dist}, then run the same command again",
        ) from None
    return folder


def write_documents(folder: Path, members: Release, location: Callable[[str], str], manifest: bytes) -> None:
    """Write what tells of a release's members to shells and to Compose; and to programs, where there is a manifest.

    :raises OSError: the folder cannot be written.
    """
    lines = [f"{name}={shlex.quote(value)}" for name, value in _variables(members, location)]
    (folder / _VARIABLES).write_text("".join(f"{line}\n" for line in lines))
    # JSON strings are YAML's double-quoted ones.
    services = [
        f"  {json.dumps(image.name)}:\n    image: {json.dumps(f'{image.registry}/{image.repository}@{image.digest}')}\n"
        for image in members.images
    ]
    (folder / _COMPOSE).write_text(f"services:\n{''.join(services)}" if services else "services: {}\n")
    if manifest:
        (folder / RELEASE).write_bytes(manifest)


def _variables(members: Release, location: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Names and values for a shell. Of two members whose names differ in punctuation only, the second gets a ``_2``."""
    yield "VERSION", members.version
    yield "REVISION", members.commit
    names: set[str] = set()

    def unique(prefix: str, name: str) -> str:
        plain = f"{prefix}_{re.sub('[^A-Z0-9]', '_', name.upper())}"
        number = 1
        while (variable := plain if number == 1 else f"{plain}_{number}") in names:
            number += 1
        names.add(variable)
        return variable

    for image in sorted(members.images, key=lambda image: image.name):
        yield unique("IMAGE", image.name), f"{image.registry}/{image.repository}@{image.digest}"
    for archive in sorted(members.archives, key=lambda archive: archive.name):
        variable = unique("ARCHIVE", archive.name)
        names.add(f"{variable}_SHA256")
        yield variable, location(archive.key)
        yield f"{variable}_SHA256", archive.sha256


def _link(dist: Path, folder: Path, archive: ReleasedArchive) -> None:
    name = _file_name(archive)
    # The released archive may be the one that another agent made; then this one's is of no use here.
    with suppress(FileNotFoundError):
        if (dist / name).stat().st_size == archive.size:
            try:
                os.link(dist / name, folder / name)
            except OSError:
                # A file system without hard links.
                shutil.copyfile(dist / name, folder / name)


def _file_name(archive: ReleasedArchive) -> str:
    return archive.key.rpartition("/")[2]
