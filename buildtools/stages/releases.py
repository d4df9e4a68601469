"""Releases: what stands in the way of one, its members, its manifest, its moving tags, its audit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

from buildtools import BuildToolsError, Conflict, Failures, Refused, Unreachable, release
from buildtools.git.checkout import Checkout, read_version, refuse_dirty
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.lookup import is_whole, move_tag, read_image, tag_digest
from buildtools.image.registry.manifest import Damaged
from buildtools.release import Audit, Release, ReleasedArchive, ReleasedImage
from buildtools.run import Run
from buildtools.schedule import all_ended
from buildtools.services import Services
from buildtools.stages.archives import store_archives
from buildtools.stages.images import folders, push_images, repository, rfc3339
from buildtools.stages.planned import Planned
from buildtools.version import Version

Value = TypeVar("Value")

_CHECKS = 8


def preflight(run: Run, services: Services, checkout: Checkout) -> None:
    """Everything that could stop a release, found out before anything costs; all complaints at once.

    :raises Conflict: the version is released from another commit.
    :raises BuildToolsError: with every failure.
    """
    names = [folder.name for folder in folders(run, checkout)]
    with ThreadPoolExecutor(max_workers=_CHECKS) as pool:
        of_store = pool.submit(_errors, lambda: services.store.check_access())
        errors = _errors(lambda: services.registry.ping())
        if not errors:
            accesses = [partial(services.registry.check_push_access, repository(run, name)) for name in names]
            errors = [error for some in pool.map(_errors, accesses) for error in some]
        errors += of_store.result()
    if errors:
        failures = Failures(errors)
        count = len(failures.errors)
        raise failures.combined(f"preflight failed ({count} errors)", "fix the errors above and run again")
    existing = None if checkout.version.dirty else released(services, checkout.version)
    if existing and existing.commit != checkout.version.commit:
        release.refuse_other_content(replace(existing, commit=checkout.version.commit), existing)


def stage(run: Run, services: Services, checkout: Checkout) -> Release:
    """Send images and archives up side by side; what came of it, as read back, is the release.

    No tag of the version is set and no archive sent before all images and all archives are made, and the version is
    claimed: one that cannot be finished leaves its names free for the one that corrects it.

    :raises Conflict: the version is claimed by another commit.
    :raises Refused: what was made may not be what the commit says, for the tree has changed meanwhile.
    """
    made = Barrier(2, action=None if checkout.version.dirty else partial(_claim, run, services, checkout.version))
    with ThreadPoolExecutor(max_workers=2) as pool:
        images = pool.submit(_side, made, partial(push_images, run, services, checkout))
        archives = pool.submit(_side, made, partial(store_archives, run, services, checkout))
        all_ended((images, archives))
        errors = [error for side in (images, archives) if (error := side.exception())]
    if errors:
        # A side that only stopped waiting for the other one has nothing to say of its own.
        causes = [error for error in errors if not isinstance(error, BrokenBarrierError)]
        expected = [error for error in causes if isinstance(error, BuildToolsError)]
        if len(expected) != len(causes) or not expected:
            raise next((error for error in causes if error not in expected), errors[0])
        raise Failures(expected).combined(
            "neither images nor archives are complete", "fix the errors above and run again"
        )
    version = checkout.version
    return Release(
        version.text,
        version.commit,
        rfc3339(checkout.committed),
        tuple(
            ReleasedImage(
                image.name,
                run.settings.registry,
                repository(run, image.name),
                version.image_tag,
                image.digest,
                image.fingerprint,
            )
            for image in images.result()
        ),
        archives.result(),
    )


def commit(services: Services, version: Version, staged: Release) -> tuple[Release, bool]:
    """Write the manifest, which makes the version exist; the release, and whether this wrote it or it was there before.

    What two agents built of the same inputs may differ in its bytes. The manifest says whose is released, and a tag
    that the other one moved goes back to it.

    :raises Conflict: the version is released with other content.
    """
    if services.store.create(release.manifest_key(version), staged.manifest(), "application/json"):
        return staged, True
    existing = released(services, version)
    if existing is None:
        raise BuildToolsError(f"{manifest_location(services, version)} was deleted while it was written", "run again")
    ours = {image.name: image for image in staged.images}
    same = {
        image.name: image
        for image in existing.images
        if image.name in ours and replace(image, digest=ours[image.name].digest) == ours[image.name]
    }
    release.refuse_other_content(replace(staged, images=tuple(same.get(name, ours[name]) for name in ours)), existing)
    for name, image in same.items():
        if image != ours[name]:
            move_tag(services.registry, image.repository, image.tag, image.digest)
    return existing, False


def point(run: Run, services: Services, version: Version, staged: Release) -> tuple[str, ...]:
    """Move the moving tags that this version takes over; those that were moved.

    A newer version that was released meanwhile gets them back: it may have moved them first.
    """
    patterns = run.settings.moving_tags
    if not patterns:
        return ()
    moved = []
    tags = release.moving_tags(patterns, version, list(_released_versions(services)))
    for tag in tags:
        for image in staged.images:
            if tag_digest(services.registry, image.repository, tag) != image.digest:
                move_tag(services.registry, image.repository, tag, image.digest)
                moved.append(f"{image.registry}/{image.repository}:{tag}")
    # A release writes its manifest before it moves a tag, so whoever moves one last sees all that are newer.
    for later in _released_versions(services) if moved else ():
        if later > version and not set(tags).isdisjoint(release.moving_tags(patterns, later, ())):
            newer = released(services, later)
            moved += point(run, services, later, newer) if newer else ()
    return tuple(dict.fromkeys(moved))


def _released_versions(services: Services) -> Iterator[Version]:
    """Every version that has a manifest; what else lies there is left alone."""
    for stored in services.store.list("releases/"):
        path = PurePosixPath(stored.key)
        with suppress(Refused):
            version = Version.parse(path.stem)
            if stored.key != release.manifest_key(version):
                continue
            if "_" not in path.stem:
                yield version
                continue
            # A name has "_" where the version may have "+", and then only the manifest can tell.
            try:
                manifest = released(services, version)
            except Unreachable:
                raise
            except BuildToolsError:
                continue
            if manifest:
                yield Version.parse(manifest.version)


def released(services: Services, version: Version) -> Release | None:
    """The release of a version, as its manifest tells; None where there is none."""
    content = services.store.read(release.manifest_key(version))
    return Release.parse(content.data, manifest_location(services, version)) if content else None


def manifest_location(services: Services, version: Version) -> str:
    """Where the manifest of a version is, for people."""
    return services.store.location(release.manifest_key(version))


def audit_release(run: Run, services: Services, released: Release, *, deep: bool) -> Audit:
    """A release held against registry and store, several members at once.

    A service that once did not answer is not asked again.
    """
    silent: dict[str, Unreachable] = {}

    def ask(service: str, question: Callable[[], str | None]) -> str | None:
        if service in silent:
            raise silent[service]
        try:
            return question()
        except Unreachable as error:
            silent[service] = error
            raise

    def image_digest(image: ReleasedImage) -> str | None:
        registry = services.registry_at(image.registry)
        try:
            found = read_image(registry, image.repository, image.tag, Cache(run.cache))
        except Damaged:
            return None
        # Each repository is asked for all of its layers: a registry can lose one in one repository alone.
        if found is None or (found.digest == image.digest and not is_whole(registry, image.repository, found.manifest)):
            return None
        return found.digest

    def archive_digest(archive: ReleasedArchive) -> str | None:
        found = services.store.digest(archive.key, deep=deep)
        return f"sha256:{found}" if found else None

    return release.audit(
        released,
        lambda image: ask(image.registry, lambda: image_digest(image)),
        lambda archive: ask("store", lambda: archive_digest(archive)),
    )


def _claim(run: Run, services: Services, version: Version) -> None:
    """Take the version for this commit. A registry lets whoever comes last have a tag; the store lets the first."""
    refuse_dirty(run.settings.root, run.environment)
    if read_version(run.settings.root, run.settings.tag_prefix, run.environment).commit != version.commit:
        raise Refused(f"another commit was checked out while {version} was made", "run again, and leave the tree alone")
    key = f"claims/{version.image_tag}.json"
    claim = json.dumps({"schema": 1, "version": version.text, "commit": version.commit}).encode() + b"\n"
    if services.store.create(key, claim, "application/json"):
        return
    claimant = services.store.read(key)
    if claimant is None or claimant.data != claim:
        raise Conflict(
            f"version {version} is being released from another commit, or was left half done by one",
            f"commit, cut a new version, and publish that; or give the other up: delete {services.store.location(key)}",
        )


def _side(made: Barrier, work: Callable[[Callable[[], object]], Value]) -> Value:
    """What ``work`` gives; it is handed how to wait for the other side, which stops waiting where this one fails."""
    try:
        return work(made.wait)
    except BaseException:
        made.abort()
        raise


def plan_manifest(services: Services, version: Version) -> Planned:
    """What would become of the manifest."""
    exists = not version.dirty and released(services, version) is not None
    action = "not be written" if version.dirty else "be compared" if exists else "be written"
    return Planned(manifest_location(services, version), action)


def _errors(check: Callable[[], Iterable[str] | None]) -> list[BuildToolsError]:
    """What is wrong, by an exception or by a list of complaints."""
    try:
        return [Refused(complaint) for complaint in check() or ()]
    except BuildToolsError as error:
        return [error]
