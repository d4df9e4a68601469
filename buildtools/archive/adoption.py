"""Adopt the archive in the store if another build of the same commit gave other bytes.

Many builds write the time into their output, such as ``gradle installDist`` before Gradle 9. The first archive that a
commit puts into the store is then the release's. A later build of the same commit adopts that one; otherwise it could
never finish the version.
"""

from __future__ import annotations

from pathlib import Path

from buildtools import BuildToolsError, Conflict, Refused
from buildtools.archive import tarball
from buildtools.archive.checksums import ChecksumWriter
from buildtools.archive.distribution import Archive
from buildtools.archive.store import ArtifactStore
from buildtools.files import replacement
from buildtools.frozen import frozen


@frozen
class Adoption:
    """The store's archive, as read back, and a line for each entry that differs in our own."""

    archive: Archive
    differences: tuple[str, ...]


def adopt(store: ArtifactStore, key: str, ours: Archive, path: Path) -> Adoption:
    """Read the store's archive, check it like any archive, and put it in place of ours at ``path``.

    :raises Conflict: if the store has something other than such an archive.
    :raises BuildToolsError: if it was deleted meanwhile, or ``path`` cannot be written.
    """
    try:
        with replacement(path, 0o666) as stream:
            writer = ChecksumWriter(stream)
            if store.download(key, writer) is None:
                raise BuildToolsError(
                    f"{store.location(key)} was deleted while it was read", "run the same command again"
                )
            stream.flush()
            try:
                theirs = tarball.read_entries(stream, path.name)
            except Refused as error:
                raise Conflict(
                    f"{store.location(key)} is damaged, or is not an archive of this commit ({error.fact})",
                    "look at it; if no release needs it, delete it and run again",
                ) from None
            roots = sorted({name.partition("/")[0] for name in theirs})
            if roots != [ours.root_name]:
                raise Conflict(
                    f"{store.location(key)} is not an archive of this version (it holds {', '.join(roots)})",
                    "look at it; if no release needs it, delete it and run again",
                )
            with path.open("rb") as file:
                differences = _differences(tarball.read_entries(file, path.name), theirs)
    except OSError as error:
        raise BuildToolsError(f"{path} cannot be written ({error.strerror})", "correct it and run again") from None
    archive = Archive(ours.name, ours.file_name, ours.root_name, writer.checksums())
    return Adoption(archive, differences)


def _differences(ours: dict[str, tuple[object, ...]], theirs: dict[str, tuple[object, ...]]) -> tuple[str, ...]:
    lines = [f"{name} (only in this build)" for name in ours.keys() - theirs.keys()]
    lines += [f"{name} (not in this build)" for name in theirs.keys() - ours.keys()]
    lines += [name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
    return tuple(sorted(lines))
