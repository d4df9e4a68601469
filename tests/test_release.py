from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildtools import BuildToolsError, Conflict
from buildtools.release import (
    Release,
    ReleasedArchive,
    ReleasedImage,
    archive_key,
    manifest_key,
    moving_tags,
    refuse_other_content,
)
from buildtools.version import Version

BASE = ReleasedImage("base", "r.example", "w/base", "1.4.2", "sha256:" + "a" * 64, "f" * 64)
APP = ReleasedImage("app", "r.example", "w/app", "1.4.2", "sha256:" + "b" * 64)
DAEMON = ReleasedArchive("daemon", "daemon/daemon-1.4.2.tgz", 10, "c" * 64)
RELEASE = Release("1.4.2", "d" * 40, "2026-11-23T08:00:00Z", (BASE, APP), (DAEMON,))


def test_a_manifest_gives_its_release_back() -> None:
    parsed = Release.parse(RELEASE.manifest(), "releases/1.4.2.json")
    assert ((APP, BASE), (DAEMON,)) == (parsed.images, parsed.archives)
    assert () == RELEASE.differences(parsed)


def test_the_order_of_members_does_not_change_the_manifest() -> None:
    assert RELEASE.manifest() == replace(RELEASE, images=(APP, BASE)).manifest()


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"<html>", "is not a release manifest"),
        (b"[]", "is not a release manifest"),
        (b'{"schema": 99}', "schema 99"),
        (b'{"schema": 1, "version": "1"}', "damaged"),
    ],
)
def test_what_is_not_a_manifest_is_told_apart(manifest: bytes, said: str) -> None:
    with pytest.raises(BuildToolsError, match=said):
        Release.parse(manifest, "releases/1.4.2.json")


DOCUMENT = json.loads(RELEASE.manifest())
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "a b", "[", "h:99999"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
PLACES = [
    *((key,) for key in DOCUMENT),
    *((kind, 0) for kind in ("images", "archives")),
    *((kind, 0, key) for kind in ("images", "archives") for key in DOCUMENT[kind][0]),
]


@given(place=st.sampled_from(PLACES), value=ANYTHING)
def test_a_manifest_with_anything_anywhere_is_a_release_or_an_expected_error(
    place: tuple[Any, ...], value: object
) -> None:
    document = inner = json.loads(RELEASE.manifest())
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with suppress(BuildToolsError):
        parsed = Release.parse(json.dumps(document).encode(), "releases/1.4.2.json")
        # What was taken can be compared, shown and written again, as it stands there.
        assert document == json.loads(parsed.manifest())
        ", ".join(parsed.differences(RELEASE)).encode()


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("images",), 5, "images cannot be '5'"),
        (("archives",), {}, "archives cannot be"),
        (("images", 0), "app", "damaged"),
        (("images", 0, "digest"), None, "digest cannot be 'None'"),
        (("images", 0, "registry"), "h:99999", "registry cannot be 'h:99999'"),
        (("archives", 0, "size"), True, "size cannot be"),
        (("version",), "", "'' is not a version"),
        (("version",), "1\ud800", "version cannot be"),
    ],
)
def test_a_member_of_a_wrong_type_is_named(place: tuple[Any, ...], value: object, said: str) -> None:
    document = inner = json.loads(RELEASE.manifest())
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(BuildToolsError) as caught:
        Release.parse(json.dumps(document).encode(), "releases/1.4.2.json")
    assert "releases/1.4.2.json is a damaged release manifest" in caught.value.fact
    assert said in caught.value.fact


def test_a_document_that_is_nested_without_end_is_not_a_manifest() -> None:
    with pytest.raises(BuildToolsError, match="is not a release manifest"):
        Release.parse(b"[" * 200_000, "releases/1.4.2.json")


def test_the_same_content_from_another_registry_name_is_the_same_release() -> None:
    refuse_other_content(replace(RELEASE, images=(replace(BASE, registry="alias.example"), APP)), RELEASE)


def test_other_content_is_refused_and_every_difference_named() -> None:
    other = replace(RELEASE, commit="e" * 40, images=(replace(BASE, digest="sha256:" + "0" * 64),), archives=())
    with pytest.raises(Conflict) as caught:
        refuse_other_content(other, RELEASE)
    for part in ("commit dddddddddddd", "image base sha256:aaaaaaaaaaaa", "image app", "archive daemon"):
        assert part in caught.value.fact


def test_keys_carry_name_and_version() -> None:
    version = Version.parse("1.4.2")
    assert ("releases/1.4.2.json", "daemon/daemon-1.4.2.tgz") == (
        manifest_key(version),
        archive_key("daemon", version),
    )


@pytest.mark.parametrize(
    ("version", "released", "taken"),
    [
        ("1.4.2", [], ("latest", "1.4")),
        ("1.4.2", ["1.4.1", "1.4.2"], ("latest", "1.4")),
        ("1.4.2", ["1.5.0"], ("1.4",)),
        ("1.4.2", ["1.4.3"], ()),
        ("1.4.2", ["1.5.0-rc.1", "nightly"], ("latest", "1.4")),
        ("1.4.2", ["1.4"], ("latest",)),
        ("1.4.2-rc.1", [], ()),
        ("1.4.2-3-gabcdef0", [], ()),
        ("nightly", [], ()),
    ],
)
def test_moving_tags_move_only_forward_and_only_for_releases(
    version: str, released: list[str], taken: tuple[str, ...]
) -> None:
    others = [Version.parse(text) for text in released]
    assert taken == moving_tags(("latest", "{major}.{minor}"), Version.parse(version), others)
