"""The walk from a commit back to the nearest tag, as git walks it.

What it computes. A *candidate* is a commit with a usable name that the walk has met. Its *depth* is the number of
commits that left the queue and were not known, at that moment, to be its ancestors. The answer is the candidate with
the least depth; of equal depths the one that was met first. In a history without clock skew the depth is what
``git rev-list TAG..COMMIT`` counts.

The queue. Commits leave it newest first by committer date, and of equal date first in, first out. Each entry carries a
serial number that grows with every push and decides ties; so two entries never compare by their commits, whose keys
may be of several types in a repository with a partial commit-graph.

The flags. Each commit that was ever queued has a bit set: one bit per candidate that it is known to be an ancestor of
(a candidate counts among its own ancestors), and one that says that it has left the queue. Bits pass from a commit to
its parents only when the commit leaves the queue, and nothing is corrected later. With skewed clocks a commit may leave
before the bit of its descendant reaches it. Depths then come out "wrong", and must come out wrong in the same way.

Where it stops. As git does:

- when as many candidates were met as are allowed. git up to 2.47 gives up at the next commit with a usable name, git
  from 2.48 on at the next commit of any kind, or when every name of the repository is a candidate;
- when an annotated candidate was met, the queue is empty, and the last commit lies within all candidates of least
  depth;
- when the queue is empty.

The commit at which it gave up goes back into the queue with a new serial number, behind the commits of its second. Then
the best candidate's depth is completed: what is still queued and lies outside of its history is counted, along all
parents even with ``first_parent``, until everything queued lies within.

Where it may stop earlier than git. While every queued commit lies within the history of the leading candidate, nothing
that comes can change the outcome: the leader's depth stays, the depths of others only grow, and candidates met later
start deeper. ``outside`` counts the queued commits for which that does not hold yet. A walk that is recorded goes as
far as git's: ``--debug`` shows how far that is.

What it costs. Each commit is read once at most: O(n log q) for n commits and a queue of q, times the number
of candidates, of which there are 27 at most. Up to the first usable name, which is most of a typical walk, there are no
bits to pass on, and commits are only counted (:func:`_first_named`).

Commits go by keys, which are ids or whatever else ``load`` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Sequence
from heapq import heappop, heappush, heappushpop
from typing import Any, TypeVar

# git's own limit: an object has 28 flag bits, one of them says that the commit was queued, and each candidate takes
# another. git lowers a larger --candidates to this number without a message, and so do we.
MOST_CANDIDATES = 27
_LEFT = 1  # the commit has left the queue; the higher bits are one per candidate

_Key = TypeVar("_Key", bound=Hashable)


class Candidate:
    """A named commit that was met. ``order`` counts from 0."""

    __slots__ = ("bit", "commit", "depth", "order")

    def __init__(self, commit: Any, order: int, depth: int) -> None:
        self.commit, self.order, self.depth, self.bit = commit, order, depth, 2 << order


class WalkRecord:
    """What one walk met: its candidates in the order of their depths, how many commits left the queue, and where it
    stopped before the queue was empty. ``gave_up_at`` is the commit after the last possible candidate.
    """

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.commits = 0
        self.finished_at: Any = None
        self.gave_up_at: Any = None


def nearest(
    start: _Key,
    load: Callable[[_Key], tuple[int, Sequence[_Key]]],
    usable: Container[_Key],
    annotated: Container[_Key],
    *,
    most: int,
    names: int,
    first_parent: bool,
    old_git: bool,
    record: WalkRecord | None = None,
) -> Candidate | None:
    """The candidate with the least depth, the first one met among equals; ``None`` when none is reachable.

    :param load: date and parents of a commit.
    :param usable: the commits that have a name which may be shown.
    :param annotated: those of them with an annotated tag.
    :param names: the number of names of any kind in the repository.
    :param old_git: give up at the first *named* commit after the last possible candidate, as git did up to 2.47;
        else at the first commit after it.
    :param record: is told what the walk meets.
    """
    queue, flags, count = _first_named(start, load, usable, first_parent=first_parent)
    serial = len(flags) + 1
    candidates: list[Candidate] = []
    any_annotated = False
    # Once everything queued descends from the leading candidate, nothing that comes can change the outcome: its depth
    # stays, those of others only grow, and what is found later starts deeper.
    leader: Candidate | None = None
    outside = 0
    while queue:
        entry = heappop(queue)
        date, _, commit, parents = entry
        has_name = commit in usable
        if (has_name and len(candidates) == most) if old_git else (len(candidates) in (most, names)):
            heappush(queue, (date, serial, commit, parents))
            serial += 1
            if record:
                record.gave_up_at = commit
            break
        count += 1
        before = flags[commit]
        if leader and not before & leader.bit:
            outside -= 1
        if has_name:
            candidate = Candidate(commit, len(candidates), count - 1)
            candidates.append(candidate)
            before |= candidate.bit
            any_annotated = any_annotated or commit in annotated
            if leader is None:
                leader, outside = candidate, len(queue)
        within = flags[commit] = before | _LEFT
        for candidate in candidates:
            if not within & candidate.bit:
                candidate.depth += 1
        if any_annotated and not queue:
            least = min(candidate.depth for candidate in candidates)
            if all(within & candidate.bit for candidate in candidates if candidate.depth == least):
                if record:
                    record.finished_at = commit
                break
        ancestry = within & ~_LEFT
        lead = leader.bit if leader else 0
        for parent in parents[:1] if first_parent else parents:
            parent_flags = flags.get(parent)
            if parent_flags is None:
                date, grandparents = load(parent)
                heappush(queue, (-date, serial, parent, grandparents))
                serial += 1
                flags[parent] = ancestry
                outside += not ancestry & lead
            else:
                if ancestry & lead and not parent_flags & (lead | _LEFT):
                    outside -= 1
                flags[parent] = parent_flags | ancestry
        if leader and not outside and not record:
            best = _best(candidates)
            if best is leader:
                return best
            leader = best
            outside = sum(1 for entry in queue if not flags[entry[2]] & leader.bit)
    if not candidates:
        return None
    candidates.sort(key=_rank)
    best = candidates[0]
    count += _finish(best, queue, flags, serial, load)
    if record:
        record.candidates, record.commits = candidates, count
    return best


def _best(candidates: list[Candidate]) -> Candidate:
    return min(candidates, key=_rank)


def _rank(candidate: Candidate) -> tuple[int, int]:
    return candidate.depth, candidate.order


def _first_named(
    start: _Key, load: Callable[[_Key], tuple[int, Sequence[_Key]]], usable: Container[_Key], *, first_parent: bool
) -> tuple[list[tuple[int, int, _Key, Sequence[_Key]]], dict[_Key, int], int]:
    """Walk to the first commit with a usable name: until then commits need only be counted.

    :return: the queue with that commit on top (empty when there is none), the flags, and how many have left the queue.
    """
    date, parents = load(start)
    queue: list[tuple[int, int, _Key, Sequence[_Key]]] = []
    visited_keys = {start}
    add = visited_keys.add
    commit = start
    while commit not in usable:
        if len(parents) == 1 or (first_parent and parents):
            # The common case; to push and pop in one go is quicker, and to do neither more so.
            parent = parents[0]
            if parent not in visited_keys:
                add(parent)
                date, parents = load(parent)
                if queue:
                    date, _, commit, parents = heappushpop(queue, (-date, len(visited_keys), parent, parents))
                    date = -date
                else:
                    commit = parent
                continue
        else:
            for parent in parents:
                if parent not in visited_keys:
                    add(parent)
                    date, grandparents = load(parent)
                    heappush(queue, (-date, len(visited_keys), parent, grandparents))
        if not queue:
            return [], {}, len(visited_keys)
        date, _, commit, parents = heappop(queue)
        date = -date
    flags = dict.fromkeys(visited_keys, _LEFT)
    heappush(queue, (-date, -1, commit, parents))
    for entry in queue:
        flags[entry[2]] = 0
    return queue, flags, len(visited_keys) - len(queue)


def _finish(
    best: Candidate,
    queue: list[tuple[int, int, _Key, Sequence[_Key]]],
    flags: dict[_Key, int],
    serial: int,
    load: Callable[[_Key], tuple[int, Sequence[_Key]]],
) -> int:
    """Count what is still queued and lies outside of the best candidate's history; here git follows all parents.

    :return: how many commits leave the queue. git takes one more to see that it is done.
    """
    bit, count = best.bit, 0
    outside = sum(1 for entry in queue if not flags[entry[2]] & bit)
    while outside:
        _, _, commit, parents = heappop(queue)
        count += 1
        ancestry = flags[commit] & bit
        flags[commit] |= _LEFT
        if not ancestry:
            outside -= 1
            best.depth += 1
        for parent in parents:
            parent_flags = flags.get(parent)
            if parent_flags is None:
                date, grandparents = load(parent)
                heappush(queue, (-date, serial, parent, grandparents))
                serial += 1
                flags[parent] = ancestry
                outside += not ancestry
            elif ancestry:
                outside -= not parent_flags & (bit | _LEFT)
                flags[parent] = parent_flags | ancestry
    return count + bool(queue)
