"""Several builders as one.

Theory of operation. The builders know nothing of each other, and need not: each pushes what it builds into the same
registry, and takes parents from there by digest. So where an image is built does not change the result, only the time.
That depends on which builder has the steps of the last build in its cache, and on which is free.

* **Who can.** Each builder is asked once, before the first build, for which platforms it can run programs. An image
  goes to builders whose own platform is that of the image; without any, to those that emulate it; without those, to any
  builder, because an image whose build runs nothing needs neither. A Dockerfile that reads ``BUILDPLATFORM`` and the
  like needs a builder with that platform, because its value is part of the fingerprint.
* **Who has the cache.** Each builder gets a number for each image, a digest of both names, and the highest one wins
  (rendezvous hashing, D. Thaler and C. Ravishankar, 1998). The number is computed and stored nowhere, and the same on
  every machine. If a builder joins or leaves, only the images move that it wins or had won.
* **Who is free.** A builder works on up to ``jobs`` images at once. Of those that are free, the one with the highest
  number gets the image: waiting for a builder while another is idle takes longer than it saves.
* **Who is lost.** A builder that cannot be used or trusted, whose connection breaks, that falls silent, or whose disk
  is full is not used again in this run. Its images are built elsewhere, once: an image that has cost two builders may
  itself be the reason. A build that *fails* has a result, and would fail anywhere. If only the output of its command
  says that a disk is full, another builder tries: if that one can build it, the first one's disk was full.

There is no queue and no state beyond the run. Two runs share builders as two users do; each keeps to its ``jobs``.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from buildtools import BuildToolsError, Cancelled, Refused, Unreachable
from buildtools.events import Report, Step, Warned
from buildtools.image.builder import BuildRequest
from buildtools.image.engine.buildkit.failure import DISK_FULL, FREE_SPACE, BuildFailed
from buildtools.image.engine.client import UnusableEngine
from buildtools.platform import Platform
from buildtools.schedule import side_by_side

_BUILD_PLATFORM = re.compile(rb"\bBUILD(?:PLATFORM|OS|ARCH|VARIANT)\b")
_FULL = Unreachable("its disk is full", FREE_SPACE)
# Seconds between two checks for cancellation.
_PATIENCE = 0.2


def reads_build_platform(dockerfile: bytes) -> bool:
    """Whether the platform of its builder may be part of an image's fingerprint."""
    return _BUILD_PLATFORM.search(dockerfile) is not None


class Site(Protocol):
    """A builder that pushes what it builds; see :class:`~buildtools.image.builders.sites.BuildSite`."""

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms to build for: those configured, else those whose programs it can run, its own first.

        :raises Unreachable: if there is no answer.
        :raises UnusableEngine: if it does not trust us, we do not trust it, or it is no builder.
        """

    @property
    def keeps_content(self) -> bool:
        """Whether it can store attestations and caches.

        :raises: like ``platforms``
        """

    def push_build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        """Build an image and push it into the request's repository; returns its digest."""


class BuilderPool:
    """Builds at several sites, named as in messages; ``jobs`` is how many builds each takes at once.

    It may be shared between threads, each with one image to build. ``losses`` has the reason for each lost builder.
    """

    def __init__(self, sites: Mapping[str, Site], jobs: Mapping[str, int]) -> None:
        self._sites = dict(sites)
        self._left = {name: jobs[name] for name in sites}
        self._change = threading.Condition()
        self._asking = threading.Lock()
        self._platforms: dict[str, tuple[Platform, ...]] = {}
        self._keeping: set[str] = set()
        self.losses: dict[str, BuildToolsError] = {}
        self._places: dict[str, str] = {}

    @property
    def keeps_content(self) -> bool:
        """Whether every builder that is left can store attestations and caches."""
        self.ask()
        return self._keeping >= self._platforms.keys() - self.losses.keys()

    def push_build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        """Build an image at one of the sites, which pushes it; returns its digest.

        :raises BuildFailed: if it could not be built.
        :raises Cancelled: if ``cancelled`` was set.
        :raises Refused: if the request names something that does not exist, or no builder may be used.
        :raises Unreachable: if no builder is left that can build it, or two were lost while building it.
        """
        self.ask()
        platform = request.platform or request.native
        lost_for_it, doubtful = "", ""
        while True:
            name = self._take(request, cancelled, doubtful)
            report(Step(request.name, f"on {name}"))
            self._places[request.name] = name
            try:
                digest = self._sites[name].push_build(replace(request, platform=platform), report, cancelled)
            except (Unreachable, UnusableEngine, BuildFailed) as error:
                if loss := _loss(error):
                    self._lose(name, loss)
                    if lost_for_it:
                        raise Unreachable(
                            f"{request.name}: {lost_for_it} and {name} were lost while they built it ({error.fact})",
                            "look at their logs, then run the same command again",
                        ) from None
                    lost_for_it = name
                    report(Warned(request.name, f"{name} was lost ({loss.fact}); it is built elsewhere"))
                elif doubtful or not _says_disk_full(error) or not self._others(request, name):
                    raise
                else:
                    # A command may also fill a disk of its own, such as a tmpfs. Another builder can tell.
                    doubtful = name
                    report(Warned(request.name, f"the disk of {name} may be full; it is built elsewhere"))
            else:
                if doubtful:
                    self._lose(doubtful, _FULL)
                return digest
            finally:
                self._give_back(name)

    def place_of(self, image: str) -> str:
        """The builder that an image was last given to; empty if there was none."""
        return self._places.get(image, "")

    def preferred(self, request_name: str, platform: str, native: str, content: bytes) -> str:
        """The builder that an image goes to if all are free; empty if none is left."""
        self.ask()
        with self._change:
            able = self._able(platform or native, native, content)
        return _by_number(able, request_name, platform or native)[0] if able else ""

    def ask(self) -> None:
        """Ask all builders what they can do, once; one that does not answer, or cannot be used, is lost.

        :raises Refused: if something on this machine is wrong, such as the name of a context.
        """
        with self._asking:
            names = [name for name in self._sites if name not in self._platforms and name not in self.losses]
            if not names:
                return

            def ask(name: str) -> None:
                site = self._sites[name]
                try:
                    # Also where the platforms are configured, so that it is lost before it gets a build.
                    if site.keeps_content:
                        self._keeping.add(name)
                    self._platforms[name] = site.platforms
                except (Unreachable, UnusableEngine) as error:
                    self._lose(name, error)

            side_by_side([partial(ask, name) for name in names], jobs=len(names))

    def _others(self, request: BuildRequest, name: str) -> list[str]:
        with self._change:
            return [each for each in self._able_to_build(request) if each != name]

    def _able_to_build(self, request: BuildRequest) -> list[str]:
        content = request.content if request.content is not None else request.dockerfile.read_bytes()
        platform = request.platform or request.native
        return _by_number(self._able(platform, request.native, content), request.name, platform)

    def _take(self, request: BuildRequest, cancelled: threading.Event, doubtful: str) -> str:
        """Wait for a free builder that can build the image, and is not ``doubtful`` if there is another."""
        with self._change:
            while not cancelled.is_set():
                able = self._able_to_build(request)
                if not able:
                    # Without the image's name, so that all images together say it once.
                    reasons = "; ".join(loss.fact for loss in self.losses.values())
                    others = len(self._platforms.keys() - self.losses.keys())
                    kind = f" of {request.native}, as a BUILDPLATFORM wants it," if others else ""
                    fact = f"no builder{kind} is left ({reasons})"
                    if all(isinstance(loss, Refused) for loss in self.losses.values()):
                        raise Refused(fact, "correct that, and run again")
                    raise Unreachable(fact, "run again when one answers")
                for name in [each for each in able if each != doubtful] or able:
                    if self._left[name] > 0:
                        self._left[name] -= 1
                        return name
                self._change.wait(_PATIENCE)
        raise Cancelled(f"{request.name}: the build was cancelled")

    def _able(self, platform: str, native: str, content: bytes) -> list[str]:
        left = {name: [*map(str, each)] for name, each in self._platforms.items() if name not in self.losses}
        is_bound = reads_build_platform(content)
        of_that = [name for name, platforms in left.items() if platforms[:1] == [native if is_bound else platform]]
        # The fingerprint of a bound one says what another builder would not be.
        if of_that or is_bound:
            return of_that
        return [name for name, platforms in left.items() if platform in platforms] or [*left]

    def _lose(self, name: str, loss: BuildToolsError) -> None:
        with self._change:
            self.losses.setdefault(name, loss)
            self._change.notify_all()

    def _give_back(self, name: str) -> None:
        with self._change:
            self._left[name] += 1
            self._change.notify_all()


def _by_number(names: Sequence[str], image: str, platform: str) -> list[str]:
    """Builders by their number for an image, highest first."""

    def number(name: str) -> bytes:
        return hashlib.sha256("\0".join((name, image, platform)).encode()).digest()

    return sorted(names, key=number, reverse=True)


def _loss(error: BuildToolsError) -> BuildToolsError | None:
    """Why the builder is to blame rather than the build; None if it is not."""
    if isinstance(error, BuildFailed):
        return _FULL if DISK_FULL.search(error.reason) else None
    return error


def _says_disk_full(error: BuildToolsError) -> bool:
    return isinstance(error, BuildFailed) and any(DISK_FULL.search(line) for line in error.log)
