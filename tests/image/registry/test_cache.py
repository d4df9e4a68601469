from __future__ import annotations

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
