"""The fixtures of image tests, for faults that strike while images are pushed."""

from __future__ import annotations

from tests.image.conftest import cache, connected, make_image, namespace

__all__ = ["cache", "connected", "make_image", "namespace"]
