"""Make a version from images that a registry has: the part of a push that writes, and needs only the registry.

Each image is in its repository once, as it was built, under the tag of its fingerprint. A version is that same image
with labels written into its configuration: its layers are neither built nor sent again. So a new version of an
unchanged image needs no engine, and costs two writes: the configuration, and the manifest under the version's tag.

A registry has no conditional write, and the last writer of a tag wins. So the tag is read right before it is set, and
again right after. Two agents that make the same version of one commit then agree on the image that is read back; an
agent of another commit finds labels that are not its own, and stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from buildtools import BuildToolsError
from buildtools.events import Report, Warned
from buildtools.image.reference import Reference, image_name
from buildtools.image.registry.image_to_push import ImageToPush, PushedImage, PushRoute
from buildtools.image.registry.lookup import StoredImage, prune_fingerprints
from buildtools.image.registry.manifest import Manifest, digest_of, stamp
from buildtools.image.registry.stamping import stamped_image
from buildtools.image.registry.version_lookup import Images, VersionLookup, variants_index
from buildtools.settings import MediaTypes


class VersionTagger:
    """Makes the version that ``lookup`` looks up, with manifests of these ``media_types``.

    The labels of the version are stamped into every image.
    """

    def __init__(
        self, lookup: VersionLookup, media_types: MediaTypes, report: Report, pool: ThreadPoolExecutor
    ) -> None:
        self._lookup = lookup
        self._registry = lookup.registry
        self._labels = lookup.labels
        self._cache = lookup.cache
        self._media_types = media_types
        self._report = report
        self._pool = pool
        self._versions: dict[ImageToPush, StoredImage] = {}
        self._early_configs: dict[ImageToPush, Future[str]] = {}

    def put_configs(self, images: Images) -> None:
        """Begin to store the version's configurations of these images, without waiting for the end.

        Nothing names them yet. If the version is not made, the registry's garbage collection deletes them.
        """
        for image, source in images.items():
            if source and image not in self._early_configs:
                config = stamp(source.config, self._labels)
                self._early_configs[image] = self._pool.submit(self._put_config, image, config)

    def _put_config(self, image: ImageToPush, config: bytes) -> str:
        self._cache.remember_config(config)
        return self._registry.put_blob(image.repository, config)

    def stamp(self, image: ImageToPush, source: StoredImage, route: PushRoute) -> PushedImage:
        """Make the version from a stored image, and read it back.

        :raises Conflict: if another commit has made it.
        :raises Overtaken: if another agent has, from another build of this commit.
        """
        version = Reference(self._registry.host, image.repository, self._lookup.tag)
        media_types = MediaTypes.OCI if image.platform else self._media_types
        source = source if image.attested else replace(source, attestations=())
        stamped = stamped_image(source, self._labels, media_types, version, self._registry)
        early = self._early_configs.get(image)
        if early is None or early.exception() or early.result() != stamped.manifest.config.digest:
            self._put_config(image, stamped.config)
        for each in stamped.attestations:
            self._registry.put_manifest(image.repository, each.digest, each)
        if image.platform or stamped.index:
            self._registry.put_manifest(image.repository, stamped.manifest.digest, stamped.manifest)
        if image.platform:
            stamped = replace(stamped, index=None)
        elif not self._set_tag([image], stamped.index or stamped.manifest):
            stamped = self._lookup.theirs(image, stamped)
        return self.pushed_image(image, stamped, route)

    def join(self, images: Sequence[ImageToPush], members: Sequence[PushedImage]) -> PushedImage:
        """Make the version of an image for several platforms, after all its variants: their index gets the tag.

        :raises Conflict: if another commit has made it.
        :raises Overtaken: if another agent has, from another build of this commit.
        """
        first = images[0]
        index = variants_index({image: self._versions[image] for image in images})
        routes = {member.route for member in members}
        is_there = routes == {PushRoute.ALREADY_THERE} and self._lookup.tag_digests[first.repository] == index.digest
        if not is_there and not self._set_tag(images, index):
            index = variants_index({image: self._lookup.theirs(image, self._versions[image]) for image in images})
        fingerprints = sorted(f"{image.platform} {image.fingerprint}" for image in images)
        return PushedImage(
            image_name(first.name),
            self._lookup.reference(first),
            digest_of("\n".join(fingerprints).encode()).removeprefix("sha256:"),
            index.digest,
            sum(member.size for member in members),
            next(route for route in reversed(PushRoute) if route in routes),
        )

    def _set_tag(self, images: Sequence[ImageToPush], manifest: Manifest) -> bool:
        """Point the version's tag to one of these images, or to the index of all; returns whether it does afterwards.

        Another agent may have made the version since the last look, or make it now, unless that look was a moment ago.
        """
        just_looked = self._lookup.is_fresh
        if just_looked or self._lookup.version.dirty or not self._lookup.is_published(images):
            self._registry.put_manifest(images[0].repository, self._lookup.tag, manifest)
        return just_looked or self._lookup.shows(images[0], manifest.digest)

    def pushed_image(self, image: ImageToPush, source: StoredImage, route: PushRoute) -> PushedImage:
        """The result for an image of the version that is in the registry."""
        self._versions[image] = source
        size = sum(layer.size for layer in source.manifest.layers)
        return PushedImage(image.name, self._lookup.reference(image), image.fingerprint, source.digest, size, route)

    def prune(self, images: Iterable[ImageToPush], most: int) -> None:
        """Delete fingerprints above the limit; a denied permission does not fail the push."""
        kept = [image.fingerprint for image in self._versions]

        def prune_one(image: ImageToPush) -> None:
            try:
                prune_fingerprints(self._registry, image.repository, kept, most, self._cache)
            except BuildToolsError as error:
                self._report(Warned(image.name, f"old fingerprints stay in the registry: {error.fact}"))

        # Variants of one image are in one repository.
        self._lookup.each(prune_one, {image.repository: image for image in images}.values())
