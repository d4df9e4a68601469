"""What limits a release of many images: a model of few costs, checked against what was measured.

A version goes through three phases, and each takes as long as whatever is busy longest in it:

* **look**: each agent surveys all folders, and asks the registry two questions for every image. A client works in one
  thread, the registry on all of its processors, for all agents.
* **build**: the shares of :mod:`buildtools.partition`, each played through on a builder of its own: an image begins
  when its parents are there and a slot is free. The layers then go over the registry's line.
* **publish**: one client stamps every image.

The costs are processor seconds of the machine that bench/README.md is about, for one more image between 250 and 1,000.
``MEASURED`` are runs of 20 and of 250, which did not go into them. ``POOL`` is what ``bench.pool`` has measured with
real engines: how much of one builder's time two of them take, on a busy machine and on a quiet one.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.images.tree import LEVELS
from bench.pool.__main__ import IMAGES, JOBS, WAIT
from buildtools.partition import Share, partition


@dataclass(frozen=True)
class Cost:
    """Processor seconds of the client and of the registry."""

    client: float
    registry: float

    def times(self, count: int) -> Cost:
        return Cost(START + self.client * count, self.registry * count)


# What a client takes before it begins.
START = 0.2
PLAN, QUESTION = Cost(0.00096, 0.00165), Cost(0.00045, 0.0015)
UNCHANGED, VERSION = Cost(0.0015, 0.0036), Cost(0.0045, 0.0145)
MEASURED = {
    ("plan", 20): (PLAN, Cost(0.23, 0.04)),
    ("plan", 250): (PLAN, Cost(0.33, 0.23)),
    ("push, unchanged", 20): (UNCHANGED, Cost(0.23, 0.09)),
    ("push, unchanged", 250): (UNCHANGED, Cost(0.54, 0.97)),
    ("push, new version", 20): (VERSION, Cost(0.39, 0.55)),
    ("push, new version", 250): (VERSION, Cost(1.20, 3.70)),
}

POOL = (0.49, 0.55)


@dataclass(frozen=True)
class Site:
    """Where it runs: ``builders`` with so many processors each, and a registry; the line to it in bytes a second."""

    builders: int
    processors: int
    registry_processors: int
    line: float


@dataclass(frozen=True)
class Estimate:
    """The seconds of each phase, and what is busy longest in it."""

    look: tuple[float, str]
    build: tuple[float, str]
    publish: tuple[float, str]

    @property
    def seconds(self) -> float:
        return self.look[0] + self.build[0] + self.publish[0]


def graph(count: int, seed: int = 1) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Three levels as :mod:`bench.reach.project` makes them, and what each image takes: 20 s, some far more."""
    numbers = random.Random(seed)
    counts = [max(1, round(count * share)) for share in LEVELS[:-1]]
    counts.append(count - sum(counts))
    parents: dict[str, list[str]] = {}
    above: list[str] = []
    for level, many in enumerate(counts, 1):
        names = [f"level{level}-{number:05}" for number in range(many)]
        parents |= {name: [above[at % len(above)]] if above else [] for at, name in enumerate(names)}
        above = names
    return parents, {name: numbers.lognormvariate(3.0, 0.7) for name in parents}


def played(share: Share, parents: Mapping[str, Sequence[str]], seconds: Mapping[str, float], slots: int) -> float:
    """When the last image of a share is built, where so many are built at once."""
    own = set(share.names)
    waiting = {name: sum(parent in own for parent in parents[name]) for name in share.names}
    children: dict[str, list[str]] = {}
    for name in share.names:
        for parent in parents[name]:
            children.setdefault(parent, []).append(name)
    ready = [name for name, count in waiting.items() if not count]
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            name = ready.pop(0)
            heapq.heappush(running, (now + seconds[name], name))
        now, name = heapq.heappop(running)
        for child in children.get(name, ()):
            if child in waiting:
                waiting[child] -= 1
                if not waiting[child]:
                    ready.append(child)
    return now


def estimate(
    parents: Mapping[str, Sequence[str]],
    seconds: Mapping[str, float],
    images: int,
    size: float,
    site: Site,
    *,
    one_looks: bool = False,
) -> Estimate:
    """The phases of one version of ``images``, of which those in ``parents`` are to be built, ``size`` bytes each.

    Where ``one_looks`` the others are handed its plan.
    """
    agents = min(site.builders, max(1, len(parents)))
    look = Cost(PLAN.client + QUESTION.client, PLAN.registry + QUESTION.registry).times(images)
    at_registry = look.registry * (1 if one_looks else agents) / site.registry_processors
    division = partition(parents, seconds, agents)
    waves = [wave for wave in (division.first_wave, division.shares) if wave]
    at_builders = sum(max(played(share, parents, seconds, site.processors) for share in wave) for wave in waves)
    on_the_line = sum(len(share.names) for wave in waves for share in wave) * size / site.line
    version = VERSION.times(images)
    return Estimate(
        max((look.client, "client"), (at_registry, "registry")),
        max((at_builders, "builders"), (on_the_line, "line")),
        max((version.client, "client"), (version.registry / site.registry_processors, "registry")),
    )


def show() -> None:
    """Print the check, and the simulation."""
    print("| check | images | client, model and measured | registry, model and measured |")
    print("| --- | --- | --- | --- |")
    for (case, count), (cost, measured) in MEASURED.items():
        said = cost.times(count)
        print(
            f"| {case} | {count} | {said.client:.2f} s, {measured.client:.2f} s "
            f"| {said.registry:.2f} s, {measured.registry:.2f} s |"
        )
    print("\n| check | builders, model and measured |")
    print("| --- | --- |")
    waits = {f"image{number}": float(WAIT) for number in range(IMAGES)}
    one, two = (played(Share(tuple(waits)), dict.fromkeys(waits, ()), waits, JOBS * count) for count in (1, 2))
    print(f"| two builders next to one | {two / one:.2f}, {' to '.join(map(str, POOL))} |")
    print("\n| 10,000 images, 20 MB each | look | build | publish | all |")
    print("| --- | --- | --- | --- | --- |")
    parents, seconds = graph(10_000)
    leaves = {name: list[str]() for name in list(parents)[-500:]}
    site = Site(builders=64, processors=4, registry_processors=8, line=1.25e9)

    def row(case: str, stale: Mapping[str, Sequence[str]], where: Site, *, one_looks: bool = False) -> None:
        result = estimate(stale, seconds, 10_000, 20e6, where, one_looks=one_looks)
        phases = [f"{_time(each)} ({limit})" for each, limit in (result.look, result.build, result.publish)]
        print(f"| {case} | {' | '.join(phases)} | {_time(result.seconds)} |")

    row("all stale, 64 builders", parents, site)
    row("the same, one plan for all", parents, site, one_looks=True)
    row("the same, 16 builders", parents, replace(site, builders=16), one_looks=True)
    row(
        "the same, 64 builders, a registry of 2 processors",
        parents,
        replace(site, registry_processors=2),
        one_looks=True,
    )
    row("the same, a line of 1 Gbit/s", parents, replace(site, line=1.25e8), one_looks=True)
    row("500 leaves stale, one plan for all", leaves, site, one_looks=True)
    row("nothing stale, one agent", {}, replace(site, builders=1))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
