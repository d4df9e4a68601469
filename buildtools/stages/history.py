"""All versions that the store knows, newest first.

Two listings show which versions are released and which are only claimed. The members of a version are in its manifest,
which never changes; it is read once and cached as long as the listing shows the same ETag.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from hashlib import sha256
from pathlib import Path, PurePosixPath

from buildtools import BuildToolsError, Refused
from buildtools.channel import Channel
from buildtools.files import write_atomically
from buildtools.frozen import frozen
from buildtools.release import Release, moving_tags, version_of
from buildtools.stages.channels import read_channels
from buildtools.stages.releases import release_at
from buildtools.task_context import TaskContext
from buildtools.version import Version

_RELEASES, _CLAIMS = "releases/", "claims/"


class VersionState(Enum):
    """How far a version has come."""

    RELEASED = "released"
    CLAIMED = "claimed"
    UNREADABLE = "unreadable"


@frozen
class HistoryEntry:
    """One version. ``created`` is its commit's date, RFC 3339; ``images`` and ``archives`` are names.

    Of a claimed version only the commit is known, and of an unreadable manifest only the ``reason``. ``signed`` is
    whether the manifest names a statement; only ``verify`` checks who signed it. ``moving_tags`` are those it has as
    the newest version, ``channels`` those that point to it.
    """

    version: str
    state: VersionState
    commit: str = ""
    created: str = ""
    images: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    signed: bool = False
    moving_tags: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    reason: str = ""


def read_history(task: TaskContext) -> tuple[HistoryEntry, ...]:
    """All released or claimed versions, newest first.

    :raises Unreachable: if the store does not answer.
    """
    store = task.services.store
    manifests = {entry.key: entry.etag for entry in store.list(_RELEASES) if _is_about_version(entry.key)}
    # A version with a manifest does not need its claim read.
    claims = [
        entry.key
        for entry in store.list(_CLAIMS)
        if _is_about_version(entry.key) and entry.key.replace(_CLAIMS, _RELEASES, 1) not in manifests
    ]
    cache = _ManifestCache(task.run.cache / "manifests", store.location(_RELEASES))
    missing = [key for key, etag in manifests.items() if cache.get(key, etag) is None]
    keys = [*missing, *claims]
    # It may have been deleted after it was listed.
    contents = {key: each.data for key, each in zip(keys, store.read_all(keys), strict=True) if each}
    for key in contents.keys() & manifests.keys():
        cache.add(key, manifests[key], contents[key])
    cache.save(manifests)
    releases = {key: _parse(key, cache.get(key, etag), store.location(key)) for key, etag in manifests.items()}
    tags = _tags(task, [each for each in releases.values() if isinstance(each, Release)])
    channels = read_channels(task)
    entries = [
        *(_release_entry(key, each, tags, channels) for key, each in releases.items() if each),
        *(_claim_entry(key, contents[key]) for key in claims if key in contents),
    ]
    return tuple(sorted(entries, key=lambda entry: Version.parse(entry.version), reverse=True))


def _is_about_version(key: str) -> bool:
    """Whether an object is a manifest or a claim; other objects may be beside them."""
    return version_of(key.replace(_CLAIMS, _RELEASES, 1)) is not None


def _parse(key: str, manifest: bytes | None, location: str) -> Release | BuildToolsError | None:
    try:
        return release_at(key, manifest, location) if manifest else None
    except BuildToolsError as error:
        return error


def _release_entry(
    key: str, content: Release | BuildToolsError, tags: Mapping[str, tuple[str, ...]], channels: Iterable[Channel]
) -> HistoryEntry:
    if isinstance(content, BuildToolsError):
        return HistoryEntry(PurePosixPath(key).stem, VersionState.UNREADABLE, reason=content.fact)
    return HistoryEntry(
        content.version,
        VersionState.RELEASED,
        content.commit,
        content.created,
        tuple(image.name for image in content.images),
        tuple(archive.name for archive in content.archives),
        bool(content.attestation),
        tags.get(content.version, ()),
        tuple(channel.name for channel in channels if channel.moves[-1].version == content.version),
    )


def _claim_entry(key: str, content: bytes) -> HistoryEntry:
    try:
        claim = json.loads(content)
        version, commit = Version.parse(claim["version"]).text, str(claim["commit"])
    except (ValueError, KeyError, TypeError, Refused):
        return HistoryEntry(PurePosixPath(key).stem, VersionState.UNREADABLE, reason=f"{key} is not a claim")
    return HistoryEntry(version, VersionState.CLAIMED, commit)


def _tags(task: TaskContext, releases: Iterable[Release]) -> dict[str, tuple[str, ...]]:
    """The moving tags of each version: a tag belongs to the newest version that it fits, unless it is a version."""
    holders: dict[str, str] = {}
    versions = sorted(Version.parse(each.version) for each in releases)
    for version in versions:
        holders |= dict.fromkeys(moving_tags(task.settings.moving_tags, version, ()), version.text)
    for version in versions:
        holders.pop(version.image_tag, None)
    return {text: tuple(tag for tag, holder in holders.items() if holder == text) for text in set(holders.values())}


class _ManifestCache:
    """Manifests by key and ETag, in one file for each store. A damaged entry is read from the store again."""

    def __init__(self, folder: Path, location: str) -> None:
        self._path = folder / f"{sha256(location.encode()).hexdigest()[:16]}.json"
        self._entries: dict[str, tuple[str, str]] = {}
        self._is_changed = False
        with suppress(OSError, ValueError, TypeError, AttributeError):
            for key, (etag, checksum, text) in json.loads(self._path.read_bytes()).items():
                if sha256(text.encode()).hexdigest() == checksum:
                    self._entries[key] = etag, text

    def get(self, key: str, etag: str) -> bytes | None:
        cached_etag, text = self._entries.get(key, ("", ""))
        return text.encode() if etag and cached_etag == etag else None

    def add(self, key: str, etag: str, content: bytes) -> None:
        self._entries[key] = etag, content.decode("utf-8", "replace")
        self._is_changed = True

    def save(self, keys: Iterable[str]) -> None:
        """Write the new entries, and drop those whose key is not among ``keys``."""
        entries = {key: self._entries[key] for key in keys if key in self._entries}
        if self._is_changed:
            document = {key: (etag, sha256(text.encode()).hexdigest(), text) for key, (etag, text) in entries.items()}
            with suppress(OSError):
                write_atomically(self._path, json.dumps(document).encode())
