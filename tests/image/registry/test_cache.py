from __future__ import annotations

import os
from pathlib import Path

from buildtools.image.registry.cache import Cache
from buildtools.image.registry.manifest import digest_of


def test_what_cannot_be_remembered_leaves_nothing_behind(tmp_path: Path) -> None:
    # A folder in its place is what even root cannot write over.
    occupied = tmp_path / "configs" / digest_of(b"{}").replace(":", "-")
    occupied.mkdir(parents=True)
    cache = Cache(tmp_path)
    cache.remember_config(b"{}")
    assert (None, [occupied]) == (cache.config(digest_of(b"{}")), [*occupied.parent.iterdir()])


def test_of_too_many_configurations_the_newest_stay(tmp_path: Path) -> None:
    cache, bodies = Cache(tmp_path), [str(number).encode() for number in range(11)]
    for number, body in enumerate(bodies):
        cache.remember_config(body)
        os.utime(tmp_path / "configs" / digest_of(body).replace(":", "-"), (number, number))
    cache.trim(11)
    assert bodies == [cache.config(digest_of(body)) for body in bodies]
    cache.trim(10)
    assert [*[None] * 6, *bodies[6:]] == [cache.config(digest_of(body)) for body in bodies]
