"""The user's own folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from buildtools.user_folders import cache_folder, home_folder


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/lockstep-buildtools"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/lockstep-buildtools"),
        ({"HOME": "/h"}, "/h/.cache/lockstep-buildtools"),
    ],
)
def test_the_cache_folder_follows_the_xdg_rules(given: Mapping[str, str], expected: str) -> None:
    assert Path(expected) == cache_folder(given)


def test_a_user_without_a_home_has_the_one_that_docker_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    # A user whom the system does not know, as in `docker run --user 12345`.
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.delenv("HOME")
    assert Path("/") == home_folder({})
