"""A distribution: built by the project's own command, checked, and written as one ``.tgz``."""

from __future__ import annotations

import glob
import threading
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.archive import tarball
from buildtools.archive.checksums import Checksums, ChecksumWriter, Sink
from buildtools.archive.gzip import GzipWriter
from buildtools.archive.segment_cache import SegmentCache
from buildtools.archive.segment_map import Segment
from buildtools.command import run_command
from buildtools.events import Report, Transferred, unheard
from buildtools.files import delete_partial_files, replacement
from buildtools.frozen import frozen
from buildtools.settings import DistributionSettings
from buildtools.version import Version

_CHUNK = 1 << 20


@frozen
class Distribution:
    """The source of one archive: a folder to pack or, if ``is_archive``, a file to use as it is.

    ``file_name`` is the archive's name in the store, ``root_name`` the single root folder inside it.
    """

    name: str
    source: Path
    file_name: str
    root_name: str
    is_archive: bool


@frozen
class Archive:
    """A distribution's ``.tgz`` that was written. ``segments`` are those that other versions may have, too."""

    name: str
    file_name: str
    root_name: str
    checksums: Checksums
    segments: tuple[Segment, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.checksums.size

    @property
    def sha256(self) -> str:
        """The SHA-256 in hexadecimal."""
        return self.checksums.sha256


def make(
    settings: DistributionSettings,
    name: str,
    project_root: Path,
    version: Version,
    environment: Mapping[str, str],
    report: Report,
    cancelled: threading.Event | None = None,
) -> Distribution:
    """Run the distribution's command, then find and check what it built.

    The command gets ``BUILDTOOLS_VERSION``, the version's text, and ``BUILDTOOLS_REVISION``, the commit's id.

    :raises BuildToolsError: if the command failed or was cancelled.
    :raises Refused: if the configured file or folder does not exist, or does not have the version in its name.
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
        return Distribution(name, source, version.archive_name(name), root_name, is_archive=True)
    source = project_root / settings.root
    _check_folder(source, settings, name)
    if (project_root / "dist").resolve().is_relative_to(source.resolve()):
        # Each run would pack the archives of the runs before.
        raise Refused(
            f"distribution {name}: its root {settings.root} holds dist/, where archives are written",
            f"let its command copy what belongs into it, and set distribution.{name}.root to that folder",
        )
    return Distribution(name, source, version.archive_name(name), version.root_name(name), is_archive=False)


def write(
    distribution: Distribution,
    epoch: int,
    out: Sink,
    report: Report = unheard,
    cache: SegmentCache | None = None,
) -> Archive:
    """Write the archive; a folder is packed with ``epoch`` (seconds since 1970) as the time of every entry.

    ``report`` gets the progress of packing a folder. Segments in ``cache`` need not be compressed.

    :raises BuildToolsError: if something in the folder cannot be packed.
    """
    writer = ChecksumWriter(out)
    segments: tuple[Segment, ...] = ()
    if distribution.is_archive:
        with distribution.source.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                writer.write(chunk)
    else:
        with GzipWriter(writer, cache=cache) as compressor:
            tarball.pack(
                distribution.source,
                distribution.root_name,
                epoch,
                compressor,
                lambda done, total: report(Transferred(distribution.name, done, total)),
                compressor.begin_segment,
            )
        segments = tuple(compressor.segments)
    return Archive(distribution.name, distribution.file_name, distribution.root_name, writer.checksums(), segments)


def save(
    distribution: Distribution,
    epoch: int,
    folder: Path,
    report: Report = unheard,
    cache: SegmentCache | None = None,
) -> Archive:
    """Write the archive as ``folder/file_name``, which appears complete.

    :raises BuildToolsError: if something in the distribution cannot be packed, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        delete_partial_files(folder)
        with replacement(folder / distribution.file_name, 0o666) as out:
            archive = write(distribution, epoch, out, report, cache)
    except OSError as error:
        raise BuildToolsError(
            f"{folder / distribution.file_name} cannot be written ({error.strerror}: {error.filename or folder})",
            "correct it and run again",
        ) from None
    return archive


def _check_folder(folder: Path, settings: DistributionSettings, name: str) -> None:
    subject = f"distribution {name}: its root {settings.root}"
    remedy = f"set distribution.{name}.root to the folder that holds bin/ and lib/ after the command has run"
    if not folder.exists():
        raise Refused(f"{subject} does not exist", remedy)
    if not folder.is_dir():
        raise Refused(f"{subject} is not a folder", remedy)
    if not any(folder.iterdir()):
        raise Refused(f"{subject} is empty", remedy)


def _finished_archive(pattern: str, name: str, project_root: Path, version: Version) -> tuple[Path, str]:
    matches = sorted(glob.glob(str(project_root / pattern), recursive=True))  # noqa: PTH207  may be absolute
    # A build folder keeps the archives of earlier versions; that is no reason to require a clean build.
    current = [path for path in matches if _carries(_stem(path), version)] if len(matches) > 1 else matches
    if len(current) != 1:
        raise Refused(
            f"distribution {name}: {pattern} must match one archive of version {version}, "
            f"but matches {f'{len(matches)} files' if matches else 'nothing'}",
            f"set distribution.{name}.archive to what the build writes",
            details=[f"  {path}" for path in matches],
        )
    archive = Path(current[0])
    if archive.suffix not in (".tgz", ".gz"):
        raise Refused(
            f"distribution {name}: {archive.name} is not a .tgz",
            "let Gradle's distTar write one: distTar { compression = Compression.GZIP; extension = 'tgz' }",
        )
    root = tarball.root_folder(archive)
    strangers = [
        part for part, text in (("file name", _stem(archive)), ("root folder", root)) if not _carries(text, version)
    ]
    if strangers:
        raise Refused(
            f"distribution {name}: the {' and the '.join(strangers)} of {archive.name} (root folder {root}/) "
            f"{'do' if len(strangers) > 1 else 'does'} not carry the version {version}",
            "let the build take its version from BUILDTOOLS_VERSION: with Gradle, "
            "run `gradle -Pversion=$BUILDTOOLS_VERSION distTar` and set no version in build.gradle",
        )
    return archive, root


def _stem(path: str | Path) -> str:
    return Path(path).name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")


def _carries(text: str, version: Version) -> bool:
    return text.endswith((f"-{version.text}", f"-{version.image_tag}"))
