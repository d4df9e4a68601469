"""The table of contents: one function for each task, in the order in which things happen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.settings import GATE
from buildtools.task_context import TaskContext
from buildtools.version import Version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from buildtools.archive.distribution import Archive
    from buildtools.audit import Verification
    from buildtools.git.tagging.tags import CutTag
    from buildtools.image.assembly import LocalImage
    from buildtools.image.registry.image_to_push import PushedImage
    from buildtools.image.survey import ImageStatus
    from buildtools.release import Release
    from buildtools.run import Run
    from buildtools.stages.build_plan import BuildPlan, Shard
    from buildtools.stages.channels import ChannelState
    from buildtools.stages.check import Checked
    from buildtools.stages.doctor import Examination
    from buildtools.stages.fetch import Fetched
    from buildtools.stages.history import HistoryEntry
    from buildtools.stages.leftovers import Leftover
    from buildtools.stages.new_project import NewProject
    from buildtools.stages.planned import Planned
    from buildtools.stages.pruning import PruneEntry
    from buildtools.stages.service_folder import ServiceFolder
    from buildtools.stages.trial import Trial


@frozen
class Listing:
    """The image folders, and the current or future reference of each image, in the same order."""

    statuses: tuple[ImageStatus, ...]
    references: tuple[str, ...]


@frozen
class Published:
    """The result of publishing. ``written`` is True if this run wrote the manifest, and False if it already existed.

    A dirty version is only staged: it gets no manifest and moves no tag.
    """

    release: Release
    manifest: str
    written: bool
    dirty: bool
    moved: tuple[str, ...] = ()


def init(run: Run) -> NewProject:
    """Write the first files of a project; existing files stay."""
    from buildtools.stages.new_project import begin_project

    with TaskContext(run) as task:
        return begin_project(task)


def check(run: Run) -> Checked:
    """Look for all errors in the configuration and the image folders. No service is needed."""
    from buildtools.stages.check import check_project

    with TaskContext(run) as task:
        return check_project(task)


def list_images(run: Run) -> Listing:
    """All image folders in build order, with their status."""
    from buildtools.stages import image_names, images

    with TaskContext(run) as task:
        statuses = images.listed_statuses(task)
        return Listing(statuses, tuple(image_names.reference(task, each.name) for each in statuses))


def build(run: Run, *, registry_names: bool = False) -> tuple[LocalImage, ...]:
    """Bring every image into the engine as ``NAME:VERSION``; with ``registry_names`` under its registry names too."""
    from buildtools.stages import images

    with TaskContext(run) as task:
        images.run_before(task)
        images.pull_bases(task)
        return images.bring_in(task, registry_names=registry_names)


def plan(run: Run, shards: int = 0) -> BuildPlan:
    """What a push would build and why; with ``shards``, which of that many agents would build what."""
    from buildtools.stages import build_plan

    with TaskContext(run) as task:
        return build_plan.read_plan(task, shards)


def push(run: Run, shard: Shard | None = None) -> tuple[PushedImage, ...]:
    """Push every image under its version and read it back, building only what the registry does not have.

    With a ``shard``, push only the images of that share, and write no file for the next step, since that covers all
    images.
    """
    from buildtools.stages import build_plan, images, outputs, publication

    with TaskContext(run) as task:
        if task.version.dirty:
            run.report(Warned("", f"the tree is dirty: {task.version} is not a release and may be overwritten"))
        task.services.registry.ping()
        images.run_before(task)
        images.pull_bases(task)
        if shard:
            return build_plan.push_share(task, shard)
        pushed = images.push_images(task)
        outputs.write_outputs(task, publication.release_of(task, pushed))
        return pushed


def dist(run: Run) -> tuple[Archive, ...]:
    """Make every distribution's ``.tgz`` in ``dist/``."""
    from buildtools.stages import archives

    with TaskContext(run) as task:
        return archives.make_archives(task)


def publish(run: Run) -> Published:
    """Release the version: preflight, stage, commit, point.

    The manifest is written last and makes the version exist.
    """
    from buildtools.stages import channels, images, outputs, publication, releases, signatures, tree

    with TaskContext(run) as task:
        task = tree.to_release(task)
        publication.preflight(task)
        images.run_before(task)
        images.pull_bases(task)
        staged = publication.stage_members(task)
        location = releases.manifest_location(task, task.version)
        if task.version.dirty:
            outputs.write_outputs(task, staged)
            return Published(staged, location, written=False, dirty=True)
        release, written = releases.commit(task, signatures.sign_release(task, staged))
        moved = releases.point(task, task.version, release) + channels.advance_channels(task, release)
        manifest, statement = releases.read_manifest(task, task.version), signatures.read_statement(task, release)
        outputs.write_outputs(task, release, manifest, statement)
        return Published(release, location, written, dirty=False, moved=moved)


def release(run: Run, remote: str, **options: Any) -> CutTag:
    """Create the annotated tag that ``publish`` releases, and push it. The options are the fields of ``TagRequest``."""
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


def verify(run: Run, names: Sequence[str], *, everything: bool = False, deep: bool = False) -> Verification:
    """Compare releases with registry and store: all releases, those named, or that of the checkout's version."""
    from buildtools.stages import verification

    with TaskContext(run) as task:
        if everything:
            return verification.verify_all(task, deep=deep)
        return verification.verify_named(task, names or (task.version.text,), deep=deep)


def channel(run: Run, name: str, wanted: str) -> ChannelState:
    """The state of a channel, after moving it forward if a version is wanted."""
    from buildtools.stages import channels

    with TaskContext(run) as task:
        if wanted:
            return channels.move_forward(task, name, Version.parse(wanted))
        return channels.show_channel(task, name)


def rollback(run: Run, name: str, wanted: str) -> ChannelState:
    """Move a channel back to the wanted version, or to the previous one."""
    from buildtools.stages import channels

    with TaskContext(run) as task:
        return channels.roll_back(task, name, Version.parse(wanted) if wanted else None)


def fetch(run: Run, name: str, to: Path, *, layout: bool = False) -> Fetched:
    """Fetch the release of a version or a channel: into a folder, where it becomes current, and into the engine."""
    from buildtools.stages import releases
    from buildtools.stages.fetch import FetchRequest, fetch_release

    with TaskContext(run) as task:
        return fetch_release(task, FetchRequest(releases.named_release(task, name), to, layout))


def promote(run: Run, name: str, target_name: str) -> Published:
    """Promote a version, or the one a channel points to, to a target: preflight, stage, commit, point."""
    from buildtools.stages import channels, promotion, releases

    with TaskContext(run) as task, promotion.target_task(task, target_name) as target:
        source = releases.named_release(task, name)
        missing = promotion.check_promotion(task, target, target_name, source)
        replica = promotion.stage_replica(task, target, source, missing)
        release, written = releases.commit(target, replica)
        promotion.record_gate(task, target_name, source)
        version = Version.parse(release.version)
        moved = releases.point(target, version, release) + channels.advance_channels(target, release)
        return Published(release, releases.manifest_location(target, version), written, dirty=False, moved=moved)


def stage(run: Run, name: str) -> Trial:
    """Try a version out in the project's stack. If it is a release, record that it passed, for ``promote``."""
    from buildtools.stages import promotion
    from buildtools.stages.trial import try_out
    from buildtools.stages.version_images import version_images

    with TaskContext(run) as task:
        promotion.refuse_target_called_gate(task)
        subject = version_images(task, name)
        if subject.release:
            promotion.refuse_unrecordable_gate(task, GATE, subject.release)
        trial = try_out(task, subject)
        if subject.release:
            promotion.record_gate(task, GATE, subject.release)
        return trial


def prune(run: Run, keep: int, days: int, prefix: str = "") -> tuple[PruneEntry, ...]:
    """Delete releases, except the newest ``keep``, those of the last ``days``, and those that something points to."""
    from buildtools.stages.pruning import prune_releases

    with TaskContext(run) as task:
        return prune_releases(task, keep, days, prefix)


def prune_engine(run: Run, keep: int, days: int, prefix: str = "") -> tuple[Leftover, ...]:
    """Remove the names of all but the newest versions from the engine, unless the run is dry."""
    from buildtools.stages.engine_pruning import surplus_names
    from buildtools.stages.leftovers import remove

    with TaskContext(run) as task:
        return tuple(each for each in surplus_names(task, keep, days, prefix) if run.dry_run or remove(task, each))


def history(run: Run) -> tuple[HistoryEntry, ...]:
    """All versions that the store knows, newest first."""
    from buildtools.stages.history import read_history

    with TaskContext(run) as task:
        return read_history(task)


def doctor(run: Run) -> Examination:
    """Check that everything a release needs is in place and works."""
    from buildtools.stages.doctor import examine

    with TaskContext(run) as task:
        return examine(task)


def clean(run: Run, days: int) -> tuple[Leftover, ...]:
    """Remove what nobody has used for ``days`` days, unless the run is dry."""
    from buildtools.stages.leftovers import leftovers, remove

    with TaskContext(run) as task:
        return tuple(each for each in leftovers(task, days) if run.dry_run or remove(task, each))


def runit(run: Run, image: str, folder: Path, release_name: str) -> ServiceFolder:
    """Write the folder of a runit service that runs an image of a release."""
    from buildtools.stages.service_folder import write_service_folder

    with TaskContext(run) as task:
        return write_service_folder(task, image, folder, release_name)


def plan_build(run: Run) -> tuple[Planned, ...]:
    """What ``build`` and ``tag`` would do."""
    from buildtools.stages import images

    with TaskContext(run) as task:
        return images.local_plan(task)


def plan_push(run: Run) -> tuple[Planned, ...]:
    """What ``push`` would do."""
    from buildtools.stages import images

    with TaskContext(run) as task:
        return images.push_plan(task)


def plan_dist(run: Run) -> tuple[Planned, ...]:
    """What ``dist`` would do."""
    from buildtools.stages import archives

    with TaskContext(run) as task:
        return archives.archive_plan(task, "be made")


def plan_stage(run: Run, name: str) -> tuple[Planned, ...]:
    """What ``stage`` would do."""
    from buildtools.stages import promotion
    from buildtools.stages.trial import trial_plan
    from buildtools.stages.version_images import version_images

    with TaskContext(run) as task:
        promotion.refuse_target_called_gate(task)
        return trial_plan(task, version_images(task, name))


def plan_promote(run: Run, name: str, target_name: str) -> tuple[Planned, ...]:
    """What ``promote`` would do."""
    from buildtools.stages import promotion, releases

    with TaskContext(run) as task, promotion.target_task(task, target_name) as target:
        source = releases.named_release(task, name)
        missing = promotion.check_promotion(task, target, target_name, source)
        return promotion.promotion_plan(target, source, missing)


def plan_publish(run: Run) -> tuple[Planned, ...]:
    """What ``publish`` would do."""
    from buildtools.stages import archives, images, publication, signatures, tree

    with TaskContext(run) as task:
        task = tree.to_release(task)
        publication.preflight(task)
        return (
            *images.push_plan(task, release=True),
            *archives.archive_plan(task, "be made and uploaded"),
            *signatures.signing_plan(task),
            publication.manifest_plan(task),
        )


def plan_fetch(run: Run, name: str, to: Path, *, layout: bool = False) -> tuple[Planned, ...]:
    """What ``fetch`` would do."""
    from buildtools.stages import releases
    from buildtools.stages.fetch import FetchRequest, fetch_plan

    with TaskContext(run) as task:
        return fetch_plan(task, FetchRequest(releases.named_release(task, name), to, layout))
