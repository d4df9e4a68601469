"""The table of contents: one function for each task, in the order in which things happen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from buildtools import Refused
from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.git.checkout import Checkout, read_checkout
from buildtools.services import Services
from buildtools.stages import archives, images, releases, tree
from buildtools.version import Version

if TYPE_CHECKING:
    from buildtools.archive.distribution import Archive
    from buildtools.git.tagging.tags import CutTag
    from buildtools.image.assembly import LocalImage
    from buildtools.image.registry.push import PushedImage
    from buildtools.image.survey import ImageStatus
    from buildtools.release import Audit, Release
    from buildtools.run import Run
    from buildtools.stages.planned import Planned


@frozen
class Listing:
    """The image folders, and the reference that each image has or would have, in the same order."""

    statuses: tuple[ImageStatus, ...]
    references: tuple[str, ...]


@frozen
class Published:
    """What publishing came to. ``written`` is whether this run wrote the manifest; one that was there is kept.

    A dirty version is staged only: it gets no manifest and moves no tag.
    """

    release: Release
    manifest: str
    written: bool
    dirty: bool
    moved: tuple[str, ...] = ()


def list_images(run: Run) -> Listing:
    """Every image folder in build order, and where it stands."""
    with Services(run.settings, run.environment, run.cancelled) as services:
        checkout = _checkout(run)
        statuses = images.survey_images(run, services, checkout)
        return Listing(statuses, tuple(images.reference(run, checkout.version, each.name) for each in statuses))


def build(run: Run, *, registry_names: bool = False) -> tuple[LocalImage, ...]:
    """Bring every image into the engine as ``NAME:VERSION``; with ``registry_names`` also under those (``tag``)."""
    with Services(run.settings, run.environment, run.cancelled) as services:
        checkout = _checkout(run)
        images.run_before(run, checkout)
        images.pull_bases(run, services, checkout)
        return images.bring_in(run, services, checkout, registry_names=registry_names)


def push(run: Run) -> tuple[PushedImage, ...]:
    """Push every image under its version, building only what the registry does not have, and read it back."""
    with Services(run.settings, run.environment, run.cancelled) as services:
        checkout = _checkout(run)
        if checkout.version.dirty:
            run.report(Warned("", f"the tree is dirty: {checkout.version} is no release and may be overwritten"))
        services.registry.ping()
        images.run_before(run, checkout)
        images.pull_bases(run, services, checkout)
        return images.push_images(run, services, checkout)


def dist(run: Run) -> tuple[Archive, ...]:
    """Make every distribution's ``.tgz`` in ``dist/``."""
    return archives.make_archives(run, _checkout(run))


def publish(run: Run) -> Published:
    """Release the version: preflight, stage, commit, point. The manifest, written last, is what makes it exist."""
    with Services(run.settings, run.environment, run.cancelled) as services:
        checkout = tree.to_release(run, _checkout(run))
        releases.preflight(run, services, checkout)
        images.run_before(run, checkout)
        images.pull_bases(run, services, checkout)
        staged = releases.stage(run, services, checkout)
        location = releases.manifest_location(services, checkout.version)
        if checkout.version.dirty:
            return Published(staged, location, written=False, dirty=True)
        release, written = releases.commit(services, checkout.version, staged)
        moved = releases.point(run, services, checkout.version, release)
        return Published(release, location, written, dirty=False, moved=moved)


def release(run: Run, remote: str, **options: Any) -> CutTag:
    """Cut the annotated tag that ``publish`` releases, and push it; the options are those of ``TagRequest``."""
    from buildtools.git.tagging.tag_plan import TagRequest
    from buildtools.git.tagging.tags import cut_tag

    settings = run.settings
    request = TagRequest(
        prefix=settings.tag_prefix,
        release_branch=settings.release_branch,
        remote=remote or settings.remote,
        dry_run=run.dry_run,
        **options,
    )
    return cut_tag(settings.root, request, run.environment, run.report)


def verify(run: Run, wanted: str, *, deep: bool = False) -> Audit:
    """Hold a version's manifest against registry and store; the checkout's version where none is wanted."""
    version = Version.parse(wanted) if wanted else _checkout(run).version
    with Services(run.settings, run.environment, run.cancelled) as services:
        released = releases.released(services, version)
        location = releases.manifest_location(services, version)
        if released is None or released.version != version.text:
            why = f"{location} is that of {released.version}" if released else f"{location} does not exist"
            raise Refused(
                f"version {version} is not released: {why}", "release it with `invoke publish`, or name another version"
            )
        return releases.audit_release(run, services, released, deep=deep)


def plan_build(run: Run) -> tuple[Planned, ...]:
    """What ``build`` and ``tag`` would do."""
    with Services(run.settings, run.environment, run.cancelled) as services:
        return images.plan_local(run, services, _checkout(run))


def plan_push(run: Run) -> tuple[Planned, ...]:
    """What ``push`` would do."""
    with Services(run.settings, run.environment, run.cancelled) as services:
        return images.plan_push(run, services, _checkout(run))


def plan_dist(run: Run) -> tuple[Planned, ...]:
    """What ``dist`` would do."""
    return archives.plan_archives(run, _checkout(run), "be made")


def plan_publish(run: Run) -> tuple[Planned, ...]:
    """What ``publish`` would do."""
    with Services(run.settings, run.environment, run.cancelled) as services:
        checkout = tree.to_release(run, _checkout(run))
        releases.preflight(run, services, checkout)
        return (
            *images.plan_push(run, services, checkout, release=True),
            *archives.plan_archives(run, checkout, "be made and uploaded"),
            releases.plan_manifest(services, checkout.version),
        )


def _checkout(run: Run) -> Checkout:
    """What the repository says; asked for once in a run, and handed on."""
    settings = run.settings
    return read_checkout(settings.root, settings.tag_prefix, settings.remote, run.environment)
