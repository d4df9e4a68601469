"""Statements in envelopes, and what is no such thing."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools.crypto.envelope import NotSigned, opened, sealed
from buildtools.crypto.keys import SigningKey
from buildtools.image.registry.simple_signing import ImageSignature
from buildtools.release import Release, ReleasedImage
from buildtools.statement import Origin, contradictions, statement_of
from tests.crypto.test_keys import make_key

KEY = SigningKey.read(make_key("Ed25519"), "key.pem", None)
IMAGE = ReleasedImage("app", "r.example", "w/app", "1.4.2", "sha256:" + "a" * 64, "f" * 64)
RELEASE = Release("1.4.2", "d" * 40, "2026-11-23T08:00:00Z", (IMAGE,), ())
STATEMENT = statement_of(RELEASE, Origin())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "digest", "sha256", "sig", "image", "type"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def test_what_is_sealed_is_opened_by_the_same_key_alone() -> None:
    envelope = sealed(STATEMENT, KEY)
    assert STATEMENT == opened(envelope, KEY.public)
    with pytest.raises(NotSigned, match=r"^it is not signed with the key of verify_key$"):
        opened(envelope, SigningKey.read(make_key("Ed25519"), "other.pem", None).public)


def test_neither_content_nor_type_can_be_changed() -> None:
    document = json.loads(sealed(STATEMENT, KEY))
    changes: list[dict[str, Any]] = [
        {"payload": base64.b64encode(STATEMENT + b" ").decode()},
        {"payloadType": "text/plain"},
        {"signatures": []},
    ]
    for change in changes:
        with pytest.raises(NotSigned):
            opened(json.dumps({**document, **change}).encode(), KEY.public)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["payload", "payloadType", "signatures"]), JSON)
def test_any_other_envelope_is_not_signed(part: str, value: Any) -> None:
    document = {**json.loads(sealed(STATEMENT, KEY)), part: value}
    for content in (json.dumps(document).encode(), json.dumps(value).encode()):
        with pytest.raises(NotSigned):
            opened(content, KEY.public)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["_type", "subject", "predicate", "predicateType", "buildDefinition", "resolvedDependencies"]), JSON
)
def test_any_other_statement_contradicts(part: str, value: Any) -> None:
    document = json.loads(STATEMENT)
    holder = document["predicate"] if part == "buildDefinition" else document
    holder = document["predicate"]["buildDefinition"] if part == "resolvedDependencies" else holder
    if holder[part] != value:
        holder[part] = value
        assert contradictions(json.dumps(document).encode(), RELEASE)
    assert contradictions(json.dumps(value).encode(), RELEASE)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_any_other_payload_is_about_no_image(value: Any) -> None:
    for content in (value, {"critical": value}, {"critical": {"type": value, "image": value}}):
        assert "" == ImageSignature(json.dumps(content).encode(), b"").digest
