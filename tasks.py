"""This repository uses its own tool."""

from buildtools.tasks import namespace

__all__ = ["namespace"]
