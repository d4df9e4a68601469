"""The walk from a commit back to the nearest tag, as git walks it.

What it computes. A *candidate* is a commit with a usable name that the walk has met. Its *depth* is the number of
commits that left the queue and were not known, at that moment, to be its ancestors. The answer is the candidate with
the least depth; of equal depths the one that was met first. In a history without clock skew the depth is what
``git rev-list TAG..COMMIT`` counts.

The queue. Commits leave it newest first by committer date, and of equal date first in, first out. Each entry carries a
serial number that grows with every push and breaks ties. So two entries never compare by their commits, whose keys may
be of several types in a repository with a partial commit-graph.

The flags. Each commit that was ever queued has a bit set: one bit per candidate that it is known to be an ancestor of
(a candidate counts as its own ancestor), and one that says that it has left the queue. Bits pass from a commit to its
parents only when the commit leaves the queue, and are never corrected later. With skewed clocks a commit may leave
before the bit of its descendant reaches it. Depths then come out "wrong", and must come out wrong in the same way.

Where it stops. As git does:

- when the maximum number of candidates was met. git up to 2.47 gives up at the next commit with a usable name, git from
  2.48 on at the next commit of any kind, or when every name of the repository is a candidate;
- when an annotated candidate was met, the queue is empty, and the last commit is within all candidates of least depth;
- when the queue is empty.

The commit at which it gave up goes back into the queue with a new serial number, behind the commits of the same second.
Then the best candidate's depth is completed: queued commits outside its history are counted, along all parents even
with ``first_parent``, until every queued commit is within it.

Where it may stop earlier than git. While every queued commit is within the history of the leading candidate, later
commits cannot change the outcome: the leader's depth stays, the depths of others only grow, and candidates met later
start deeper. ``outside`` counts the queued commits for which that does not hold yet. A recorded walk goes as far as
git's, because ``--debug`` shows how far that is.

What it costs. Each commit is read once at most: O(n log q) for n commits and a queue of q, times the number of
candidates, of which there are 27 at most. Up to the first usable name, which is most of a typical walk, there are no
bits to pass on, and commits are only counted (:func:`_first_named`).

Commits are identified by keys, which are ids or whatever else ``load`` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Sequence
from heapq import heappop, heappush, heappushpop
from typing import Any, Generic, TypeVar

# git's own limit: an object has 28 flag bits, one of them says that the commit was queued, and each candidate takes
# another. git lowers a larger --candidates to this number without a message, and so do we.
MOST_CANDIDATES = 27
_LEFT = 1  # the commit has left the queue; the higher bits are one per candidate

_Key = TypeVar("_Key", bound=Hashable)
# Date, negated for the heap; serial number; commit; its parents.
_Entry = tuple[int, int, _Key, Sequence[_Key]]


class Candidate:
    """A named commit that the walk has met. ``order`` counts from 0."""

    __slots__ = ("bit", "commit", "depth", "order")

    def __init__(self, commit: Any, order: int, depth: int) -> None:
        self.commit, self.order, self.depth, self.bit = commit, order, depth, 2 << order


class WalkRecord:
    """What one walk met.

    ``candidates`` are ordered by depth, ``commits`` is how many commits left the queue, ``finished_at`` is where it
    stopped before the queue was empty. ``gave_up_at`` is the commit after the last possible candidate.
    """

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.commits = 0
        self.finished_at: Any = None
        self.gave_up_at: Any = None


class _Queue(Generic[_Key]):
    """The commits that were met and have not left yet, with the flags of all commits that were met."""

    __slots__ = ("entries", "flags", "load", "serial")

    def __init__(
        self, entries: list[_Entry[_Key]], flags: dict[_Key, int], load: Callable[[_Key], tuple[int, Sequence[_Key]]]
    ) -> None:
        self.entries, self.flags, self.load, self.serial = entries, flags, load, len(flags) + 1

    def put_back(self, entry: _Entry[_Key]) -> None:
        """Queue a commit again that has left, behind those of the same second."""
        date, _, commit, parents = entry
        heappush(self.entries, (date, self.serial, commit, parents))
        self.serial += 1

    def outside(self, bit: int) -> int:
        """How many queued commits are not known to be in the history of the candidate with this bit."""
        return sum(1 for entry in self.entries if not self.flags[entry[2]] & bit)

    def pass_on(self, ancestry: int, parents: Sequence[_Key], bit: int) -> int:
        """Pass a commit's bits to its parents, and queue new parents; returns by how much :meth:`outside` grows."""
        growth = 0
        flags = self.flags
        for parent in parents:
            parent_flags = flags.get(parent)
            if parent_flags is None:
                date, grandparents = self.load(parent)
                heappush(self.entries, (-date, self.serial, parent, grandparents))
                self.serial += 1
                flags[parent] = ancestry
                growth += not ancestry & bit
            else:
                if ancestry & bit and not parent_flags & (bit | _LEFT):
                    growth -= 1
                flags[parent] = parent_flags | ancestry
        return growth


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
    """The candidate with the least depth, the first one met among equals; ``None`` if none is reachable.

    :param load: date and parents of a commit. :param usable: the commits that have a name which may be shown. :param
        annotated: those of them with an annotated tag. :param names: the number of names of any kind in the repository.
        :param old_git: give up at the first *named* commit after the last possible candidate, as git did up to 2.47;
        else at the first commit after it.
    :param record: filled with what the walk meets.
    """
    queue, count = _first_named(start, load, usable, first_parent=first_parent)
    flags = queue.flags
    candidates: list[Candidate] = []
    any_annotated = False
    leader: Candidate | None = None
    outside = 0
    while queue.entries:
        entry = heappop(queue.entries)
        _, _, commit, parents = entry
        has_name = commit in usable
        if (has_name and len(candidates) == most) if old_git else (len(candidates) in (most, names)):
            queue.put_back(entry)
            if record:
                record.gave_up_at = commit
            break
        count += 1
        within = flags[commit] | _LEFT
        if leader and not within & leader.bit:
            outside -= 1
        if has_name:
            candidate = Candidate(commit, len(candidates), count - 1)
            candidates.append(candidate)
            within |= candidate.bit
            any_annotated = any_annotated or commit in annotated
            if leader is None:
                leader, outside = candidate, len(queue.entries)
        flags[commit] = within
        for candidate in candidates:
            if not within & candidate.bit:
                candidate.depth += 1
        if any_annotated and not queue.entries and _lies_within_best(within, candidates):
            if record:
                record.finished_at = commit
            break
        outside += queue.pass_on(within & ~_LEFT, parents[:1] if first_parent else parents, leader.bit if leader else 0)
        if leader and not outside and not record:
            best = _best(candidates)
            if best is leader:
                return best
            leader, outside = best, queue.outside(best.bit)
    if not candidates:
        return None
    candidates.sort(key=_rank)
    count += _finish(candidates[0], queue)
    if record:
        record.candidates, record.commits = candidates, count
    return candidates[0]


def _lies_within_best(flags: int, candidates: Sequence[Candidate]) -> bool:
    """Whether a commit with these flags is in the history of every candidate of least depth."""
    least = min(candidate.depth for candidate in candidates)
    return all(flags & candidate.bit for candidate in candidates if candidate.depth == least)


def _best(candidates: list[Candidate]) -> Candidate:
    return min(candidates, key=_rank)


def _rank(candidate: Candidate) -> tuple[int, int]:
    return candidate.depth, candidate.order


def _first_named(
    start: _Key, load: Callable[[_Key], tuple[int, Sequence[_Key]]], usable: Container[_Key], *, first_parent: bool
) -> tuple[_Queue[_Key], int]:
    """Walk to the first commit with a usable name; until then commits need only be counted.

    :return: the queue with that commit on top (empty if there is none), and how many have left it.
    """
    date, parents = load(start)
    queue: list[_Entry[_Key]] = []
    visited_keys = {start}
    add = visited_keys.add
    commit = start
    while commit not in usable:
        if len(parents) == 1 or (first_parent and parents):
            # The common case: replacing the top is faster than push and pop, and doing neither is faster still.
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
            return _Queue([], {}, load), len(visited_keys)
        date, _, commit, parents = heappop(queue)
        date = -date
    flags = dict.fromkeys(visited_keys, _LEFT)
    heappush(queue, (-date, -1, commit, parents))
    for entry in queue:
        flags[entry[2]] = 0
    return _Queue(queue, flags, load), len(visited_keys) - len(queue)


def _finish(best: Candidate, queue: _Queue[_Key]) -> int:
    """Count the queued commits outside the best candidate's history; here git follows all parents.

    :return: how many commits leave the queue. git takes one more to see that it is done.
    """
    count = 0
    outside = queue.outside(best.bit)
    while outside:
        _, _, commit, parents = heappop(queue.entries)
        count += 1
        ancestry = queue.flags[commit] & best.bit
        queue.flags[commit] |= _LEFT
        if not ancestry:
            outside -= 1
            best.depth += 1
        outside += queue.pass_on(ancestry, parents, best.bit)
    return count + bool(queue.entries)
