"""The signed statement about a release: an in-toto statement with all members as subjects, and SLSA provenance.

A signed manifest could not be promoted, because it names places. So the statement contains everything in a manifest
except the places, and a manifest is valid if it agrees with the statement. Nothing in it depends on when or where
``publish`` ran: the same commit gives the same statement. Pure.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

import json
from typing import Any

from buildtools import __version__
from buildtools.frozen import frozen
from buildtools.release import Release
from buildtools.version import Version

_STATEMENT = "https://in-toto.io/Statement/v1"
_PROVENANCE = "https://slsa.dev/provenance/v1"
_TOOL = "pkg:pypi/lockstep-buildtools"
_BUILD = f"{_TOOL}#publish"


@frozen
class Origin:
    """Where a release came from, beyond its commit: the URL of its repository, its tag, and the tag's object.

    Each is empty if there is none.
    """

    source: str = ""
    tag: str = ""
    tag_object: str = ""


def statement_of(release: Release, origin: Origin) -> bytes:
    """The statement about a release; equal releases have equal bytes."""
    document = {
        "_type": _STATEMENT,
        "subject": _subjects(release),
        "predicateType": _PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD,
                "externalParameters": {"version": release.version},
                "resolvedDependencies": _sources(release, origin),
            },
            "runDetails": {
                "builder": {"id": _TOOL, "version": {"lockstep-buildtools": __version__}},
                # The same as the claim of the version: all runs for one commit are one invocation.
                "metadata": {"invocationId": f"{release.version}@{release.commit}"},
            },
        },
    }
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def contradictions(statement: bytes, release: Release) -> tuple[str, ...]:
    """Where a manifest contradicts the statement about its release, one clause each; empty if it agrees."""
    try:
        document = json.loads(statement)
        if (document["_type"], document["predicateType"]) != (_STATEMENT, _PROVENANCE):
            return ("it is another kind of statement",)
        definition = document["predicate"]["buildDefinition"]
        version = definition["externalParameters"]["version"]
        source = definition["resolvedDependencies"][0]
        commit, created = source["digest"]["gitCommit"], source["annotations"]["created"]
        signed, ours = ({_text(each) for each in subjects} for subjects in (document["subject"], _subjects(release)))
        names = sorted({json.loads(each)["name"] for each in signed ^ ours})
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return ("it cannot be read",)
    if len(ours) != len(release.images) + len(release.archives):
        return ("the manifest names a member twice",)
    members = [f"{name} is {_difference(name, signed, ours)}" for name in names]
    values = {
        "version": (version, release.version),
        "commit": (commit, release.commit),
        "date": (created, release.created),
    }
    others = [f"the {key} is another one" for key, (theirs, mine) in values.items() if theirs != mine]
    return (*others, *members)


def _difference(name: str, signed: set[str], ours: set[str]) -> str:
    in_signed, in_ours = (any(json.loads(each)["name"] == name for each in subjects) for subjects in (signed, ours))
    return "another one" if in_signed and in_ours else "missing in the manifest" if in_signed else "not signed"


def _subjects(release: Release) -> list[dict[str, Any]]:
    """The members, with names that are unique and the same in every place."""
    version = Version.parse(release.version)
    images = [
        {
            "name": f"{image.name}:{image.tag}",
            "digest": {"sha256": image.digest.removeprefix("sha256:")},
            # The digest of all that went into it.
            "annotations": {"fingerprint": image.fingerprint},
        }
        for image in sorted(release.images, key=lambda image: image.name)
    ]
    archives = [
        {
            "name": version.archive_name(archive.name),
            "digest": {"sha256": archive.sha256},
            # A store's own checksum stands for the content, so it is signed too.
            "annotations": {"size": archive.size, "composite": archive.composite},
        }
        for archive in sorted(release.archives, key=lambda archive: archive.name)
    ]
    return [*images, *archives]


def _sources(release: Release, origin: Origin) -> list[dict[str, Any]]:
    """What the release was made from: its commit, and the tag of that commit."""
    uri = {"uri": f"git+{origin.source}" if "://" in origin.source else origin.source} if origin.source else {}
    commit = {**uri, "digest": {"gitCommit": release.commit}, "annotations": {"created": release.created}}
    tag = {**uri, "name": f"refs/tags/{origin.tag}", "digest": {"gitTag": origin.tag_object}}
    return [commit, tag] if origin.tag_object else [commit]


def _text(subject: Any) -> str:
    return json.dumps(subject, sort_keys=True)
