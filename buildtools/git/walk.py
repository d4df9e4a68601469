"""The walk from a commit back to the nearest tag, as git walks it.

Commits leave the queue newest first, of equal date the one that was queued first. A candidate is a named commit; its
depth is the number of commits that left the queue and were not known to be its ancestors. What is known passes from a
commit to its parents only when the commit leaves the queue, and nothing is corrected later: with skewed clocks depths
come out "wrong", and must come out wrong in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from heapq import heappop, heappush

MOST_CANDIDATES = 27
_SEEN = 1

Load = Callable[[bytes], tuple[int, list[bytes]]]


class Candidate:
    """A named commit that was met. ``order`` counts from 0."""

    __slots__ = ("bit", "commit", "depth", "order")

    def __init__(self, commit: bytes, order: int, depth: int) -> None:
        self.commit, self.order, self.depth, self.bit = commit, order, depth, 2 << order


def nearest(
    start: bytes,
    load: Load,
    usable: Container[bytes],
    annotated: Container[bytes],
    *,
    most: int,
    names: int,
    first_parent: bool,
    early_stop: bool,
) -> Candidate | None:
    """The candidate with the least depth, the first one met among equals; ``None`` when none is reachable.

    :param usable: the commits that have a name which may be shown.
    :param annotated: those of them with an annotated tag.
    :param names: the number of names of any kind in the repository.
    :param early_stop: give up at the first commit after the last possible candidate, as git does from 2.48;
        else at the first *named* commit after it.
    """
    flags = {start: _SEEN}
    date, parents = load(start)
    queue = [(-date, 0, start, parents)]
    queued = 1
    seen = 0
    candidates: list[Candidate] = []
    any_annotated = False
    while queue:
        entry = heappop(queue)
        commit = entry[2]
        named = commit in usable
        if (len(candidates) in (most, names)) if early_stop else (named and len(candidates) == most):
            heappush(queue, (entry[0], queued, commit, entry[3]))
            queued += 1
            break
        seen += 1
        if named:
            candidate = Candidate(commit, len(candidates), seen - 1)
            candidates.append(candidate)
            flags[commit] |= candidate.bit
            any_annotated = any_annotated or commit in annotated
        within = flags[commit]
        for candidate in candidates:
            if not within & candidate.bit:
                candidate.depth += 1
        if any_annotated and not queue:
            least = min(candidate.depth for candidate in candidates)
            if all(within & candidate.bit for candidate in candidates if candidate.depth == least):
                break
        for parent in entry[3][:1] if first_parent else entry[3]:
            if parent not in flags:
                date, parents = load(parent)
                heappush(queue, (-date, queued, parent, parents))
                queued += 1
                flags[parent] = _SEEN
            flags[parent] |= within
    if not candidates:
        return None
    best = min(candidates, key=lambda candidate: (candidate.depth, candidate.order))
    _finish(best, queue, flags, queued, load)
    return best


def _finish(
    best: Candidate, queue: list[tuple[int, int, bytes, list[bytes]]], flags: dict[bytes, int], queued: int, load: Load
) -> None:
    """Count what is still queued and lies outside of the best candidate's history; here git follows all parents."""
    bit = best.bit
    outside = sum(1 for entry in queue if not flags[entry[2]] & bit)
    waiting = {entry[2] for entry in queue}
    while outside:
        entry = heappop(queue)
        commit = entry[2]
        waiting.discard(commit)
        within = flags[commit]
        if not within & bit:
            outside -= 1
            best.depth += 1
        for parent in entry[3]:
            if parent not in flags:
                date, parents = load(parent)
                heappush(queue, (-date, queued, parent, parents))
                queued += 1
                waiting.add(parent)
                flags[parent] = within
                outside += not within & bit
            else:
                if within & bit and not flags[parent] & bit and parent in waiting:
                    outside -= 1
                flags[parent] |= within
