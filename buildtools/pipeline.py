"""The table of contents: one function for each task, in the order in which things happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildtools import stages
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
    from buildtools.git.tagging.tag_plan import TagRequest
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
    with TaskContext(run) as task:
        return stages.new_project.begin_project(task)


def check(run: Run) -> Checked:
    """Look for all errors in the configuration and the image folders. No service is needed."""
    with TaskContext(run) as task:
        return stages.check.check_project(task)


def list_images(run: Run) -> Listing:
    """All image folders in build order, with their status."""
    with TaskContext(run) as task:
        statuses = stages.images.listed_statuses(task)
        return Listing(statuses, tuple(stages.image_names.reference(task, each.name) for each in statuses))


def build(run: Run, *, registry_names: bool = False) -> tuple[LocalImage, ...]:
    """Bring every image into the engine as ``NAME:VERSION``; with ``registry_names`` under its registry names too."""
    with TaskContext(run) as task:
        stages.images.run_before(task)
        stages.images.pull_bases(task)
        return stages.images.bring_in(task, registry_names=registry_names)


def plan(run: Run, shards: int = 0) -> BuildPlan:
    """What a push would build and why; with ``shards``, which of that many agents would build what."""
    with TaskContext(run) as task:
        return stages.build_plan.read_plan(task, shards)


def push(run: Run, shard: Shard | None = None) -> tuple[PushedImage, ...]:
    """Push every image under its version and read it back, building only what the registry does not have.

    With a ``shard``, push only the images of that share, and write no file for the next step, since that covers all
    images.
    """
    with TaskContext(run) as task:
        if task.version.dirty:
            run.report(Warned("", f"the tree is dirty: {task.version} is not a release and may be overwritten"))
        task.services.registry.ping()
        stages.images.run_before(task)
        stages.images.pull_bases(task)
        if shard:
            return stages.build_plan.push_share(task, shard)
        pushed = stages.images.push_images(task)
        stages.outputs.write_outputs(task, stages.publication.release_of(task, pushed))
        return pushed


def dist(run: Run) -> tuple[Archive, ...]:
    """Make every distribution's ``.tgz`` in ``dist/``."""
    with TaskContext(run) as task:
        return stages.archives.make_archives(task)


def publish(run: Run) -> Published:
    """Release the version: preflight, stage, commit, point.

    The manifest is written last and makes the version exist.
    """
    with TaskContext(run) as task:
        task = stages.tree.to_release(task)
        stages.publication.preflight(task)
        stages.images.run_before(task)
        stages.images.pull_bases(task)
        staged = stages.publication.stage_members(task)
        location = stages.releases.manifest_location(task, task.version)
        if task.version.dirty:
            stages.outputs.write_outputs(task, staged)
            return Published(staged, location, written=False, dirty=True)
        release, written = stages.releases.commit(task, stages.signatures.sign_release(task, staged))
        moved = stages.releases.point(task, task.version, release) + stages.channels.advance_channels(task, release)
        # What this run wrote was read back by then.
        manifest = release.manifest() if written else stages.releases.read_manifest(task, task.version)
        statement = stages.signatures.read_statement(task, release)
        stages.outputs.write_outputs(task, release, manifest, statement)
        return Published(release, location, written, dirty=False, moved=moved)


def release(run: Run, request: TagRequest) -> CutTag:
    """Create the annotated tag that ``publish`` releases, and push it; the configuration completes the request."""
    from dataclasses import replace

    from buildtools.git.tagging.tags import cut_tag

    settings = run.settings
    request = replace(
        request,
        prefix=settings.tag_prefix,
        release_branch=settings.release_branch,
        remote=request.remote or settings.remote,
        dry_run=run.dry_run,
    )
    return cut_tag(settings.root, request, run.environment, run.report)


def verify(run: Run, names: Sequence[str], *, everything: bool = False, deep: bool = False) -> Verification:
    """Compare releases with registry and store: all releases, those named, or that of the checkout's version."""
    with TaskContext(run) as task:
        if everything:
            return stages.verification.verify_all(task, deep=deep)
        return stages.verification.verify_named(task, names or (task.version.text,), deep=deep)


def channel(run: Run, name: str, wanted: str) -> ChannelState:
    """The state of a channel, after moving it forward if a version is wanted."""
    with TaskContext(run) as task:
        if wanted:
            return stages.channels.move_forward(task, name, Version.parse(wanted))
        return stages.channels.show_channel(task, name)


def rollback(run: Run, name: str, wanted: str) -> ChannelState:
    """Move a channel back to the wanted version, or to the previous one."""
    with TaskContext(run) as task:
        return stages.channels.roll_back(task, name, Version.parse(wanted) if wanted else None)


def fetch(run: Run, name: str, to: Path, *, layout: bool = False) -> Fetched:
    """Fetch the release of a version or a channel: into a folder, where it becomes current, and into the engine."""
    with TaskContext(run) as task:
        source = stages.releases.named_release(task, name)
        return stages.fetch.fetch_release(task, stages.fetch.FetchRequest(source, to, layout))


def promote(run: Run, name: str, target_name: str) -> Published:
    """Promote a version, or the one a channel points to, to a target: preflight, stage, commit, point."""
    with TaskContext(run) as task, stages.promotion.target_task(task, target_name) as target:
        source = stages.promotion.source_release(task, target, name)
        missing = stages.promotion.check_promotion(task, target, target_name, source)
        replica = stages.promotion.stage_replica(task, target, source, missing)
        release, written = stages.releases.commit(target, replica)
        stages.promotion.record_gate(task, target_name, source)
        version = Version.parse(release.version)
        moved = stages.releases.point(target, version, release) + stages.channels.advance_channels(target, release)
        return Published(release, stages.releases.manifest_location(target, version), written, dirty=False, moved=moved)


def stage(run: Run, name: str) -> Trial:
    """Try a version out in the project's stack. If it is a release, record that it passed, for ``promote``."""
    with TaskContext(run) as task:
        stages.promotion.refuse_target_called_gate(task)
        subject = stages.version_images.version_images(task, name)
        if subject.release:
            stages.promotion.refuse_unrecordable_gate(task, GATE, subject.release)
        trial = stages.trial.try_out(task, subject)
        if subject.release:
            stages.promotion.record_gate(task, GATE, subject.release)
        return trial


def prune(run: Run, keep: int, days: int, prefix: str = "") -> tuple[PruneEntry, ...]:
    """Delete releases, except the newest ``keep``, those of the last ``days``, and those that something points to."""
    with TaskContext(run) as task:
        return stages.pruning.prune_releases(task, keep, days, prefix)


def prune_engine(run: Run, keep: int, days: int, prefix: str = "") -> tuple[Leftover, ...]:
    """Remove the names of all but the newest versions from the engine, unless the run is dry."""
    with TaskContext(run) as task:
        surplus = stages.engine_pruning.surplus_names(task, keep, days, prefix)
        return tuple(each for each in surplus if run.dry_run or stages.leftovers.remove(task, each))


def history(run: Run) -> tuple[HistoryEntry, ...]:
    """All versions that the store knows, newest first."""
    with TaskContext(run) as task:
        return stages.history.read_history(task)


def doctor(run: Run) -> Examination:
    """Check that everything a release needs is in place and works."""
    with TaskContext(run) as task:
        return stages.doctor.examine(task)


def clean(run: Run, days: int) -> tuple[Leftover, ...]:
    """Remove what nobody has used for ``days`` days, unless the run is dry."""
    with TaskContext(run) as task:
        unused = stages.leftovers.leftovers(task, days)
        return tuple(each for each in unused if run.dry_run or stages.leftovers.remove(task, each))


def runit(run: Run, image: str, folder: Path, release_name: str) -> ServiceFolder:
    """Write the folder of a runit service that runs an image of a release."""
    with TaskContext(run) as task:
        return stages.service_folder.write_service_folder(task, image, folder, release_name)


def plan_build(run: Run) -> tuple[Planned, ...]:
    """What ``build`` and ``tag`` would do."""
    with TaskContext(run) as task:
        return stages.images.local_plan(task)


def plan_push(run: Run) -> tuple[Planned, ...]:
    """What ``push`` would do."""
    with TaskContext(run) as task:
        return stages.images.push_plan(task)


def plan_dist(run: Run) -> tuple[Planned, ...]:
    """What ``dist`` would do."""
    with TaskContext(run) as task:
        return stages.archives.archive_plan(task, "be made")


def plan_stage(run: Run, name: str) -> tuple[Planned, ...]:
    """What ``stage`` would do."""
    with TaskContext(run) as task:
        stages.promotion.refuse_target_called_gate(task)
        return stages.trial.trial_plan(task, stages.version_images.version_images(task, name))


def plan_promote(run: Run, name: str, target_name: str) -> tuple[Planned, ...]:
    """What ``promote`` would do."""
    with TaskContext(run) as task, stages.promotion.target_task(task, target_name) as target:
        source = stages.promotion.source_release(task, target, name)
        missing = stages.promotion.check_promotion(task, target, target_name, source)
        return stages.promotion.promotion_plan(target, source, missing)


def plan_publish(run: Run) -> tuple[Planned, ...]:
    """What ``publish`` would do."""
    with TaskContext(run) as task:
        task = stages.tree.to_release(task)
        stages.publication.preflight(task)
        return (
            *stages.images.push_plan(task, release=True),
            *stages.archives.archive_plan(task, "be made and uploaded"),
            *stages.signatures.signing_plan(task),
            *stages.publication.manifest_plan(task),
        )


def plan_fetch(run: Run, name: str, to: Path, *, layout: bool = False) -> tuple[Planned, ...]:
    """What ``fetch`` would do."""
    with TaskContext(run) as task:
        source = stages.releases.named_release(task, name)
        return stages.fetch.fetch_plan(task, stages.fetch.FetchRequest(source, to, layout))
