"""A release: its members, its manifest, and how it compares with another release. Pure.

A version exists only if its manifest exists; the manifest names every image by digest and every archive by checksum.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, field, fields
from pathlib import PurePosixPath
from typing import Any, TypeVar

from buildtools import Conflict, Refused
from buildtools.frozen import frozen
from buildtools.json_document import encode_document, parse_document, value_of
from buildtools.version import Version

MANIFEST_SCHEMA = 1
# The suffix of the object beside a manifest that records which gates its version has passed.
GATES = ".gates.json"
PRUNES = "prunes/"


@frozen
class ReleasedImage:
    """An image of a release. ``digest`` is that of its manifest in the registry, ``fingerprint`` that of its inputs."""

    name: str
    registry: str
    repository: str
    tag: str
    digest: str
    fingerprint: str = ""

    @property
    def reference(self) -> str:
        """``registry/repository:tag``, for display."""
        return f"{self.registry}/{self.repository}:{self.tag}"


@frozen
class ReleasedArchive:
    """An archive of a release. ``key`` is relative to the artifacts' prefix, ``size`` is in bytes, ``sha256`` is hex.

    ``composite`` is the checksum that S3 computes, so that one request verifies the archive. Earlier manifests lack it.
    """

    name: str
    key: str
    size: int
    sha256: str
    composite: str = field(default="", compare=False)


@frozen
class Release:
    """The images and archives of one version. ``created`` is the commit's time (RFC 3339).

    So the same commit gives the same manifest. ``attestation`` is the digest of the signed statement about the release;
    empty if it is not signed.
    """

    version: str
    commit: str
    created: str
    images: tuple[ReleasedImage, ...]
    archives: tuple[ReleasedArchive, ...]
    attestation: str = ""

    def manifest(self) -> bytes:
        """The release manifest: JSON with keys and members sorted, so that equal releases have equal bytes."""
        document = {
            "version": self.version,
            "commit": self.commit,
            "created": self.created,
            "images": [asdict(image) for image in sorted(self.images, key=lambda image: image.name)],
            "archives": [asdict(archive) for archive in sorted(self.archives, key=lambda archive: archive.name)],
            **({"attestation": self.attestation} if self.attestation else {}),
        }
        return encode_document(MANIFEST_SCHEMA, document)

    @classmethod
    def parse(cls, manifest: bytes, where: str) -> Release:
        """The release that a manifest describes; ``where`` names the manifest in messages.

        :raises BuildToolsError: if it is not a manifest, or has a schema that this version does not know.
        """
        return parse_document(manifest, where, "release manifest", MANIFEST_SCHEMA, cls._of)

    @classmethod
    def _of(cls, document: Mapping[str, Any]) -> Release:
        return cls(
            Version.parse(value_of(document, "version", "str")).text,
            value_of(document, "commit", "str"),
            value_of(document, "created", "str"),
            tuple(_member(ReleasedImage, image) for image in value_of(document, "images", "list")),
            tuple(_member(ReleasedArchive, archive) for archive in value_of(document, "archives", "list")),
            value_of(document, "attestation", "str") if "attestation" in document else "",
        )

    def differences(self, other: Release) -> tuple[str, ...]:
        """How ``other``, which is not released yet, differs, one clause each; empty if the content is equal."""
        differences = []
        if self.version != other.version:
            differences.append(_difference("version", self.version, other.version))
        if self.commit != other.commit:
            differences.append(_difference("commit", self.commit[:12], other.commit[:12]))
        ours, theirs = _contents(self), _contents(other)
        for member in sorted(ours.keys() | theirs.keys()):
            mine, yours = ours.get(member, "absent"), theirs.get(member, "absent")
            if mine != yours:
                differences.append(_difference(member, _short(mine), _short(yours)))
        return tuple(differences)


def _difference(what: str, released: str, here: str) -> str:
    return f"{what} {released} is released, {here} is here"


Member = TypeVar("Member", ReleasedImage, ReleasedArchive)


def _member(kind: type[Member], document: Mapping[str, Any]) -> Member:
    # Fields that are not compared are newer; an earlier manifest lacks them.
    keys = {part.name: str(part.type) for part in fields(kind) if part.compare or part.name in document}
    return kind(**{key: value_of(document, key, type_name) for key, type_name in keys.items()})


def _contents(release: Release) -> dict[str, str]:
    return {
        **{f"image {image.name}": image.digest for image in release.images},
        **{f"archive {archive.name}": f"sha256:{archive.sha256}" for archive in release.archives},
    }


def _short(digest: str) -> str:
    algorithm, colon, value = digest.partition(":")
    return f"{algorithm}:{value[:12]}" if colon else digest


def manifest_key(version: Version) -> str:
    """The key of a version's manifest, relative to the artifacts' prefix."""
    return f"releases/{version.image_tag}.json"


def version_of(key: str) -> Version | None:
    """The version whose manifest has this key, or None. Characters that a tag cannot have appear as ``_``."""
    try:
        version = None if key.endswith(GATES) else Version.parse(PurePosixPath(key).stem)
    except Refused:
        return None
    return version if version and key == manifest_key(version) else None


def claim_key(version: Version) -> str:
    """The key of a version's claim, which says which commit the version is for, relative to the artifacts' prefix."""
    return f"claims/{version.image_tag}.json"


def prunes_of(version: Version) -> str:
    """The prefix of the keys of the records that exist while a version is being pruned, one for each run."""
    return f"{PRUNES}{version.image_tag}/"


def attestation_key(digest: str) -> str:
    """The key of the signed statement with this digest, relative to the artifacts' prefix."""
    return f"attestations/{digest.removeprefix('sha256:')}.json"


def archive_key(name: str, version: Version) -> str:
    """The key of a distribution's archive, relative to the artifacts' prefix."""
    return f"{name}/{version.archive_name(name)}"


def refuse_other_content(ours: Release, existing: Release) -> None:
    """Raise :class:`Conflict` unless both releases have the same content.

    :raises Conflict: if they differ; a released version never changes.
    """
    differences = existing.differences(ours)
    if differences:
        raise Conflict(
            f"version {existing.version} is already released with other content ({'; '.join(differences)})",
            "a released version never changes; commit, cut a new one with `invoke release`, and publish that",
        )


def moving_tags(patterns: Iterable[str], version: Version, released: Collection[Version]) -> tuple[str, ...]:
    """The moving tags that ``version`` takes over: those for which it is the newest released version.

    A pattern may contain ``{major}``, ``{minor}`` and ``{patch}``. A pre-release, or a commit after a tag, takes none.
    A tag that is another released version, such as ``1.4``, never moves.
    """
    numbers = _numbers(version)
    if not version.is_release or numbers is None:
        return ()
    tags = []
    for pattern in patterns:
        tag = pattern.format(**numbers)
        if any(other.image_tag == tag and other.text != version.text for other in released):
            continue
        rivals = [
            other
            for other in released
            if other.is_release and (parts := _numbers(other)) is not None and pattern.format(**parts) == tag
        ]
        if all(other <= version for other in rivals):
            tags.append(tag)
    return tuple(tags)


def _numbers(version: Version) -> dict[str, str] | None:
    import semver

    try:
        number = semver.Version.parse(version.base)
    except ValueError:
        return None
    if number.prerelease:
        return None
    return {"major": str(number.major), "minor": str(number.minor), "patch": str(number.patch)}
