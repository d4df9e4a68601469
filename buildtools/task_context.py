"""What one task works with: its request, the services, and the checkout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from buildtools.cancellation import Cancellation
from buildtools.run import Run
from buildtools.services import Services
from buildtools.settings import Settings
from buildtools.version import Version

if TYPE_CHECKING:
    from buildtools.git.checkout import Checkout
    from buildtools.image.folder.folders import ImageFolder
    from buildtools.image.registry.cache import Cache
    from buildtools.platform import Platform


class TaskContext:
    """One task's request (``run``), its ``services``, connected on first use, and its ``checkout``.

    A context manager that closes the services. The checkout is read once, on first use: a run never computes the
    version twice.
    """

    def __init__(self, run: Run, services: Services | None = None, checkout: Checkout | None = None) -> None:
        self.run = run
        self.services = services or Services(run.settings, run.environment, run.cancelled, run.cache)
        self._checkout = checkout
        self._image_folders: tuple[ImageFolder, ...] | None = None
        self._assumed_platform: Platform | None = None

    def __enter__(self) -> TaskContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.services.close()

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        return self.run.settings

    @property
    def checkout(self) -> Checkout:
        """The commit that is checked out.

        :raises Refused: if it has no version.
        """
        if self._checkout is None:
            from buildtools.git.checkout import read_checkout

            settings = self.settings
            self._checkout = read_checkout(settings.root, settings.tag_prefix, settings.remote, self.run.environment)
        return self._checkout

    @property
    def version(self) -> Version:
        """The version of the checkout."""
        return self.checkout.version

    @property
    def registry_cache(self) -> Cache:
        """What this machine remembers about registries; a dry run adds nothing to it."""
        from buildtools.image.registry.cache import Cache

        return Cache(self.run.cache, learn=not self.run.dry_run)

    def image_folders(self) -> tuple[ImageFolder, ...]:
        """The image folders that the task is about, in build order. They are read once.

        :raises Refused: if one of them cannot be read, or the configuration does not fit them.
        """
        return self.read_image_folders() if self._image_folders is None else self._image_folders

    def read_image_folders(self) -> tuple[ImageFolder, ...]:
        """Read the image folders again, because they may have changed; :meth:`image_folders` returns these from now on.

        :raises Refused: if one of them cannot be read, or the configuration does not fit them.
        """
        from buildtools.image.folder.folders import image_folders

        self._image_folders = image_folders(
            self.settings,
            self.version,
            self.run.only,
            builder=self.build_platform,
            proxies=self.services.build_proxies,
        )
        return self._image_folders

    @property
    def build_platform(self) -> Platform | None:
        """The platform of images that have none configured; None if the builder does not say, and none is assumed."""
        return self.services.build_platform or self._assumed_platform

    def assume_platform(self, platform: Platform) -> None:
        """Read the image folders for a builder of this platform, since the builder does not say what its own is."""
        self._assumed_platform = platform
        self.read_image_folders()

    def about(self, only: Sequence[str]) -> TaskContext:
        """The same task, restricted to these image folders and their parents."""
        return TaskContext(replace(self.run, only=tuple(only)), self.services, self._checkout)

    def until(self, stopped: Cancellation) -> TaskContext:
        """The same task, which ends as if it were cancelled when ``stopped`` is set."""
        self.run.cancelled.stops(stopped.set)
        task = TaskContext(replace(self.run, cancelled=stopped), self.services, self._checkout)
        task._image_folders, task._assumed_platform = self._image_folders, self._assumed_platform
        return task

    def with_checkout(self, checkout: Checkout) -> TaskContext:
        """The same task with the same services, about another checkout."""
        return TaskContext(self.run, self.services, checkout)
