"""Fetch a release to the machine that runs it: unpack its archives, and put its images into the engine or files.

Everything is fetched before the version becomes current, so a failure leaves the current version as it is. It needs
only read access, and neither a git repository nor git.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path

from buildtools import BuildToolsError, Cancelled, Conflict, Drifted, Failures, Refused
from buildtools.audit import audit
from buildtools.deployment import CURRENT, Deployment
from buildtools.events import PartialTransfers, Transferred, Warned, timed
from buildtools.frozen import frozen
from buildtools.image.engine.client import EngineError
from buildtools.image.layout import Layout
from buildtools.image.reference import Reference
from buildtools.image.registry.lookup import refuse_damaged
from buildtools.image.registry.manifest import Damaged
from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.schedule import run_graph, side_by_side
from buildtools.settings import COMPONENT
from buildtools.stages.outputs import DOCUMENTS, RELEASE, write_documents
from buildtools.stages.planned import Planned
from buildtools.stages.releases import manifest_location, read_manifest
from buildtools.stages.signatures import proofs
from buildtools.task_context import TaskContext
from buildtools.version import Version

_LAYOUT = "oci"
_QUESTIONS = 8
_REMEDY = "restore it from a backup, or fetch another version"


class FetchState(Enum):
    """What happened to a member."""

    FETCHED = "fetched"
    ALREADY_THERE = "already there"
    LEFT_OUT = "left out"


@frozen
class FetchedMember:
    """A member of a release on this machine. ``place`` is a folder, or the name of an image in the engine."""

    kind: str
    name: str
    place: str
    digest: str
    state: FetchState


@frozen
class Fetched:
    """The result of fetching.

    ``folder`` holds the version; ``previous`` is the version that was current before, or empty.
    """

    version: str
    folder: str
    previous: str
    members: tuple[FetchedMember, ...]


@frozen
class FetchRequest:
    """A release to fetch into the folder ``to``; with ``layout``, its images as an OCI image layout."""

    release: Release
    to: Path
    layout: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the version."""
        return self.to / Version.parse(self.release.version).image_tag


def fetch_release(task: TaskContext, request: FetchRequest) -> Fetched:
    """Fetch a release to this machine and make it current in its folder.

    Images go into the engine, if this machine has one, or into the layout.

    :raises Drifted: if a member is missing, or is not what was released.
    :raises Conflict: if the folder holds another release of this version.
    :raises Refused: if an archive has an entry that cannot be unpacked, or access is denied.
    """
    _check_names(request)
    release, folder, deployment = request.release, request.folder, Deployment(request.to)
    with deployment.lock():
        previous = deployment.current
        missing = _missing(task, request)
        members = _members(task, request, missing)
        _warn_of_left_out(task, members)
        _refuse_incomplete(task, request, missing)
        to_write = missing.images if request.layout else ()
        if not request.layout:
            pull_images(task, missing.images)
        if not folder.exists() or missing.archives or to_write:
            with deployment.staging() as new:
                _unpack_archives(task, missing.archives, new)
                if to_write:
                    _write_layout(task, to_write, new / _LAYOUT, request.to)
                manifest = _manifest(task, release)
                write_documents(new, release, task.services.store.location, manifest)
                deployment.install(new, folder.name)
        if previous != folder.name:
            deployment.switch(folder.name)
    return Fetched(release.version, str(folder), previous, members)


def _manifest(task: TaskContext, release: Release) -> bytes:
    """The manifest of a release, as it was published.

    :raises Conflict: if it has changed since the release was read.
    """
    version = Version.parse(release.version)
    manifest, location = read_manifest(task, version), manifest_location(task, version)
    if not manifest or Release.parse(manifest, location) != release:
        raise Conflict(f"{location} changed while it was fetched", "run `invoke verify`, then the same again")
    return manifest


def fetch_plan(task: TaskContext, request: FetchRequest) -> tuple[Planned, ...]:
    """What fetching a release would do."""
    _check_names(request)
    actions = {
        FetchState.FETCHED: "be fetched",
        FetchState.ALREADY_THERE: "not change",
        FetchState.LEFT_OUT: "be left out, for this machine has no engine",
    }
    missing = _missing(task, request)
    _refuse_incomplete(task, request, missing)
    plan = [Planned(each.place, actions[each.state]) for each in _members(task, request, missing)]
    link, previous = str(request.to / CURRENT), Deployment(request.to).current
    if previous == request.folder.name:
        return (*plan, Planned(link, "not change"))
    return (*plan, Planned(link, f"lead to {request.folder.name}", (f"now {previous}",) if previous else ()))


def _check_names(request: FetchRequest) -> None:
    """Raise :class:`Refused` unless the names of all members in the manifest can be used as file names here.

    :raises Refused: if a name could lead out of the folder, or is reserved, or the folder is that of a version.
    """
    release = request.release
    if (request.to / RELEASE).exists():
        raise Refused(f"{request.to} is a version that was fetched", f"fetch into {request.to.parent}")
    if request.folder.name == CURRENT:
        raise Refused(f"a version that is called {CURRENT} cannot be fetched", "release it under another name")
    documents = (_LAYOUT, *DOCUMENTS)
    for members in (release.archives, release.images):
        names = [member.name for member in members]
        bad = [name for name in names if not COMPONENT.fullmatch(name) or names.count(name) > 1 or name in documents]
        if bad:
            raise Refused(
                f"release {release.version} has a member that cannot be fetched under its name, {bad[0]!r}",
                "give it another name, and release a new version",
            )
    for image in release.images:
        _reference(image)


def _reference(image: ReleasedImage) -> Reference:
    return Reference.parse(f"{image.reference}@{image.digest}")


def _pinned(image: ReleasedImage) -> str:
    return f"{image.registry}/{image.repository}@{image.digest}"


def _missing(task: TaskContext, request: FetchRequest) -> Release:
    """The part of a release that this machine lacks; only images that it can have.

    :raises Conflict: if the folder holds another release of this version.
    """
    release, folder = request.release, request.folder
    if folder.exists() and not _holds(folder, release):
        raise Conflict(
            f"{folder} holds something other than this release of {release.version}",
            "fetch into another folder, or remove it",
        )
    archives = tuple(archive for archive in release.archives if not (folder / archive.name).exists())
    if request.layout:
        images = () if (folder / _LAYOUT).exists() else release.images
    else:
        answers = side_by_side([partial(_is_in_engine, task, each) for each in release.images], jobs=_QUESTIONS)
        images = tuple(each for each, is_there in zip(release.images, answers, strict=True) if not is_there)
    return replace(release, archives=archives, images=images)


def _holds(folder: Path, release: Release) -> bool:
    try:
        return Release.parse((folder / RELEASE).read_bytes(), str(folder / RELEASE)) == release
    except (OSError, BuildToolsError):
        return False


def _is_in_engine(task: TaskContext, image: ReleasedImage) -> bool:
    """Whether there is nothing to do for an image: the engine has it under both of its names, or there is no engine."""
    engine = task.services.engine_if_installed()
    if engine is None:
        return True
    by_digest, by_tag = engine.inspect(_pinned(image)), engine.inspect(image.reference)
    return bool(by_digest and by_tag and by_digest["Id"] == by_tag["Id"])


def _members(task: TaskContext, request: FetchRequest, missing: Release) -> tuple[FetchedMember, ...]:
    release, folder = request.release, request.folder
    needs_engine = bool(release.images) and not request.layout
    lacks_engine = needs_engine and task.services.engine_if_installed() is None

    def state(member: ReleasedImage | ReleasedArchive) -> FetchState:
        is_missing = member in (*missing.images, *missing.archives)
        return FetchState.FETCHED if is_missing else FetchState.ALREADY_THERE

    images = [
        FetchedMember(
            "image",
            each.name,
            f"{folder / _LAYOUT}:{each.name}" if request.layout else each.reference,
            each.digest,
            FetchState.LEFT_OUT if lacks_engine else state(each),
        )
        for each in release.images
    ]
    archives = [
        FetchedMember("archive", each.name, str(folder / each.name), f"sha256:{each.sha256}", state(each))
        for each in release.archives
    ]
    return (*images, *archives)


def _warn_of_left_out(task: TaskContext, members: Iterable[FetchedMember]) -> None:
    names = [each.name for each in members if each.state is FetchState.LEFT_OUT]
    if names:
        task.run.report(
            Warned("", f"this machine has no engine for {', '.join(names)}; --oci writes images into files instead")
        )


def _refuse_incomplete(task: TaskContext, request: FetchRequest, missing: Release) -> None:
    """Before anything is fetched, find what is missing, truncated, denied or unsigned.

    :raises Drifted: if a member is missing, or the release is not what was signed.
    """

    def image_digest(image: ReleasedImage) -> str | None:
        try:
            descriptor = task.services.registry_at(image.registry).head_manifest(image.repository, image.digest)
        except Damaged:
            return None
        return descriptor.digest if descriptor else None

    def archive_digest(archive: ReleasedArchive) -> str | None:
        existing = task.services.store.head(archive.key)
        if existing is None:
            return None
        return f"sha256:{archive.sha256}" if existing.size == archive.size else f"{existing.size} bytes"

    (found,) = audit((missing,), image_digest, archive_digest, lambda _: proofs(task, request.release))
    if error := found.error():
        raise error


def pull_images(task: TaskContext, images: Iterable[ReleasedImage]) -> None:
    """Pull images of a release into the engine, by digest and under their tags.

    :raises Drifted: if one is missing or damaged.
    """
    pulls = [partial(timed, task.run.report, image.name, "pull", partial(_pull, task, image)) for image in images]
    side_by_side(pulls, jobs=task.run.jobs)


def _pull(task: TaskContext, image: ReleasedImage) -> None:
    engine, reference = task.services.engine, _pinned(image)
    credential = task.services.credentials.for_image(reference)
    try:
        image_id = engine.pull(reference, credential, PartialTransfers(task.run.report, image.name))
    except EngineError:
        # Engines report a damaged image in many ways, so check its bytes.
        with _damage_as_drift():
            refuse_damaged(task.services.registry_at(image.registry), image.repository, image.digest)
        raise
    engine.tag(image_id, image.reference)


def _unpack_archives(task: TaskContext, archives: Iterable[ReleasedArchive], new: Path) -> None:
    from buildtools.archive.extraction import unpack

    for archive in archives:
        progress = _progress(task, archive.name, archive.size)
        work = partial(unpack, task.services.store, archive.key, archive.sha256, new / archive.name, progress)
        timed(task.run.report, archive.name, "fetch", work)


def _write_layout(task: TaskContext, images: tuple[ReleasedImage, ...], folder: Path, to: Path) -> None:
    layout = Layout(folder, [path for path in to.glob(f"*/{_LAYOUT}") if path.parent.name != CURRENT])
    by_name = {image.name: image for image in images}

    def add(name: str) -> None:
        image = by_name[name]
        registry = task.services.registry_at(image.registry)
        with _damage_as_drift():
            layout.add(registry, _reference(image), name, _progress(task, name))

    results = run_graph(
        dict.fromkeys(by_name, ()),
        lambda name: timed(task.run.report, name, "fetch", partial(add, name)),
        jobs=task.run.jobs,
        cancelled=task.run.cancelled,
    )
    if results.failed:
        raise Failures(results.failed.values()).combined("not all images were fetched", "see the errors above")
    layout.finish()


def _progress(task: TaskContext, subject: str, total: int = 0) -> Callable[[int], None]:
    """A callback for each block of a download: it reports the bytes so far, and ends a cancelled download."""
    done = 0

    def progress(size: int) -> None:
        nonlocal done
        if task.run.cancelled.is_set():
            raise Cancelled(f"the download of {subject} was cancelled", "run the same command again")
        done += size
        task.run.report(Transferred(subject, done, total))

    return progress


@contextmanager
def _damage_as_drift() -> Iterator[None]:
    """A context in which damage in the registry is drift, since the release was complete when it was made."""
    try:
        yield
    except Damaged as error:
        raise Drifted(error.fact, _REMEDY) from None
