from __future__ import annotations

import random

import pytest

from buildtools import Refused
from buildtools.version import Version

IN_ORDER = (
    "nightly",
    "1.4.2-rc",
    "1.4.2-rc.2",
    "1.4.2-rc.10",
    "1.4.2-rc.10-4-gabcdef0",
    "1.4.2-rc9",
    "1.4.2-rc10",
    "1.4.2",
    "1.4.2-dirty",
    "1.4.2-3-gabcdef0",
    "1.4.2-12-gabcdef0",
    "1.4.3-rc.1",
    "1.4.3",
    "1.10.0",
    "2.0.0",
)


def test_versions_sort_as_releases_follow_each_other() -> None:
    shuffled = [Version.parse(text) for text in IN_ORDER]
    random.Random(7).shuffle(shuffled)
    assert list(IN_ORDER) == [version.text for version in sorted(shuffled)]


@pytest.mark.parametrize(
    "text", [*IN_ORDER, "1.4.2-3-gabcdef0-dirty", "1.4.2-0-gabcdef0", "release/1.2", "1.0.0+build.7"]
)
def test_a_parsed_version_gives_its_text_back(text: str) -> None:
    assert text == Version.parse(text).text


@pytest.mark.parametrize(
    ("text", "tag"),
    [("1.4.2", "1.4.2"), ("release/1.2", "release_1.2"), ("1.0.0+build.7", "1.0.0_build.7"), ("1.0-ü", "1.0-_")],
)
def test_what_an_image_tag_cannot_hold_becomes_an_underscore(text: str, tag: str) -> None:
    assert tag == Version.parse(text).image_tag


@pytest.mark.parametrize("text", ["", "-1.0", ".hidden", "x" * 129])
def test_a_text_that_can_never_be_a_tag_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        Version.parse(text)


def test_archive_and_root_folder_carry_name_and_version() -> None:
    version = Version.parse("1.4.2-3-gabcdef0")
    assert "logdaemon-1.4.2-3-gabcdef0.tgz" == version.archive_name("logdaemon")
    assert "logdaemon-1.4.2-3-gabcdef0" == version.root_name("logdaemon")


@pytest.mark.parametrize(
    ("text", "is_release"), [("1.4.2", True), ("1.4.2-dirty", False), ("1.4.2-1-gabcdef0", False), ("1.4.2-rc.1", True)]
)
def test_only_a_clean_tagged_commit_is_a_release(text: str, is_release: bool) -> None:
    assert is_release == Version.parse(text).is_release
