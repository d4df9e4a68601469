"""Work over a graph, divided among agents that cannot talk to each other.

The problem. Some images are stale, each was built in so many seconds the last time, and some are built from others.
N agents are to build them. An agent cannot wait for another one: it may begin late, or die. So each agent's share is
closed: with an image it holds all stale parents of it. A parent that two shares need is then built twice, unless a
first wave of shares has built it before.

The answer, :func:`partition`, follows from the graph, the seconds and N alone. All ties are broken by name, so that
agents which see the same graph find the same shares.

1. **Sinks.** Only images that nothing stale is built from need be dealt out: the others come along, for the closure of
   a sink (itself, and all stale images above it) is what it takes to build it.
2. **Dealing.** The sinks go out one by one, the heaviest closure first, each to the share that is the lightest with it.
   Of a closure only that counts which the share does not hold yet, and what other shares hold counts twice; so what
   has parents in common is drawn together.
3. **First wave.** Candidates for it are the images that at least two sinks need. Their weight, own seconds and those of
   all that is built from them, is never more than that of their parents. So "all candidates heavier than T" is closed,
   whatever T is. Those images are dealt out as a wave of their own, by the same rule, and what is left as another.
4. **Choice.** Of no first wave, and of those for several T, the one that costs least is taken. The cost is the seconds
   until the last share has ended, with ``_WAVE_SECONDS`` for one more round of agents, plus the seconds of work of an
   agent on average: what is built twice takes time from somebody else's job, even if nobody waits for it.

How even it is. In each wave no two shares are further apart than twice the heaviest closure of that wave. Proof: look
at the sink that the heaviest share got last, and call what that share then weighed L. It went where that was least, so
any other share would have counted at least L with it. Of what counts, at most all of the closure, twice, was not what
that share weighed already; so that was at least L minus twice the closure, and shares only grow.

The time is that of the sinks times (shares + images in a closure), for each T that is tried.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from buildtools.frozen import frozen

# What one more round of agents takes before it builds: to be scheduled, to check out, to look everything up.
_WAVE_SECONDS = 10.0
# Between two weights that lie close to each other there is little to choose.
_MOST_TRIED = 8


@frozen
class Share:
    """What one agent builds, parents first, and the seconds that this took the last time, one after the other."""

    names: tuple[str, ...] = ()
    seconds: float = 0.0


@frozen
class Partition:
    """The shares of all agents. Those of the first wave, if there is one, are to end before the others begin.

    ``duplicates`` are the names that several shares of one wave hold.
    """

    first_wave: tuple[Share, ...]
    shares: tuple[Share, ...]
    duplicates: frozenset[str] = frozenset()

    @property
    def cost(self) -> float:
        """Seconds until the end, and of work for each agent; see the module's text, "Choice"."""
        waves = [wave for wave in (self.first_wave, self.shares) if wave]
        end = sum(max(share.seconds for share in wave) for wave in waves) + _WAVE_SECONDS * (len(waves) - 1)
        return end + sum(share.seconds for wave in waves for share in wave) / len(self.shares)


def partition(parents: Mapping[str, Collection[str]], seconds: Mapping[str, float], count: int) -> Partition:
    """``count`` shares of a graph whose names are in an order that has parents first.

    Parents that are not names of the graph are taken as done.
    """
    # In one order everywhere: the sum of the same seconds in another order may be another one.
    graph = {name: sorted(parent for parent in above if parent in parents) for name, above in parents.items()}
    weights = _weights_of_shared(graph, seconds)
    levels = sorted(set(weights.values()), reverse=True)
    # The heaviest candidates alone, then more and more of them, down to all.
    thresholds = {levels[at * len(levels) // _MOST_TRIED] for at in range(_MOST_TRIED)} if levels else set()
    options = [_two_waves(graph, seconds, count, frozenset())]
    options += [
        _two_waves(graph, seconds, count, frozenset(name for name, weight in weights.items() if weight >= threshold))
        for threshold in sorted(thresholds, reverse=True)
    ]
    return min(options, key=lambda option: option.cost)


def _weights_of_shared(graph: Mapping[str, Collection[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """The weight of each name that at least two sinks need.

    What is reached by two ways counts twice, which keeps the order that is needed: no child is heavier than its parent.
    """
    weights = {name: seconds[name] for name in graph}
    sinks: dict[str, set[str]] = {name: set() for name in graph}
    for name in reversed(list(graph)):
        own = sinks[name] or {name}
        for parent in graph[name]:
            weights[parent] += weights[name]
            # Which ones there are does not matter beyond the second.
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
        # Of the shares that hold nothing of it, only the lightest comes into question.
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
    """How heavily a closure counts for a share."""
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
