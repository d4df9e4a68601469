"""Archives, from the distributions' own builds to the store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildtools import BuildToolsError, Cancelled, Conflict, release
from buildtools.events import Warned, timed
from buildtools.release import ReleasedArchive
from buildtools.stages.planned import Planned
from buildtools.task_context import TaskContext

if TYPE_CHECKING:
    from buildtools.archive.checksums import Sink
    from buildtools.archive.distribution import Archive
    from buildtools.archive.segment_cache import SegmentCache

# No upload that is still running is this old.
_ABANDONED_AGE = timedelta(days=1)
# Enough to see which part of a build writes timestamps.
_DIFFERENCES_IN_WARNING = 10


def make_archives(task: TaskContext) -> tuple[Archive, ...]:
    """Build every distribution and write its archive into ``dist/``."""
    return tuple(
        timed(task.run.report, name, "pack", partial(_archive, task, name)) for name in task.settings.distribution
    )


def archive_plan(task: TaskContext, action: str) -> tuple[Planned, ...]:
    """What would happen to the distributions."""
    return tuple(Planned(task.version.archive_name(name), action) for name in task.settings.distribution)


def _archive(task: TaskContext, name: str) -> Archive:
    from buildtools.archive import distribution

    distribution_tree = distribution.make(
        task.settings.distribution[name],
        name,
        task.settings.root,
        task.version,
        task.run.command_environment,
        task.run.report,
        task.run.cancelled,
    )
    cache = _segment_cache(task)
    archive = distribution.save(
        distribution_tree, task.checkout.committed, task.settings.root / "dist", task.run.report, cache
    )
    if cache:
        cache.trim()
    return archive


def _segment_cache(task: TaskContext) -> SegmentCache | None:
    from buildtools.archive.segment_cache import SegmentCache

    return None if task.run.no_cache else SegmentCache(task.run.cache / "segments")


def store_archives(
    task: TaskContext, wait_for_images: Callable[[], object], stop_images: Callable[[], object]
) -> tuple[ReleasedArchive, ...]:
    """Build every distribution, call ``wait_for_images``, then upload the archives; returns them as read back.

    The bytes of the first one are sent meanwhile; the store shows nothing of an upload before its end. If that fails,
    ``stop_images`` is called at once, which must end the wait with an error.
    """
    archives = make_archives(task)
    are_free = {archive: _is_free(task, archive) for archive in archives}
    images: Future[None] = Future()

    def store_archive(archive: Archive) -> ReleasedArchive:
        store = partial(_store_archive, task, archive, images, is_free=are_free[archive])
        return timed(task.run.report, archive.name, "upload", store)

    def upload_ended(upload: Future[ReleasedArchive]) -> None:
        if not images.done() and not upload.cancelled() and upload.exception():
            stop_images()

    with ThreadPoolExecutor(max_workers=1) as cleaner, ThreadPoolExecutor(max_workers=1) as pool:
        cleanings = [cleaner.submit(_discard_unfinished, task, archive) for archive in archives]
        uploads = [pool.submit(store_archive, archive) for archive in archives]
        for upload in uploads:
            upload.add_done_callback(upload_ended)
        try:
            wait_for_images()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # Uploads that ended the wait, rather than were ended by it.
            causes = [upload for upload in uploads if upload.done() and not upload.cancelled()]
            images.set_exception(Cancelled("the upload was cancelled", "run the same command again"))
            for upload in causes:
                upload.result()
            raise
        images.set_result(None)
        for cleaning in cleanings:
            cleaning.result()
        return tuple(upload.result() for upload in uploads)


def _discard_unfinished(task: TaskContext, archive: Archive) -> None:
    # A release needs no right to list uploads, and must not fail because of what an earlier one left.
    with suppress(BuildToolsError):
        task.services.store.discard_unfinished(f"{archive.name}/{archive.name}-", datetime.now(UTC) - _ABANDONED_AGE)


def _is_free(task: TaskContext, archive: Archive) -> bool:
    """Whether an archive may be sent before the version is claimed: nothing has its key.

    Only the claim of a version shows which commit an archive belongs to, so this runs before this run makes its claim.

    :raises Conflict: if other content is there and nobody has claimed the version.
    """
    store, key, version = task.services.store, release.archive_key(archive.name, task.version), task.version
    if version.dirty:
        return False
    if store.head(key) is None:
        return True
    is_claimed = store.head(release.claim_key(version)) or store.head(release.manifest_key(version))
    if not is_claimed and store.digest(key, archive.checksums) not in (None, archive.sha256):
        raise Conflict(
            f"{store.location(key)} has other content, and version {version} is neither claimed nor released",
            "look at where it comes from; if nobody needs it, delete it and run again",
        )
    return False


def _store_archive(task: TaskContext, archive: Archive, images: Future[None], *, is_free: bool) -> ReleasedArchive:
    from buildtools.archive import segment_map
    from buildtools.archive.checksums import PART

    if not is_free:
        images.result()
    store = task.services.store
    # Content of one part is one request, whatever the last version has of it.
    segments = archive.segments if archive.size > PART else ()
    last = segment_map.last_map(store, archive.name) if segments else None
    path = task.settings.root / "dist" / archive.file_name

    def write(sink: Sink) -> None:
        with path.open("rb") as stream:
            while chunk := stream.read(PART):
                if task.run.cancelled.is_set() or (images.done() and images.exception()):
                    raise Cancelled(f"the upload of {archive.file_name} was cancelled", "run the same command again")
                sink.write(chunk)

    key = release.archive_key(archive.name, task.version)
    if task.version.dirty and store.digest(key, archive.checksums) not in (None, archive.sha256):
        store.delete(key)
    try:
        store.upload(
            key,
            write,
            archive.checksums,
            basis=segment_map.basis_of(last, segments),
            subject=archive.name,
            report=task.run.report,
            before_end=images.result,
            is_absent=is_free,
        )
    except Conflict:
        images.result()
        if task.version.dirty or task.settings.distribution[archive.name].reproducible:
            raise
        archive = _adopted_archive(task, key, archive, path)
    else:
        # A dirty version's archive does not last.
        if segments and not task.version.dirty:
            segment_map.remember(store, archive.name, last, key, segments)
    return ReleasedArchive(archive.name, key, archive.size, archive.sha256, archive.checksums.composite)


def _adopted_archive(task: TaskContext, key: str, archive: Archive, path: Path) -> Archive:
    """The archive of the same commit that is already in the store: the claim keeps out all other commits."""
    from buildtools.archive.adoption import adopt

    adoption = adopt(task.services.store, key, archive, path)
    names = list(adoption.differences[:_DIFFERENCES_IN_WARNING])
    if len(adoption.differences) > len(names):
        names.append(f"{len(adoption.differences) - len(names)} more")
    reason = f"they differ in {', '.join(names)}" if names else "only times, owners or the compression differ"
    task.run.report(
        Warned(
            archive.name,
            f"the build is not reproducible: {task.services.store.location(key)} was built from the same commit, and "
            f"is released instead of this build ({reason})",
        )
    )
    return adoption.archive
