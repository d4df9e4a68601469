"""What has to be built and why, and which of several agents builds what.

The shares are those of :mod:`buildtools.partition`, over the images that this commit is the first to need. Each agent
computes them from the contents of the registry, which change while other agents work. So "stale now" is not enough: an
image that was already built for this commit counts too, with the build time that was known before that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.image.reference import image_name
from buildtools.image.registry.build_records import BuildRecord, built_for, expected_seconds, read_builds
from buildtools.image.registry.image_to_push import PushedImage
from buildtools.image.survey import BuildState, ImageStatus
from buildtools.partition import Partition, Share, partition
from buildtools.schedule import side_by_side
from buildtools.stages import images
from buildtools.stages.image_names import repository
from buildtools.task_context import TaskContext

_JOBS = 8
_SHARD = re.compile("([0-9]{1,4})/([0-9]{1,4})")
# What an image is taken to need as long as none was ever built.
_USUAL_SECONDS = 20.0


@frozen
class Shard:
    """One of ``count`` shares, numbered from 1; with ``parents``, one of the first wave.

    ``plan`` is a file with the shares, relative to the project's root; without one they are computed.
    """

    index: int
    count: int
    parents: bool = False
    plan: str = ""

    @classmethod
    def parse(cls, text: str, *, parents: bool = False, plan: str = "") -> Shard:
        """The share that ``text`` names; the second of four is ``2/4``.

        :raises Refused: if it is not a share.
        """
        match = _SHARD.fullmatch(text)
        index, count = map(int, match.groups()) if match else (0, 0)
        if not 0 < index <= count:
            raise Refused(f"--shard {text} is not a share", "say which one of how many: the second of four is 2/4")
        return cls(index, count, parents, plan)


@frozen
class PlannedBuild:
    """An image that this commit is the first to need. ``is_built`` is True if another agent has built it meanwhile.

    ``seconds`` is what it took last time, 0 if unknown. ``first_wave`` and ``shares`` are the numbers of the shares
    that contain it, from 1.
    """

    name: str
    is_built: bool
    why: tuple[str, ...]
    seconds: float
    first_wave: tuple[int, ...] = ()
    shares: tuple[int, ...] = ()


@frozen
class BuildPlan:
    """The images that a version of a commit builds, parents first, and the number of other images.

    ``partition`` is empty unless shares were requested.
    """

    version: str
    commit: str
    builds: tuple[PlannedBuild, ...]
    others: int
    partition: Partition = field(default_factory=lambda: Partition((), ()))


def read_plan(task: TaskContext, count: int = 0) -> BuildPlan:
    """What a push would build, divided into ``count`` shares if that is not 0.

    :raises Conflict: if the version exists with other content.
    """
    images.learn_platform(task)
    statuses = images.survey_folders(task)
    agenda = _Agenda(task, statuses, with_built=bool(count))
    division = agenda.partition(count) if count else Partition((), ())
    # Listing an engine's images is slow, and images in the registry need no reason.
    here = {each.name: each for each in images.statuses_here(task, statuses)} if agenda.stale else {}
    first_wave, shares = _holders(division.first_wave), _holders(division.shares)
    builds = tuple(
        PlannedBuild(
            each.name,
            each.name not in agenda.stale,
            agenda.why(here.get(each.name, each)),
            agenda.seconds(each),
            first_wave.get(each.folder.image, ()),
            shares.get(each.folder.image, ()),
        )
        for each in agenda.statuses
    )
    others = {each.folder.image for each in statuses} - {each.folder.image for each in agenda.statuses}
    return BuildPlan(task.version.text, task.version.commit, builds, len(others), division)


def push_share(task: TaskContext, shard: Shard) -> tuple[PushedImage, ...]:
    """Push one share of the version.

    Images that other shares contain too come first. The first agent to push such an image wins, and all agents build
    the rest on its result.

    :raises Refused: if the plan is not one of this version with that many shares.
    """
    index, parents = shard.index, shard.parents
    if shard.plan:
        division = _read_partition(task, shard.plan, shard.count)
        graph: dict[str, set[str]] = {}
        for folder in task.image_folders():
            graph.setdefault(folder.image, set()).update(map(image_name, folder.parents))
    else:
        agenda = _Agenda(task, images.complete_survey(task), with_built=True)
        division, graph = agenda.partition(shard.count), agenda.parents
    shares = division.first_wave if parents else division.shares
    names = set(shares[index - 1].names) if shares else set()
    elsewhere = {*division.duplicates, *(() if parents else _names(division.first_wave))}
    results: dict[str, PushedImage] = {}
    for group in (_with_parents(names, graph) & elsewhere, names):
        if group:
            results |= {image.name: image for image in images.push_images(task.about(sorted(group)))}
    return tuple(results.values())


def _read_partition(task: TaskContext, path: str, count: int) -> Partition:
    """The shares in a file that ``plan --shards N --json`` wrote."""
    remedy = f"write one: `buildtools plan --shards {count} --json`"
    try:
        document = json.loads((task.settings.root / path).read_bytes())
        waves = [
            tuple(Share(tuple(map(str, each["names"])), float(each["seconds"])) for each in document["shards"][wave])
            for wave in ("first_wave", "shares")
        ]
        division = Partition(waves[0], waves[1], frozenset(map(str, document["shards"]["duplicates"])))
        commit, version = document["commit"], document["version"]
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror})", remedy) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(f"{path} is not a plan with shares", remedy) from None
    if (version, commit) != (task.version.text, task.version.commit):
        raise Refused(f"{path} is the plan of {version}, and this is {task.version}", remedy)
    if len(division.shares) != count or len(division.first_wave) not in (0, count):
        raise Refused(f"{path} has {len(division.shares)} shares, not {count}", remedy)
    return division


class _Agenda:
    """The images that this commit is the first to need. The variants of an image stay together."""

    def __init__(self, task: TaskContext, statuses: Sequence[ImageStatus], *, with_built: bool) -> None:
        self._commit = task.version.commit
        self.stale = set(images.unbuilt(task, statuses))
        subjects = statuses if with_built else [each for each in statuses if each.name in self.stale]
        self._records = _read_records(task, {each.folder.image for each in subjects})
        names = {each.folder.image for each in subjects if each.name in self.stale or self._is_ours(each)}
        self.statuses = [each for each in statuses if each.folder.image in names]
        self.parents: dict[str, set[str]] = {}
        for each in self.statuses:
            self.parents.setdefault(each.folder.image, set()).update(map(image_name, each.folder.parents))

    def _is_ours(self, status: ImageStatus) -> bool:
        return built_for(self._records[status.folder.image], status.fingerprint.value) == self._commit

    def seconds(self, status: ImageStatus) -> float:
        return expected_seconds(self._records[status.folder.image], status.name, self._commit)

    def why(self, status: ImageStatus) -> tuple[str, ...]:
        """Why an image has to be built, according to this machine or else the registry; empty if it is up to date."""
        if status.name not in self.stale:
            return ()
        if status.state is BuildState.STALE:
            return status.why
        above = [f"built on {parent}, which is built again" for parent in status.folder.parents if parent in self.stale]
        last = next((each for each in self._records[status.folder.image] if each.commit != self._commit), None)
        return tuple(above) or (f"changed since it was built for {last.commit[:12]}" if last else "never built before",)

    def partition(self, count: int) -> Partition:
        seconds = dict.fromkeys(self.parents, 0.0)
        for each in self.statuses:
            seconds[each.folder.image] += self.seconds(each)
        times = sorted(filter(None, seconds.values()))
        # An image that was never built counts as much as the median.
        usual = times[len(times) // 2] if times else _USUAL_SECONDS
        return partition(self.parents, {name: each or usual for name, each in seconds.items()}, count)


def _with_parents(names: Collection[str], graph: Mapping[str, Collection[str]]) -> set[str]:
    closure: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in closure and name in graph:
            closure.add(name)
            waiting += graph[name]
    return closure


def _read_records(task: TaskContext, names: Iterable[str]) -> Mapping[str, tuple[BuildRecord, ...]]:
    places = {name: repository(task, name) for name in names}
    questions = [partial(read_builds, task.services.registry, place) for place in places.values()]
    return dict(zip(places, side_by_side(questions, jobs=_JOBS), strict=True))


def _holders(wave: Sequence[Share]) -> dict[str, tuple[int, ...]]:
    """The numbers of the shares that hold each name, from 1."""
    holders: dict[str, tuple[int, ...]] = {}
    for number, share in enumerate(wave, 1):
        holders |= {name: (*holders.get(name, ()), number) for name in share.names}
    return holders


def _names(wave: Iterable[Share]) -> set[str]:
    return {name for share in wave for name in share.names}
