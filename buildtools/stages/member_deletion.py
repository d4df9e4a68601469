"""Delete the members of versions that are no longer released, and nothing that another release needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.gates import gates_key
from buildtools.image.registry.lookup import ImageLookup, fingerprint_tag, tag_digest
from buildtools.image.registry.manifest import FINGERPRINT_LABEL, Damaged, Manifest
from buildtools.image.registry.simple_signing import signature_tag
from buildtools.release import Release, ReleasedImage, attestation_key, claim_key
from buildtools.schedule import QUESTIONS_AT_ONCE, all_ended
from buildtools.task_context import TaskContext
from buildtools.version import Version

# A request that deletes something; False if the service does not support that.
_Deletion = Callable[[], bool | None]


@frozen
class NeededMembers:
    """What the releases that remain need: keys of archives, digests of statements, and images by repository."""

    archives: frozenset[str]
    attestations: frozenset[str]
    images: Mapping[str, Sequence[ReleasedImage]]

    @classmethod
    def of(cls, releases: Iterable[Release]) -> NeededMembers:
        """The needs of these releases."""
        archives: set[str] = set()
        attestations: set[str] = set()
        images: dict[str, list[ReleasedImage]] = {}
        for release in releases:
            archives.update(archive.key for archive in release.archives)
            attestations.add(release.attestation)
            for image in release.images:
                images.setdefault(image.repository, []).append(image)
        return cls(frozenset(archives), frozenset(attestations), images)


@frozen
class _Digests:
    """The manifests to delete with an image, in this order: a registry may refuse to delete what an index lists.

    What is found by means of the image itself comes before it: a run that is killed in between leaves it to the next.
    """

    beside: tuple[str, ...]
    own: tuple[str, ...]
    entries: tuple[str, ...]


class MemberDeletion:
    """Deletes members of releases; threads may delete those of several. ``pool`` sends the requests."""

    def __init__(self, task: TaskContext, pool: ThreadPoolExecutor) -> None:
        self._task = task
        self._pool = pool
        self._fingerprints: dict[tuple[str, str, str], frozenset[str]] = {}

    def delete(self, release: Release, needs: NeededMembers, records: Sequence[str]) -> None:
        """Delete all members of a release that no other release needs, and last the records with these keys.

        If these are gone, another run has deleted the rest, and who publishes the version again has new members. That
        is looked for before each group of requests that are then sent at once.
        """
        store, version = self._task.services.store, Version.parse(release.version)
        looks = [self._pool.submit(self._digests, image, needs) for image in release.images]
        all_ended(looks)
        digests = list(zip(release.images, [look.result() for look in looks], strict=True))
        others: list[_Deletion] = [
            partial(store.delete, archive.key) for archive in release.archives if archive.key not in needs.archives
        ]
        if release.attestation and release.attestation not in needs.attestations:
            others.append(partial(store.delete, attestation_key(release.attestation)))
        undeletable: set[str] = set()

        def of_image(image: ReleasedImage, some: Iterable[str]) -> list[_Deletion]:
            return [partial(self._delete_manifest, image, digest, undeletable) for digest in some]

        # Who commits a version relies on the claim: as long as it is there, so are the members.
        steps = (
            [*others, *(each for image, some in digests for each in of_image(image, some.beside))],
            [each for image, some in digests for each in of_image(image, some.own)],
            [each for image, some in digests for each in of_image(image, some.entries)],
            [partial(store.delete, gates_key(version)), partial(store.delete, claim_key(version))],
        )
        for step in steps:
            for start in range(0, len(step), QUESTIONS_AT_ONCE):
                if not any(map(store.head, records)):
                    return
                self._send(step[start : start + QUESTIONS_AT_ONCE])
        if names := sorted(undeletable):
            more = f" and {len(names) - 1} more" if names[1:] else ""
            fact = f"the registry does not delete, so images of {version} stay: {names[0]}{more}"
            self._task.run.report(Warned("", fact))
        for key in records:
            store.delete(key)

    def _send(self, requests: Iterable[_Deletion]) -> None:
        answers = [self._pool.submit(request) for request in requests]
        all_ended(answers)
        for answer in answers:
            answer.result()

    def _delete_manifest(self, image: ReleasedImage, digest: str, undeletable: set[str]) -> None:
        if not self._task.services.registry_at(image.registry).delete_manifest(image.repository, digest):
            undeletable.add(image.reference)

    def _digests(self, image: ReleasedImage, needs: NeededMembers) -> _Digests:
        """The image, what its tag points to, its signatures, and the image with its fingerprint, if nobody needs them.

        The registry's own garbage collection deletes layers that no image names.
        """
        registry, repository = self._task.services.registry_at(image.registry), image.repository
        others = needs.images.get(repository, ())
        in_use = {other.digest for other in others}
        at_tag = registry.get_manifest(repository, image.tag)
        is_own = at_tag is not None and at_tag.digest == image.digest
        own = at_tag if is_own else registry.get_manifest(repository, image.digest)
        fingerprints = self._fingerprints_of(image, own)
        fingerprints_in_use = {other.fingerprint for other in others}
        if fingerprints != {image.fingerprint}:
            fingerprints_in_use.update(*(self._fingerprints_of(other) for other in others))
        tags = map(fingerprint_tag, sorted(fingerprints - fingerprints_in_use - {""}))
        builds = [registry.get_manifest(repository, tag) for tag in tags]
        signature = None if image.digest in in_use else tag_digest(registry, repository, signature_tag(image.digest))

        def without_needed(digests: Iterable[str | None]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(each for each in digests if each and each not in in_use))

        # What an index lists has the labels of its version or of its fingerprint, so no other index lists it.
        manifests = [each for each in (at_tag, own, *builds) if each]
        versions = without_needed(each.digest for each in (at_tag, own) if each)
        beside = without_needed([*(each.digest for each in builds if each), signature])
        return _Digests(
            tuple(each for each in beside if each not in versions),
            versions,
            without_needed(entry for each in manifests if each.digest not in in_use for entry in _entries(each)),
        )

    def _fingerprints_of(self, image: ReleasedImage, manifest: Manifest | None = None) -> frozenset[str]:
        """The fingerprint of an image, or those of its variants for several platforms; read once."""
        key = image.registry, image.repository, image.digest
        if key not in self._fingerprints:
            self._fingerprints[key] = self._read_fingerprints(image, manifest)
        return self._fingerprints[key]

    def _read_fingerprints(self, image: ReleasedImage, manifest: Manifest | None) -> frozenset[str]:
        registry, repository = self._task.services.registry_at(image.registry), image.repository
        with suppress(Damaged):
            manifest = manifest or registry.get_manifest(repository, image.digest)
            if manifest and manifest.is_index:
                variants = ImageLookup(registry, self._task.registry_cache).variants_of(repository, manifest)
                if variants and len(variants[1]) > 1:
                    return frozenset(each.labels.get(FINGERPRINT_LABEL, "") for each in variants[1].values() if each)
        return frozenset({image.fingerprint})


def _entries(manifest: Manifest) -> tuple[str, ...]:
    """The digests of the manifests that an index lists; none for anything else."""
    with suppress(Damaged):
        return tuple(entry.digest for entry in manifest.entries) if manifest.is_index else ()
    return ()
