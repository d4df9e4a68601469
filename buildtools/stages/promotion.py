"""Promotion: copy a release to another registry and another store, byte for byte.

The target goes through the steps of ``publish``: the parts of images are copied, the version is claimed, tags are set
and archives staged, all is read back, and the manifest is written last. So a version exists there completely or not at
all, and the same command finishes what a killed run began. The manifest names the places in the target, and is
otherwise the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from buildtools import BuildToolsError, Conflict, Drifted, Failures, Refused, failures_of
from buildtools.archive.checksums import Checksums
from buildtools.audit import Verification
from buildtools.channel import refuse_name
from buildtools.events import Transferred, timed
from buildtools.frozen import frozen
from buildtools.gates import Gates, gates_key
from buildtools.image.registry.image_copier import ImageCopier
from buildtools.image.registry.lookup import KnownParts, manifests_below, tag_digest
from buildtools.image.registry.manifest import Damaged, Descriptor, Manifest
from buildtools.release import Release, ReleasedArchive, ReleasedImage, refuse_other_content
from buildtools.schedule import QUESTIONS_AT_ONCE, run_graph, side_by_side
from buildtools.settings import GATE
from buildtools.stages import releases
from buildtools.stages.channels import move_plan
from buildtools.stages.image_names import repository
from buildtools.stages.planned import Planned
from buildtools.stages.signatures import copy_release_signatures
from buildtools.stages.verification import MemberLookup
from buildtools.task_context import TaskContext
from buildtools.version import Version

_Value = TypeVar("_Value")

# An image in a registry: its manifests, each with the blobs that it names; the last is the one that its tag points to.
ImageParts = tuple[tuple[Manifest, tuple[Descriptor, ...]], ...]


@frozen
class MissingImages:
    """The images that a target does not have, by name, and the blobs that its registry is known to have."""

    images: Mapping[str, ImageParts]
    parts: KnownParts

    def __contains__(self, name: str) -> bool:
        return name in self.images


def target_task(task: TaskContext, name: str) -> TaskContext:
    """The same task in a target of the configuration.

    :raises Refused: if there is no such target, or its store is the project's own.
    """
    settings = task.settings.of_target(name)
    run = replace(task.run, settings=settings)
    return TaskContext(run, task.services.elsewhere(settings))


def source_release(task: TaskContext, target: TaskContext, name: str) -> Release:
    """The release that ``name``, a version or a channel, refers to.

    Meanwhile the target's registry is connected, which takes several round trips.

    :raises Refused: if there is none.
    """

    def connect() -> None:
        # The preflight asks again, and reports what is wrong.
        with suppress(BuildToolsError):
            target.services.registry.ping()

    threading.Thread(target=connect, daemon=True).start()
    return releases.named_release(task, name)


def target_release(target: TaskContext, release: Release) -> Release:
    """The release as it is in the target: other places, the same content."""
    images = tuple(
        replace(image, registry=target.settings.registry, repository=repository(target, image.name))
        for image in release.images
    )
    return replace(release, images=images)


def check_promotion(task: TaskContext, target: TaskContext, name: str, release: Release) -> MissingImages:
    """Check everything that could stop a promotion before anything is written, and report all errors at once.

    Returns the images that the target does not have. Within one registry, whether it has their blobs is not asked here:
    it tells when they are mounted.

    :raises Refused: if a gate has not been passed or cannot be recorded, or the target may not be written to.
    :raises Drifted: if the release is not intact.
    :raises Conflict: if the target has the version with other content, or a claim of it by another commit.
    """
    replica, version = target_release(target, release), Version.parse(release.version)
    registry = target.services.registry
    digests: dict[str, str] = {}
    to_mount = not target.run.dry_run and all(image.registry == registry.host for image in release.images)
    members = MemberLookup(task, to_mount=to_mount)

    def look_up(goal: ReleasedImage) -> None:
        digests[goal.name] = tag_digest(registry, goal.repository, goal.tag) or ""

    checks: tuple[Callable[[], object], ...] = (
        partial(_refuse_drift, members, release),
        partial(_refuse_closed_gates, task, name, release),
        partial(_refuse_conflict, target, replica),
        partial(releases.refuse_other_claim, target, version, release.commit),
        partial(_refuse_store, target),
        *(partial(refuse_name, each, target.settings.moving_tags) for each in target.settings.channels),
        registry.ping,
        *(partial(registry.check_push_access, goal.repository) for goal in replica.images),
        *(partial(look_up, goal) for goal in replica.images),
    )
    with ThreadPoolExecutor(QUESTIONS_AT_ONCE) as pool:
        if errors := [error for some in pool.map(lambda each: failures_of((each,)), checks) for error in some]:
            raise releases.preflight_failure(errors)
    missing = _missing_images(task, release, replica, members, digests)
    if to_mount and len(missing) < len(release.images):
        # What the target has is not mounted, so whether the release still has it must be asked.
        _refuse_drift(MemberLookup(task), release)
    return MissingImages(missing, members.parts)


def stage_replica(task: TaskContext, target: TaskContext, release: Release, missing: MissingImages) -> Release:
    """Copy images, of which some are ``missing``, and archives to the target; returns the release as it is there.

    Every one is read back. The version is claimed when all parts of all images are there, and then their tags are set.

    :raises Drifted: if the release is not intact.
    :raises Conflict: if the target has an archive of the version with other content, or a claim by another commit.
    """
    replica = target_release(target, release)
    goals = [goal for goal in replica.images if goal.name in missing]
    parts = {goal.repository: missing.images[goal.name] for goal in goals}
    with closing(ImageCopier(target.services.registry, parts, missing.parts, target.run.jobs)) as copier:
        copies: dict[str, Callable[[], object]] = {
            "signatures": partial(copy_release_signatures, task, target, release, replica),
            **{
                f"image {image.name}": partial(_copy_image, task, target, copier, image)
                for image in release.images
                if image.name in missing
            },
        }
        # The copier limits what passes at once; everything else is only asked.
        _results(copies, "promoted", QUESTIONS_AT_ONCE)
    releases.claim_version(target, Version.parse(replica.version), replica.commit)
    archives = {each.name: partial(_copy_archive, task, target, each) for each in release.archives}
    _results(archives, "promoted", target.run.jobs)
    put = target.services.registry.put_manifest
    tags = {goal.name: partial(put, goal.repository, goal.tag, missing.images[goal.name][-1][0]) for goal in goals}
    _results(tags, "tagged", QUESTIONS_AT_ONCE)
    stored = {goal.repository: copier.parts for goal in goals}
    _refuse_drift(MemberLookup(target, stored=stored), replica)
    return replica


def _results(work: Mapping[str, Callable[[], _Value]], action: str, jobs: int) -> Mapping[str, _Value]:
    """The results of each piece of work; several run at once."""
    results = run_graph(dict.fromkeys(work, ()), lambda key: work[key](), jobs=jobs)
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
            f"{task.settings.place(f'target.{GATE}')} has the same name as the gate of `invoke stage`",
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


def refuse_unrecordable_gate(task: TaskContext, name: str, release: Release) -> None:
    """Raise :class:`Refused` if we may not record that a release has passed a gate; nothing is written."""
    _refuse_unrecordable(task, name, _read_gates(task, release)[0])


def _refuse_unrecordable(task: TaskContext, name: str, gates: Gates) -> None:
    if name not in gates.names:
        # No object has this ETag.
        task.services.store.replace(
            gates_key(Version.parse(gates.version)), gates.document(), '"0"', "application/json"
        )


def promotion_plan(target: TaskContext, release: Release, missing: MissingImages) -> tuple[Planned, ...]:
    """What would happen to each member in the target, which does not have the ``missing`` images."""
    replica, version = target_release(target, release), Version.parse(release.version)
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
        *move_plan(target, version, replica.images),
    )


def _entry(name: str, action: str, *, is_there: bool) -> Planned:
    return Planned(name, "not change" if is_there else action, ("already there",) if is_there else ())


def _missing_images(
    task: TaskContext,
    release: Release,
    replica: Release,
    members: MemberLookup,
    digests: Mapping[str, str],
) -> dict[str, ImageParts]:
    """The names of the images that the target does not have, each with its manifests and their blobs.

    ``members`` has what the tag of each image points to, and ``digests``, by its name, the same of the target.

    :raises Conflict: the target has one with other content.
    """
    others = [
        f"{goal.reference} is {digest}"
        for goal in replica.images
        if (digest := digests[goal.name]) not in ("", members.manifests[goal.name].digest)
    ]
    if others:
        raise Conflict(
            f"version {release.version} already exists in the target with other content ({'; '.join(others)})",
            "a released version never changes; commit, cut a new version, and promote that",
        )

    def parts(image: ReleasedImage) -> ImageParts:
        registry = task.services.registry_at(image.registry)
        manifest, entries = members.manifests[image.name], members.members[image.name]
        return tuple(manifests_below(registry, image.repository, manifest, entries))

    images = [image for image in release.images if not digests[image.name]]
    looks = side_by_side([partial(parts, image) for image in images], jobs=QUESTIONS_AT_ONCE)
    return {image.name: look for image, look in zip(images, looks, strict=True)}


def _copy_image(task: TaskContext, target: TaskContext, copier: ImageCopier, image: ReleasedImage) -> Manifest:
    sizes: list[int] = []

    def add_size(size: int) -> None:
        sizes.append(size)
        task.run.report(Transferred(image.name, sum(sizes)))

    source = task.services.registry_at(image.registry)
    copy = partial(copier.copy, source, image.repository, repository(target, image.name), add_size)
    try:
        return timed(task.run.report, image.name, "promote", copy)
    except Damaged as error:
        raise Drifted(error.fact, "restore it; `invoke verify` tells what else is damaged") from None


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
    _refuse_unrecordable(task, name, gates)


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
            f"{location} is about {gates.version}, commit {gates.commit[:12]}, not of commit {release.commit[:12]}",
            "look at it, then delete it",
        )
    return gates, content.etag


def _refuse_drift(members: MemberLookup, release: Release) -> None:
    if error := Verification(members.audit((release,))).error():
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
