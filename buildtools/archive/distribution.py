"""A distribution: made by the project's own build, checked, and written as one ``.tgz``."""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.archive import tarball
from buildtools.archive.gzip import GzipWriter, Sink
from buildtools.command import run_command
from buildtools.events import Report
from buildtools.frozen import frozen
from buildtools.settings import DistributionSettings
from buildtools.version import Version

_CHUNK = 1 << 20


@frozen
class Distribution:
    """What will be one archive: a folder to pack, or a ``finished`` archive to take as it is.

    ``file_name`` is the archive's name in the store, ``root_name`` the one root folder inside it.
    """

    name: str
    source: Path
    file_name: str
    root_name: str
    finished: bool


@frozen
class Archive:
    """A distribution's ``.tgz`` as it was written. ``size`` is in bytes, ``sha256`` in hex."""

    name: str
    file_name: str
    root_name: str
    size: int
    sha256: str


def make(
    settings: DistributionSettings,
    name: str,
    project_root: Path,
    version: Version,
    environment: Mapping[str, str],
    report: Report,
    cancelled: threading.Event | None = None,
) -> Distribution:
    """Runs the distribution's command, then finds and checks what it made.

    The command gets ``BUILDTOOLS_VERSION``, the version's text, and ``BUILDTOOLS_REVISION``, the commit's id.

    :raises BuildToolsError: the command failed or was cancelled.
    :raises Refused: what is configured is not there, or does not carry the version.
    """
    if settings.command:
        variables = {"BUILDTOOLS_VERSION": version.text, "BUILDTOOLS_REVISION": version.commit}
        run_command(
            settings.command,
            subject=name,
            folder=project_root,
            environment={**environment, **variables},
            report=report,
            cancelled=cancelled or threading.Event(),
        )
    if settings.archive:
        source, root_name = _finished_archive(settings.archive, name, project_root, version)
        return Distribution(name, source, version.archive_name(name), root_name, finished=True)
    source = project_root / settings.root
    _check_folder(source, settings, name)
    return Distribution(name, source, version.archive_name(name), version.root_name(name), finished=False)


def write(distribution: Distribution, epoch: int, out: Sink) -> Archive:
    """Writes the archive; a folder is packed with ``epoch`` (seconds since 1970) as every time in it.

    :raises BuildToolsError: something in the folder cannot be packed.
    """
    measured = _Measured(out)
    if distribution.finished:
        with distribution.source.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                measured.write(chunk)
    else:
        with GzipWriter(measured) as writer:
            tarball.pack(distribution.source, distribution.root_name, epoch, writer)
    return Archive(
        distribution.name, distribution.file_name, distribution.root_name, measured.size, measured.sha256.hexdigest()
    )


def save(distribution: Distribution, epoch: int, folder: Path) -> Archive:
    """Writes the archive as ``folder/file_name``, which appears when it is whole.

    :raises BuildToolsError: something in the distribution cannot be packed, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{distribution.file_name}.", delete=False) as out:
            try:
                archive = write(distribution, epoch, out)
                out.flush()
                os.fchmod(out.fileno(), 0o644)
                Path(out.name).replace(folder / distribution.file_name)
            except BaseException:
                Path(out.name).unlink()
                raise
    except OSError as error:
        raise BuildToolsError(
            f"{folder / distribution.file_name} cannot be written ({error.strerror}: {error.filename or folder})",
            "correct it and run again",
        ) from None
    return archive


class _Measured:
    def __init__(self, out: Sink) -> None:
        self._out = out
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes, /) -> None:
        self._out.write(data)
        self.sha256.update(data)
        self.size += len(data)


def _check_folder(folder: Path, settings: DistributionSettings, name: str) -> None:
    what = f"distribution {name}: its root {settings.root}"
    remedy = f"set distribution.{name}.root to the folder that holds bin/ and lib/ once the command has run"
    if not folder.exists():
        raise Refused(f"{what} does not exist", remedy)
    if not folder.is_dir():
        raise Refused(f"{what} is not a folder", remedy)
    if not any(folder.iterdir()):
        raise Refused(f"{what} is empty", remedy)


def _finished_archive(pattern: str, name: str, project_root: Path, version: Version) -> tuple[Path, str]:
    found = sorted(glob.glob(str(project_root / pattern), recursive=True))  # noqa: PTH207  may be absolute
    # A build folder keeps the archives of earlier versions; they are no reason to ask for a clean build.
    current = [path for path in found if _carries(_stem(path), version)] if len(found) > 1 else found
    if len(current) != 1:
        raise Refused(
            f"distribution {name}: {pattern} must match one archive of version {version}, "
            f"but matches {f'{len(found)} files' if found else 'nothing'}",
            f"set distribution.{name}.archive to what the build makes",
            details=[f"  {path}" for path in found],
        )
    archive = Path(current[0])
    if archive.suffix not in (".tgz", ".gz"):
        raise Refused(
            f"distribution {name}: {archive.name} is not a .tgz",
            "let Gradle's distTar make one: distTar { compression = Compression.GZIP; extension = 'tgz' }",
        )
    root = tarball.root_folder(archive)
    bare = [
        what for what, text in (("file name", _stem(archive)), ("root folder", root)) if not _carries(text, version)
    ]
    if bare:
        raise Refused(
            f"distribution {name}: the {' and the '.join(bare)} of {archive.name} (root folder {root}/) "
            f"{'do' if len(bare) > 1 else 'does'} not carry the version {version}",
            "let the build take its version from BUILDTOOLS_VERSION: with Gradle, "
            "run `gradle -Pversion=$BUILDTOOLS_VERSION distTar` and set no version in build.gradle",
        )
    return archive, root


def _stem(path: str | Path) -> str:
    return Path(path).name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")


def _carries(text: str, version: Version) -> bool:
    return text.endswith((f"-{version.text}", f"-{version.image_tag}"))
