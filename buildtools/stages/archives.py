"""Archives, from the distributions' own builds to the store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from buildtools import BuildToolsError, release
from buildtools.events import timed
from buildtools.git.checkout import Checkout
from buildtools.release import ReleasedArchive
from buildtools.run import Run
from buildtools.services import Services
from buildtools.stages.planned import Planned

if TYPE_CHECKING:
    from buildtools.archive.distribution import Archive
    from buildtools.archive.gzip import Sink

_CHUNK = 1 << 20
# No upload that still runs is as old.
_ABANDONED = timedelta(days=1)


def make_archives(run: Run, checkout: Checkout) -> tuple[Archive, ...]:
    """Make every distribution and write its archive into ``dist/``."""
    return tuple(
        timed(run.report, name, "pack", partial(_archive, run, checkout, name)) for name in run.settings.distribution
    )


def plan_archives(run: Run, checkout: Checkout, action: str) -> tuple[Planned, ...]:
    """What would become of the distributions."""
    return tuple(Planned(checkout.version.archive_name(name), action) for name in run.settings.distribution)


def _archive(run: Run, checkout: Checkout, name: str) -> Archive:
    from buildtools.archive import distribution

    made = distribution.make(
        run.settings.distribution[name],
        name,
        run.settings.root,
        checkout.version,
        run.environment,
        run.report,
        run.cancelled,
    )
    return distribution.save(made, checkout.committed, run.settings.root / "dist")


def store_archives(
    run: Run, services: Services, checkout: Checkout, made: Callable[[], object]
) -> tuple[ReleasedArchive, ...]:
    """Make every distribution and upload its archive, as read back; ``made`` is called in between."""
    archives = make_archives(run, checkout)
    made()
    stored = tuple(
        timed(run.report, archive.name, "upload", partial(_store_archive, run, services, checkout, archive))
        for archive in archives
    )
    for archive in archives:
        # A release needs no right to list uploads, and must not fail for what an earlier one left.
        with suppress(BuildToolsError):
            services.store.discard_unfinished(f"{archive.name}/{archive.name}-", datetime.now(UTC) - _ABANDONED)
    return stored


def _store_archive(run: Run, services: Services, checkout: Checkout, archive: Archive) -> ReleasedArchive:
    path = run.settings.root / "dist" / archive.file_name

    def write(sink: Sink) -> None:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                if run.cancelled.is_set():
                    raise BuildToolsError(f"the upload of {archive.file_name} was cancelled", "run the same again")
                sink.write(chunk)

    key = release.archive_key(archive.name, checkout.version)
    if checkout.version.dirty and services.store.digest(key) not in (None, archive.sha256):
        services.store.delete(key)
    stored = services.store.upload(key, write, sha256=archive.sha256, subject=archive.name, report=run.report)
    return ReleasedArchive(archive.name, stored.key, stored.size, stored.sha256)
