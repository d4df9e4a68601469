"""The version of a checkout with a tag prefix, and the address that is shown of its remote."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildtools import Refused
from buildtools.git.checkout import read_version, refuse_dirty
from tests.conftest import Repository, make_repository

ENVIRONMENT = {"GIT_CONFIG_NOSYSTEM": "1"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = make_repository(tmp_path / "repository")
    repository.commit("First")
    return repository


def test_a_prefix_takes_only_tags_in_which_a_digit_follows_it(repository: Repository) -> None:
    repository.tag("v1.2.3")
    repository.commit("More")
    repository.tag("vendor-drop-7")
    assert "1.2.3" == read_version(repository.path, "v", ENVIRONMENT).base


def test_a_lightweight_tag_is_named_where_it_is_all_there_is(repository: Repository) -> None:
    for name in ("1.10.0", "1.9.0"):
        repository.tag(name, lightweight=True)
    with pytest.raises(Refused, match=r"is reachable from HEAD \(1.10.0 is a lightweight one\): make one with"):
        read_version(repository.path, "", ENVIRONMENT)


@pytest.mark.parametrize(
    ("name", "prefix", "key"), [("v1.2.3", "release-", 'tag_prefix = "v"'), ("1.2.3", "v", 'tag_prefix = ""')]
)
def test_a_prefix_that_no_tag_has_is_refused_with_the_one_that_tags_have(
    repository: Repository, name: str, prefix: str, key: str
) -> None:
    repository.tag(name)
    with pytest.raises(Refused) as refusal:
        read_version(repository.path, prefix, ENVIRONMENT)
    assert (
        f"no annotated tag that starts with {prefix!r} is reachable from HEAD, but there is {name}: "
        f"set {key} under [tool.buildtools]" == str(refusal.value)
    )


def test_a_changed_file_is_named_in_one_line(repository: Repository) -> None:
    (repository.path / "a\nb").write_text("")
    repository.git("add", ".")
    with pytest.raises(Refused, match=r"^the tree is dirty \('a\\nb'\): commit or stash"):
        refuse_dirty(repository.path, ENVIRONMENT)
