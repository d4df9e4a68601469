"""Gates that a released version has passed, recorded beside its manifest. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from buildtools.frozen import frozen
from buildtools.json_document import encode_document, parse_document, value_of
from buildtools.release import GATES, Release, manifest_key
from buildtools.version import Version

GATES_SCHEMA = 1


@frozen
class Gates:
    """The gates that a version, released from ``commit``, has passed. ``names`` is sorted."""

    version: str
    commit: str
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, release: Release) -> Gates:
        """The record of a release that has passed no gate yet."""
        return cls(release.version, release.commit)

    def with_gate(self, name: str) -> Gates:
        """The record with one more gate; equal if it was passed before."""
        return replace(self, names=tuple(sorted({*self.names, name})))

    def document(self) -> bytes:
        """The document in the store: equal records have equal bytes."""
        fields = {"version": self.version, "commit": self.commit, "gates": list(self.names)}
        return encode_document(GATES_SCHEMA, fields)

    @classmethod
    def parse(cls, content: bytes, where: str) -> Gates:
        """The record that a document describes; ``where`` names the document in messages.

        :raises BuildToolsError: if it is not a record of gates, or has a schema that this version does not know.
        """
        return parse_document(content, where, "record of gates", GATES_SCHEMA, cls._of)

    @classmethod
    def _of(cls, document: Mapping[str, Any]) -> Gates:
        names = value_of(document, "gates", "list")
        return cls(
            Version.parse(value_of(document, "version", "str")).text,
            value_of(document, "commit", "str"),
            tuple(value_of({"gate": name}, "gate", "str") for name in names),
        )


def gates_key(version: Version) -> str:
    """The key of a version's record of gates, relative to the artifacts' prefix."""
    return manifest_key(version).removesuffix(".json") + GATES
