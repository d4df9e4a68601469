"""A folder that holds versions of a release, one of which is the current one.

``FOLDER/VERSION`` appears by one rename, when all of it is there. ``FOLDER/current`` is a symbolic link to one of them,
and is replaced by one rename. A run that is killed leaves the version that was current, and folders with a name of
their own, which the next run deletes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from buildtools import BuildToolsError, Refused

CURRENT = "current"
_PREFIX = ".fetch-"


class Deployment:
    """The folder at ``path``, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def current(self) -> str:
        """The name of the current version; empty where there is none.

        :raises Refused: there is something else in the link's place.
        """
        link = self.path / CURRENT
        if not link.is_symlink():
            if link.exists():
                raise Refused(f"{link} is not a symbolic link", "move it away, or fetch into another folder")
            return ""
        return str(link.readlink())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """A context in which nobody else changes the folder; it is made if need be, and freed of what others left.

        :raises BuildToolsError: it cannot be written.
        """
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Some network file systems have no locks. The lock ends with the process, however that ends.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._delete_leftovers()
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A new folder to put a version together in, deleted at the end unless it was renamed."""
        with self._writing():
            folder = Path(tempfile.mkdtemp(dir=self.path, prefix=_PREFIX))
            folder.chmod(0o755)
        try:
            with self._writing():
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def install(self, new: Path, version: str) -> None:
        """Give a version that was put together its place; where it is there already, what it lacks."""
        place = self.path / version
        if place.exists():
            for part in new.iterdir():
                part.rename(place / part.name)
        else:
            new.rename(place)

    def switch(self, version: str) -> None:
        """Make a version the current one."""
        with self._writing():
            link = self.path / f"{_PREFIX}{CURRENT}"
            link.symlink_to(version)
            link.replace(self.path / CURRENT)

    def _delete_leftovers(self) -> None:
        for path in self.path.glob(f"{_PREFIX}*"):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = error.filename or self.path
            raise BuildToolsError(
                f"{place} cannot be written ({error.strerror})", "correct it and run the same again"
            ) from None
