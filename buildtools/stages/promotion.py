"""Promotion: copy a release to another registry and another store, byte for byte.

The target goes through the steps of ``publish``: the version is claimed, images and archives are staged and read back,
and the manifest is written last. So a version exists there completely or not at all, and the same command finishes what
a killed run began. The manifest names the places in the target, and is otherwise the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from buildtools import Conflict, Failures, Refused, failures_of
from buildtools.archive.checksums import Checksums
from buildtools.audit import Verification
from buildtools.events import Transferred, timed
from buildtools.gates import Gates, gates_key
from buildtools.image.reference import Reference
from buildtools.image.registry.image_copier import ImageCopier
from buildtools.image.registry.manifest import Manifest
from buildtools.release import Release, ReleasedArchive, ReleasedImage, refuse_other_content
from buildtools.schedule import run_graph
from buildtools.services import Services
from buildtools.settings import GATE
from buildtools.stages import releases
from buildtools.stages.image_names import repository
from buildtools.stages.planned import Planned
from buildtools.stages.signatures import copy_release_signatures
from buildtools.stages.tag_moves import outdated_tags
from buildtools.stages.verification import audit_releases
from buildtools.task_context import TaskContext
from buildtools.version import Version

_Value = TypeVar("_Value")

_QUESTIONS = 8


def target_task(task: TaskContext, name: str) -> TaskContext:
    """The same task in a target of the configuration.

    :raises Refused: if there is no such target, or its store is the project's own.
    """
    settings = task.settings.of_target(name)
    if (settings.artifacts_url, settings.s3_endpoint) == (task.settings.artifacts_url, task.settings.s3_endpoint):
        raise Refused(
            f"the target {name} has the same artifacts as the project itself",
            f"set artifacts under [tool.buildtools.target.{name}] to another place",
        )
    run = replace(task.run, settings=settings)
    return TaskContext(run, Services(settings, run.environment, run.cancelled))


def target_release(target: TaskContext, release: Release) -> Release:
    """The release as it is in the target: other places, the same content."""
    images = tuple(
        replace(image, registry=target.settings.registry, repository=repository(target, image.name))
        for image in release.images
    )
    return replace(release, images=images)


def check_promotion(task: TaskContext, target: TaskContext, name: str, release: Release) -> None:
    """Check everything that could stop a promotion before anything is written, and report all errors at once.

    :raises Refused: if a gate has not been passed, or the target may not be written to.
    :raises Drifted: if the release is not intact.
    :raises Conflict: if the target has the version with other content.
    """
    replica = target_release(target, release)
    registry = target.services.registry
    # Each group asks another service. The first question to the target's store connects it.
    checks: tuple[tuple[Callable[[], object], ...], ...] = (
        (partial(_refuse_closed_gates, task, name, release), partial(_refuse_drift, task, release)),
        (partial(_refuse_conflict, target, replica), partial(_refuse_store, target)),
        (registry.ping,),
        *((partial(registry.check_push_access, image.repository),) for image in replica.images),
    )
    with ThreadPoolExecutor(_QUESTIONS) as pool:
        if errors := [error for some in pool.map(failures_of, checks) for error in some]:
            raise releases.preflight_failure(errors)


def stage_replica(task: TaskContext, target: TaskContext, release: Release) -> Release:
    """Copy images and archives to the target, and read back every one; returns the release as it is there.

    No tag of the version is set before all parts of all images are there.

    :raises Conflict: if the target has a tag or an archive of the version with other content, or a claim by another
        commit.
    """
    replica = target_release(target, release)
    images = _missing_images(task, target, release)
    releases.claim_version(target, Version.parse(replica.version), replica.commit)
    copier = ImageCopier(target.services.registry)
    work: dict[str, Callable[[], Manifest | None]] = {
        **{f"image {source.name}": partial(_copy_image, task, target, copier, source) for source in images},
        **{f"archive {archive.name}": partial(_copy_archive, task, target, archive) for archive in release.archives},
    }
    manifests = _results(target, work, "promoted")
    copy_release_signatures(task, target, release, replica)
    put = target.services.registry.put_manifest
    tags: dict[str, Callable[[], object]] = {
        image.name: partial(put, image.repository, image.tag, manifest)
        for image in replica.images
        if (manifest := manifests.get(f"image {image.name}"))
    }
    _results(target, tags, "tagged")
    _refuse_drift(target, replica)
    return replica


def _results(target: TaskContext, work: Mapping[str, Callable[[], _Value]], action: str) -> Mapping[str, _Value]:
    """The results of each piece of work; several run at once."""
    results = run_graph(dict.fromkeys(work, ()), lambda key: work[key](), jobs=target.run.jobs)
    if results.failed:
        raise Failures(results.failed.values()).combined(
            f"{len(results.failed)} of {len(work)} members were not {action}", "fix the errors above and run again"
        )
    return results.done


def refuse_target_called_gate(task: TaskContext) -> None:
    """Raise :class:`Refused` if a name in a record of gates could mean two things.

    :raises Refused: if a target has the name of the gate that `invoke stage` passes.
    """
    if GATE in task.settings.target:
        raise Refused(
            f"{task.settings.place(f'target.{GATE}')} has the name of the gate that `invoke stage` is",
            "rename that target",
        )


def record_gate(task: TaskContext, name: str, release: Release) -> None:
    """Record beside the release's manifest that it has passed a gate, or was promoted to the target with this name.

    :raises Conflict: if there is a record of another commit.
    """
    store, key = task.services.store, gates_key(Version.parse(release.version))
    while True:
        gates, etag = _read_gates(task, release)
        more = gates.with_gate(name)
        if more == gates:
            return
        # Another run may add its own gate meanwhile; then both are kept.
        if etag:
            store.replace(key, more.document(), etag, "application/json")
        else:
            store.create(key, more.document(), "application/json")


def promotion_plan(task: TaskContext, target: TaskContext, release: Release) -> tuple[Planned, ...]:
    """What would happen to each member in the target."""
    replica, version = target_release(target, release), Version.parse(release.version)
    missing = {image.name for image in _missing_images(task, target, release)}
    store = target.services.store
    return (
        *(_entry(each.reference, "be copied", is_there=each.name not in missing) for each in replica.images),
        *(
            _entry(store.location(each.key), "be copied", is_there=store.head(each.key) is not None)
            for each in replica.archives
        ),
        _entry(
            releases.manifest_location(target, version),
            "be written",
            is_there=releases.released(target, version) is not None,
        ),
    )


def _entry(name: str, action: str, *, is_there: bool) -> Planned:
    return Planned(name, "not change" if is_there else action, ("already there",) if is_there else ())


def _missing_images(task: TaskContext, target: TaskContext, release: Release) -> list[ReleasedImage]:
    """The images that the target lacks, each with the digest that its tag points to, which may be an index."""
    tag = Version.parse(release.version).image_tag
    indexes = {move.reference: move.before for move in outdated_tags(task, release.images, tag)}
    sources = [replace(each, digest=indexes.get(each.reference) or each.digest) for each in release.images]
    goals = target_release(target, replace(release, images=tuple(sources))).images
    moves = {move.reference: move for move in outdated_tags(target, goals, tag)}
    if others := [f"{move.reference} is {move.before}" for move in moves.values() if move.before]:
        raise Conflict(
            f"version {release.version} already exists in the target with other content ({'; '.join(others)})",
            "a release version never changes; commit, cut a new version, and promote that",
        )
    return [source for source, goal in zip(sources, goals, strict=True) if goal.reference in moves]


def _copy_image(task: TaskContext, target: TaskContext, copier: ImageCopier, image: ReleasedImage) -> Manifest:
    size_so_far = 0

    def add_size(size: int) -> None:
        nonlocal size_so_far
        size_so_far += size
        task.run.report(Transferred(image.name, size_so_far))

    source = Reference(image.registry, image.repository, image.tag, image.digest)
    copy = partial(
        copier.copy, task.services.registry_at(image.registry), source, repository(target, image.name), add_size
    )
    return timed(task.run.report, image.name, "promote", copy)


def _copy_archive(task: TaskContext, target: TaskContext, archive: ReleasedArchive) -> None:
    copy = partial(
        target.services.store.copy,
        archive.key,
        task.services.store,
        Checksums(archive.size, archive.sha256, archive.composite),
        subject=archive.name,
        report=task.run.report,
    )
    timed(task.run.report, archive.name, "promote", copy)


def _refuse_closed_gates(task: TaskContext, name: str, release: Release) -> None:
    gates, _ = _read_gates(task, release)
    gates_left = [gate for gate in task.settings.target[name].requires if gate not in gates.names]
    if gates_left and gates_left[0] == GATE and GATE not in task.settings.target:
        raise Refused(
            f"{release.version} may not be promoted to {name}: it has not passed the gate",
            f"run `invoke stage --release {release.version}` first",
        )
    if gates_left:
        raise Refused(
            f"{release.version} may not be promoted to {name}: it has not been promoted to {', '.join(gates_left)}",
            f"run `invoke promote {release.version} --to {gates_left[0]}` first",
        )


def _read_gates(task: TaskContext, release: Release) -> tuple[Gates, str]:
    """The gates that a release has passed, and the record's ETag, which is empty if there is none."""
    key = gates_key(Version.parse(release.version))
    content = task.services.store.read(key)
    if content is None:
        return Gates.of(release), ""
    location = task.services.store.location(key)
    gates = Gates.parse(content.data, location)
    if replace(gates, names=()) != Gates.of(release):
        raise Conflict(
            f"{location} is of {gates.version}, commit {gates.commit[:12]}, not of commit {release.commit[:12]}",
            "look at it, then delete it",
        )
    return gates, content.etag


def _refuse_drift(task: TaskContext, release: Release) -> None:
    if error := Verification(audit_releases(task, (release,))).error():
        raise error


def _refuse_conflict(target: TaskContext, replica: Release) -> None:
    existing = releases.released(target, Version.parse(replica.version))
    if existing:
        refuse_other_content(replica, existing)


def _refuse_store(target: TaskContext) -> None:
    if reasons := target.services.store.check_access(dry_run=target.run.dry_run):
        raise Failures(Refused(reason) for reason in reasons).combined(
            "the target's store cannot be written to", "fix the errors above and run again"
        )
