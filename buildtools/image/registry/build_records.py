"""How long the last builds of an image took, recorded in the registry, where every agent can read it.

A repository has one extra tag for this. It points to a copy of the manifest of the image that was built last, with an
annotation that contains the records: https://github.com/opencontainers/image-spec/blob/main/annotations.md. So it needs
no blob of its own, one request reads it and one writes it, and no digest of a version depends on it.

Nothing that is released depends on it. If two agents write at once, one record is lost; if a registry does not allow
moving a tag, only the first record is kept. Shares are then less even.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from math import inf
from typing import Any

from buildtools import BuildToolsError, Unreachable
from buildtools.frozen import frozen
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import Damaged, Manifest, encode

_TAG = "fp-records"
_ANNOTATION = "lockstep.builds"
# Enough for two branches and a few platforms; a manifest could hold far more.
_MOST_RECORDS = 16


@frozen
class BuildRecord:
    """One build of the image ``name``, in ``seconds``; 0 if unknown.

    ``commit`` is what it was built for, and ``expected`` is what the build before that commit took. From these two, an
    agent that starts late computes the same shares as the agents that started before anything was built.
    """

    name: str
    fingerprint: str
    commit: str
    seconds: float
    expected: float


def read_builds(registry: Registry, repository: str) -> tuple[BuildRecord, ...]:
    """The last builds of an image, newest first; empty if there is no readable record.

    :raises Unreachable: if the registry does not answer.
    """
    try:
        manifest = registry.get_manifest(repository, _TAG)
    except Unreachable:
        raise
    except BuildToolsError:
        return ()
    with suppress(Damaged, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        text = manifest.document["annotations"][_ANNOTATION] if manifest else "[]"
        return tuple(map(_read_record, json.loads(text)))
    return ()


def _read_record(document: Any) -> BuildRecord:
    seconds, expected = float(document["seconds"]), float(document["expected"])
    if not (0 <= seconds < inf and 0 <= expected < inf):
        raise ValueError(f"{seconds} and {expected} are not times")
    return BuildRecord(str(document["name"]), str(document["fingerprint"]), str(document["commit"]), seconds, expected)


def expected_seconds(records: Sequence[BuildRecord], name: str, commit: str) -> float:
    """How long an image took the last time before this commit; 0 if unknown."""
    for record in records:
        if record.name == name and record.commit == commit:
            return record.expected
    return next((each.seconds for each in records if each.name == name and each.seconds), 0.0)


def built_for(records: Sequence[BuildRecord], fingerprint: str) -> str:
    """The commit that an image with this fingerprint was built for; empty if unknown."""
    return next((each.commit for each in records if each.fingerprint == fingerprint), "")


class BuildRecords:
    """Records builds for one ``commit``; does nothing without one. Thread-safe."""

    def __init__(self, registry: Registry, commit: str) -> None:
        self._registry = registry
        self._commit = commit
        # The variants of an image are built at the same time, and share its records.
        self._locks: dict[str, threading.Lock] = {}
        self._written: set[tuple[str, str]] = set()

    def add(self, repository: str, image: Manifest, builds: Mapping[tuple[str, str], float]) -> None:
        """Record builds of an image whose parts are in the repository, unless that was done before.

        ``builds`` has the seconds that each took, by the image's name and its fingerprint.

        :raises Unreachable: if the registry does not answer.
        """
        if not self._commit:
            return
        # Failing to record a build is no reason to fail.
        try:
            with self._locks.setdefault(repository, threading.Lock()):
                if self._written.issuperset(builds):
                    return
                before = read_builds(self._registry, repository)
                records = [
                    BuildRecord(
                        name, fingerprint, self._commit, round(seconds, 1), expected_seconds(before, name, self._commit)
                    )
                    for (name, fingerprint), seconds in builds.items()
                ]
                others = [each for each in before if (each.name, each.fingerprint) not in builds]
                text = json.dumps([asdict(each) for each in (*records, *others)[:_MOST_RECORDS]])
                document = {**image.document, "annotations": {_ANNOTATION: text}}
                self._registry.put_manifest(repository, _TAG, Manifest(image.media_type, encode(document)))
                self._written.update(builds)
        except Unreachable:
            raise
        except BuildToolsError:
            return
