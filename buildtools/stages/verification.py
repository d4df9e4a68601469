"""Whether releases still match their manifests: which releases to check, and how each member is looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from buildtools import Unreachable
from buildtools.archive.checksums import Checksums
from buildtools.audit import Audit, Incomplete, Verification, audit
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.lookup import ImageLookup, KnownParts, StoredImage
from buildtools.image.registry.manifest import Damaged, Manifest
from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.stages import releases
from buildtools.stages.signatures import proofs
from buildtools.task_context import TaskContext


def verify_named(task: TaskContext, names: Sequence[str], *, deep: bool) -> Verification:
    """The audits of the releases that these versions and channels name.

    :raises Refused: if one of them names no release.
    :raises BuildToolsError: if a manifest cannot be read.
    """
    named = [releases.named_release(task, name) for name in dict.fromkeys(names)]
    return Verification(audit_releases(task, named, deep=deep))


def verify_all(task: TaskContext, *, deep: bool) -> Verification:
    """The audits of all releases; an unreadable manifest is one of the failures."""
    readable, unreadable = releases.read_releases(task)
    return Verification(audit_releases(task, readable, deep=deep), tuple(unreadable))


def audit_releases(task: TaskContext, subjects: Sequence[Release], *, deep: bool = False) -> tuple[Audit, ...]:
    """Look up every member of these releases in registry and store; with ``deep``, read every archive."""
    return MemberLookup(task, deep=deep).audit(subjects)


class MemberLookup:
    """Looks up the members of releases in registry and store, several at once.

    A service that failed to answer once is not asked again. ``stored`` are the repositories whose image this run has
    stored, each with the parts that its registry is known to have: it took the image's manifest, so what several of
    them share is asked for once. Layers that are ``to_mount`` are not asked for: the registry tells then whether it has
    them. After the audit of one release, ``manifests`` has what the tag of each image points to, by its name, and
    ``members``, if that is an index, what was read of those that it lists, by digest. ``parts`` are the configurations
    that were read of images to mount.
    """

    def __init__(
        self,
        task: TaskContext,
        *,
        deep: bool = False,
        stored: Mapping[str, KnownParts] = MappingProxyType({}),
        to_mount: bool = False,
    ) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.members: dict[str, Mapping[str, Manifest]] = {}
        self.parts = KnownParts()
        self._task = task
        self._deep = deep
        self._stored = stored
        self._to_mount = to_mount
        self._cache = Cache(task.run.cache)
        self._silent: dict[str, Unreachable] = {}
        # Each repository is asked for all of its layers, because a registry can lose one in one repository only; but
        # only once, because most layers of one release are also in the next.
        self._parts: dict[tuple[str, str], KnownParts] = {}

    def audit(self, subjects: Sequence[Release]) -> tuple[Audit, ...]:
        """Look up every member of these releases."""
        return audit(
            subjects,
            lambda image: self._ask(image.registry, partial(self._image_digest, image)),
            lambda archive: self._ask("store", partial(self._archive_digest, archive)),
            lambda release: proofs(self._task, release, self._ask),
        )

    def _ask(self, service: str, question: Callable[[], str | None]) -> str | None:
        if service in self._silent:
            raise self._silent[service]
        try:
            return question()
        except Unreachable as error:
            self._silent[service] = error
            raise

    def _image_digest(self, image: ReleasedImage) -> str | None:
        registry, repository = self._task.services.registry_at(image.registry), image.repository
        parts = self._stored.get(repository) or self._parts.setdefault(
            (image.registry, repository), self.parts if self._to_mount else KnownParts()
        )
        lookup = ImageLookup(registry, self._cache, parts)
        try:
            manifest = registry.get_manifest(repository, image.tag)
            digest, variants = lookup.variants_of(repository, manifest) or ("", {})
        except Damaged:
            return None
        if manifest:
            self.manifests[image.name] = manifest
            manifests = [
                each for variant in variants.values() if variant for each in (variant.manifest, *variant.attestations)
            ]
            self.members[image.name] = {each.digest: each for each in manifests}

        def is_complete(variant: StoredImage | None) -> bool:
            return variant is not None and (self._to_mount or lookup.is_whole(repository, variant))

        incomplete = [
            platform for platform, variant in variants.items() if digest == image.digest and not is_complete(variant)
        ]
        if incomplete:
            raise Incomplete(f"parts for {', '.join(incomplete)}" if len(variants) > 1 else "")
        return digest or None

    def _archive_digest(self, archive: ReleasedArchive) -> str | None:
        checksums = Checksums(archive.size, archive.sha256, archive.composite)
        current = self._task.services.store.digest(archive.key, checksums, deep=self._deep)
        return f"sha256:{current}" if current else None
