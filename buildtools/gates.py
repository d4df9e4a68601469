"""Gates: what a released version has passed, written down beside its manifest. Pure."""

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
    """The names of the gates that a version, released from ``commit``, has passed, sorted."""

    version: str
    commit: str
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, release: Release) -> Gates:
        """Those of a release that has passed none."""
        return cls(release.version, release.commit)

    def with_gate(self, name: str) -> Gates:
        """The same with one more; equal where it has been passed before."""
        return replace(self, names=tuple(sorted({*self.names, name})))

    def document(self) -> bytes:
        """What lies in the store: equal gates have equal bytes."""
        fields = {"version": self.version, "commit": self.commit, "gates": list(self.names)}
        return encode_document(GATES_SCHEMA, fields)

    @classmethod
    def parse(cls, content: bytes, where: str) -> Gates:
        """The gates that a document describes; ``where`` names the document to the user.

        :raises BuildToolsError: it does not describe any, or is of a schema that this version does not know.
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
    """Where the gates of a version lie, relative to the artifacts' prefix."""
    return manifest_key(version).removesuffix(".json") + GATES
