"""Divide the work of a graph among agents that cannot talk to each other.

The problem. Some images are stale, each took a known number of seconds to build last time, and some are built from
others. N agents are to build them. An agent cannot wait for another one, which may start late or die. So each agent's
share is closed: with an image it contains all stale parents of that image. A parent that two shares need is built
twice, unless a first wave of shares has built it before.

The answer, :func:`partition`, depends only on the graph, the seconds and N. All ties are broken by name, so agents that
see the same graph compute the same shares.

1. **Sinks.** Only images that no stale image is built from need to be dealt out. The others come along: the closure of
   a sink (itself and all stale images above it) is what it takes to build it.
2. **Dealing.** The sinks are dealt out one by one, the heaviest closure first, each to the share that is lightest with
   it. Only what the share does not contain yet counts, and what other shares contain counts twice. So sinks with common
   parents attract each other.
3. **First wave.** Its candidates are the images that at least two sinks need. An image's weight is its own seconds plus
   those of all images built from it, so no image is heavier than its parents. Therefore "all candidates heavier than T"
   is closed for every T. Those images are dealt out as a wave of their own, by the same rule, and the rest as another.
4. **Choice.** The cheapest option wins: no first wave, or the first wave for one of several T. The cost is the seconds
   until the last share ends, with ``_WAVE_SECONDS`` for one more round of agents, plus the average seconds of work per
   agent. Work that is done twice takes time from somebody else's job, even if nobody waits for it.

How even it is. In each wave, two shares differ by at most twice the heaviest closure of that wave. Proof: look at the
sink that the heaviest share got last, and let L be that share's weight with it. The sink went where this was least, so
any other share would have weighed at least L with it. Dealing it adds at most twice the closure, so every other share
already weighed at least L minus twice the closure; and shares only grow.

The time is proportional to the sinks times (shares + images in a closure), for each T that is tried.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from buildtools.frozen import frozen

# The time one more round of agents needs before it builds: scheduling, checkout, look-ups.
_WAVE_SECONDS = 10.0
# The most thresholds to try; those between two close weights differ little.
_MOST_TRIED = 8


@frozen
class Share:
    """What one agent builds, parents first, and how many seconds that took last time, one after the other."""

    names: tuple[str, ...] = ()
    seconds: float = 0.0


@frozen
class Partition:
    """The shares of all agents. The first wave, if there is one, must end before the others start.

    ``duplicates`` are the names that several shares of one wave contain.
    """

    first_wave: tuple[Share, ...]
    shares: tuple[Share, ...]
    duplicates: frozenset[str] = frozenset()

    @property
    def cost(self) -> float:
        """Seconds until the end plus the average seconds of work per agent; see "Choice" in the module's docstring."""
        waves = [wave for wave in (self.first_wave, self.shares) if wave]
        end = sum(max(share.seconds for share in wave) for wave in waves) + _WAVE_SECONDS * (len(waves) - 1)
        return end + sum(share.seconds for wave in waves for share in wave) / len(self.shares)


def partition(parents: Mapping[str, Collection[str]], seconds: Mapping[str, float], count: int) -> Partition:
    """Divide a graph, whose names are ordered parents first, into ``count`` shares.

    Parents that are not names of the graph count as done.
    """
    # Sort the parents: floating-point sums depend on the order, and every agent must get the same ones.
    graph = {name: sorted(parent for parent in above if parent in parents) for name, above in parents.items()}
    weights = _weights_of_shared(graph, seconds)
    levels = sorted(set(weights.values()), reverse=True)
    # From the heaviest candidates only, in steps down to all of them.
    thresholds = {levels[at * len(levels) // _MOST_TRIED] for at in range(_MOST_TRIED)} if levels else set()
    options = [_two_waves(graph, seconds, count, frozenset())]
    options += [
        _two_waves(graph, seconds, count, frozenset(name for name, weight in weights.items() if weight >= threshold))
        for threshold in sorted(thresholds, reverse=True)
    ]
    return min(options, key=lambda option: option.cost)


def _weights_of_shared(graph: Mapping[str, Collection[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """The weight of each name that at least two sinks need.

    A name that is reached in two ways counts twice, which keeps the order that matters: no child is heavier than its
    parent.
    """
    weights = {name: seconds[name] for name in graph}
    sinks: dict[str, set[str]] = {name: set() for name in graph}
    for name in reversed(list(graph)):
        own = sinks[name] or {name}
        for parent in graph[name]:
            weights[parent] += weights[name]
            # Only whether there are at least two matters, not which.
            sinks[parent] = set(sorted(sinks[parent] | own)[:2])
    return {name: weights[name] for name in graph if len(sinks[name]) > 1}


def _two_waves(
    graph: Mapping[str, Collection[str]], seconds: Mapping[str, float], count: int, first: Collection[str]
) -> Partition:
    waves = [_dealt({name: graph[name] for name in graph if name in first}, seconds, count)] if first else []
    rest = {name: [parent for parent in above if parent not in first] for name, above in graph.items()}
    waves.append(_dealt({name: above for name, above in rest.items() if name not in first}, seconds, count))
    duplicates = frozenset(name for wave in waves for name in _duplicates(wave))
    return Partition(waves[0] if first else (), waves[-1], duplicates)


def _dealt(graph: Mapping[str, Collection[str]], seconds: Mapping[str, float], count: int) -> tuple[Share, ...]:
    """The shares of one wave."""
    inner = {parent for above in graph.values() for parent in above}
    closures = {name: _closure(name, graph) for name in graph if name not in inner}
    full = {name: sum(seconds[each] for each in closure) for name, closure in closures.items()}
    holders: dict[str, list[int]] = {}
    loads = [0.0] * count
    for sink in sorted(closures, key=lambda name: (-full[name], name)):
        # Of the shares that contain nothing of it, only the lightest can be best.
        options = {min(range(count), key=loads.__getitem__)}
        options.update(share for name in closures[sink] for share in holders.get(name, ()))
        _, share = min((loads[at] + _count(closures[sink], at, holders, seconds), at) for at in options)
        for name in closures[sink]:
            if share not in holders.setdefault(name, []):
                holders[name].append(share)
                loads[share] += seconds[name]
    names: list[list[str]] = [[] for _ in range(count)]
    for name in graph:
        for share in holders[name]:
            names[share].append(name)
    return tuple(Share(tuple(own), sum(seconds[name] for name in own)) for own in names)


def _count(
    closure: Iterable[str], share: int, holders: Mapping[str, Collection[int]], seconds: Mapping[str, float]
) -> float:
    """The weight that a closure adds to a share."""
    return sum(seconds[name] * (2 if name in holders else 1) for name in closure if share not in holders.get(name, ()))


def _closure(name: str, graph: Mapping[str, Collection[str]]) -> list[str]:
    names, waiting = {name: None}, [name]
    while waiting:
        above = [parent for parent in graph[waiting.pop()] if parent not in names]
        names.update(dict.fromkeys(above))
        waiting += above
    return list(names)


def _duplicates(wave: Iterable[Share]) -> set[str]:
    once: set[str] = set()
    twice: set[str] = set()
    for share in wave:
        twice.update(once.intersection(share.names))
        once.update(share.names)
    return twice
