"""A folder with fetched versions of a release, one of which is current.

``FOLDER/VERSION`` appears complete, by one rename. ``FOLDER/current`` is a symbolic link to one of the versions,
replaced by one rename. A killed run leaves the current version as it was, and temporary folders that the next run
deletes.
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
from buildtools.files import is_at

CURRENT = "current"
_PREFIX = ".fetch-"


class Deployment:
    """The folder at ``path``, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def current(self) -> str:
        """The name of the current version; empty if there is none.

        :raises Refused: if something other than a link is in the link's place.
        """
        link = self.path / CURRENT
        if not link.is_symlink():
            if link.exists():
                raise Refused(f"{link} is not a symbolic link", "move it away, or fetch into another folder")
            return ""
        return str(link.readlink())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """A context in which no other run changes the folder. It creates the folder if needed, and deletes leftovers.

        If it fails, it deletes the folders that it created and that are still empty.

        :raises BuildToolsError: if the folder cannot be written.
        """
        with self._writing():
            new = [path for path in (self.path, *self.path.parents) if not path.exists()]
        descriptor = self._open_and_lock()
        try:
            self._delete_leftovers()
            yield
        except BaseException:
            with suppress(OSError):
                for path in new:
                    path.rmdir()
            raise
        finally:
            os.close(descriptor)

    def _open_and_lock(self) -> int:
        while True:
            with self._writing():
                self.path.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            # Some network file systems have no locks. The operating system drops the lock when the process ends.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The previous holder of the lock may have deleted the folder.
            if is_at(self.path, descriptor):
                return descriptor
            os.close(descriptor)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A new temporary folder to assemble a version in, deleted at the end unless it was renamed."""
        with self._writing():
            folder = Path(tempfile.mkdtemp(dir=self.path, prefix=_PREFIX))
            folder.chmod(0o755)
        try:
            with self._writing():
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def install(self, new: Path, version: str) -> None:
        """Rename an assembled version to its final place; if the version exists there, add the parts that it lacks."""
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
                f"{place} cannot be written ({error.strerror})", "correct it and run the same command again"
            ) from None
