"""Object names as users write them. https://git-scm.com/docs/gitrevisions"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from buildtools.git.errors import BadRevision, DamagedRepository, MissingObject
from buildtools.git.naming.names import read_tag
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import Commits
from buildtools.git.storage.refs import LogEntry, is_safe, is_well_formed, resolve
from buildtools.git.storage.trees import entries

# Where a short name is looked up; the first match wins: https://git-scm.com/docs/gitrevisions#_specifying_revisions
_RULES = (b"%s", b"refs/%s", b"refs/tags/%s", b"refs/heads/%s", b"refs/remotes/%s", b"refs/remotes/%s/HEAD")
_STEP = re.compile(r"(.*)([~^])(\d*)", re.DOTALL)
_PEEL = re.compile(r"(.+)\^\{(commit|tag|tree|blob|object|/[^{]*|)\}", re.DOTALL)
_DESCRIPTION = re.compile(r"(.+)-[0-9a-fA-F]+-g([0-9a-fA-F]+)", re.DOTALL)
_PRIOR = re.compile(r"@\{-([1-9]\d*)\}")
_LOG_ENTRY = re.compile(r"(.*?)@\{(?!-)([^}]+)\}", re.DOTALL)
_MOST_STEPS = (1 << 31) - 1
_FIRST_TIME = 100_000_000  # a lower number in @{…} counts entries; otherwise it is a time
_SHORTEST = 4


class Revisions:
    """Resolves names in one repository. ``commits`` gives parents, with grafts applied."""

    def __init__(self, repository: Repository, commits: Commits) -> None:
        self._repository = repository
        self._objects = repository.objects
        self._commits = commits

    def resolve(self, name: str) -> bytes:
        """The object that a name stands for.

        :raises BadRevision: if there is none, or the name is ambiguous.
        """
        try:
            oid = self._find(name, "") or self._by_path(name)
        except RecursionError:
            oid = None
        if oid is None:
            raise BadRevision(f"{name!r} names nothing in this repository", "give a branch, a tag or a commit")
        return oid

    def commit(self, oid: bytes) -> bytes | None:
        """The object itself if it is a commit, or the commit that a tag leads to; ``None`` for trees and blobs.

        :raises DamagedRepository: if an object on the way cannot be read.
        """
        return self.peel_to(oid, "commit")

    def peel_to(self, oid: bytes, target: str) -> bytes | None:
        """Follow tags, and commits to their trees, to an object of type ``target`` (empty: any but a tag)."""
        while True:
            kind, content = self._objects.read(oid)
            if kind == target or (not target and kind != "tag"):
                return oid
            if kind == "tag":
                tag = read_tag(self._objects, oid)
                if tag is None:
                    raise DamagedRepository(f"tag {oid.hex()} cannot be understood")
                oid = tag.target
            elif kind == "commit" and target == "tree":
                oid = bytes.fromhex(content[5 : 5 + 2 * self._objects.hash_size].decode("latin-1"))
            else:
                return None

    def _find(self, name: str, kind: str) -> bytes | None:
        """git's ``get_oid_1``; ``kind`` helps to disambiguate abbreviations: ``commit``, ``tree`` or empty."""
        steps = []
        while step := _STEP.fullmatch(name):
            name = step[1]
            steps.append((step[2], step[3]))
        if steps:
            oid = self._committish(name)
            while steps and oid is not None:
                oid = self._step(oid, *steps.pop())
            return oid
        return self._peel(name) or self._basic(name) or self._describe_output(name) or self._abbreviation(name, kind)

    def _step(self, start: bytes, kind: str, digits: str) -> bytes | None:
        # Longer numbers exceed any history, and the limit of int().
        count = int(digits[:20]) if digits else 1
        if count > _MOST_STEPS:
            return None
        if kind == "^":
            parents = self._parents(start)
            if parents is None or count > len(parents):
                return None
            return parents[count - 1] if count else start
        for _ in range(count):
            parents = self._parents(start)
            if not parents:
                return None
            start = parents[0]
        return start

    def _parents(self, commit: bytes) -> list[bytes] | None:
        return self._commits.load(commit)[1] if commit in self._objects else None

    def _committish(self, name: str) -> bytes | None:
        oid = self._find(name, "commit")
        try:
            return None if oid is None else self.commit(oid)
        except MissingObject:
            return None

    def _peel(self, name: str) -> bytes | None:
        peel = _PEEL.fullmatch(name)
        if not peel:
            return None
        outer, kind = peel[1], peel[2]
        pattern = kind[1:] if kind.startswith("/") else None
        if pattern is not None:
            kind = "commit"
        oid = self._find(outer, kind if kind in ("commit", "tree") else "")
        if oid is None or kind == "object":
            return oid
        try:
            oid = self.peel_to(oid, kind)
        except MissingObject:
            return None
        if oid is None or not pattern:
            return oid
        return self._by_message(pattern, [oid])

    def _basic(self, name: str) -> bytes | None:
        if re.fullmatch(f"[0-9a-fA-F]{{{self._objects.hash_size * 2}}}", name):
            return bytes.fromhex(name)
        match = _LOG_ENTRY.fullmatch(self._full_name(name))
        if match:
            return self._from_log(match[1], match[2])
        ref = self._ref(self._full_name(name))
        return ref[1] if ref else None

    def _ref(self, short: str) -> tuple[bytes, bytes] | None:
        """The name and object of the ref that a short name stands for."""
        if not short.strip("./"):
            return None
        name = short.encode("utf-8", "surrogateescape")
        if len(name) == 2 * self._objects.hash_size and re.fullmatch(rb"[0-9a-f]+", name):
            return name, bytes.fromhex(short)  # an earlier checkout, @{-N}, with a detached HEAD
        for rule in _RULES:
            full = rule % name
            if is_safe(full) and (is_well_formed(full) or rule == b"%s"):
                last, oid = resolve(self._repository.refs, full)
                if oid is not None:
                    return last, oid
        return None

    def _full_name(self, name: str) -> str:
        """The name with ``@``, ``@{-N}``, ``@{upstream}`` and ``@{push}`` replaced by what they stand for."""
        prior = _PRIOR.match(name)
        if prior:
            branch = self._checked_out_before(int(prior[1]))
            return name if branch is None else self._full_name(branch + name[prior.end() :])
        if name == "@" or name.startswith("@@{"):
            return self._full_name("HEAD" + name[1:])
        mark = re.fullmatch(r"(.*?)@\{(u|upstream|push)\}", name, re.IGNORECASE | re.DOTALL)
        if not mark:
            return name
        from buildtools.git.naming.tracking import pushed_to, upstream

        branch = self._full_name(mark[1]) if mark[1] else "HEAD"
        if branch == "HEAD":
            full = resolve(self._repository.refs, b"HEAD")[0].decode("utf-8", "surrogateescape")
            branch = full.removeprefix("refs/heads/")
        config = self._repository.config
        ref = pushed_to(config, branch) if mark[2].lower() == "push" else upstream(config, branch)
        if ref is None:
            raise BadRevision(f"branch {branch!r} follows no other branch", "set one with `git branch -u`")
        return ref

    def _checked_out_before(self, count: int) -> str | None:
        for entry in reversed(self._repository.refs.log(b"HEAD")):
            move = re.match(rb"checkout: moving from (.*?) to ", entry.message)
            if move:
                count -= 1
                if not count:
                    return move[1].decode("utf-8", "surrogateescape")
        return None

    def _from_log(self, short: str, place: str) -> bytes | None:
        refs = self._repository.refs
        if not short:
            ref = self._ref("HEAD")
        else:
            ref = None
            for rule in _RULES:
                full = rule % short.encode("utf-8", "surrogateescape")
                last, oid = resolve(refs, full) if is_safe(full) else (full, None)
                if oid is not None:
                    log = next((name for name in (full, last) if refs.log(name)), None)
                    if log:
                        ref = log, oid
                        break
        if ref is None:
            return None
        entries = refs.log(ref[0])
        at = int(place[:20]) if place.isdigit() and place.isascii() else None
        if at is not None and at < _FIRST_TIME:
            if at == 0:
                return ref[1]
            if at < len(entries):
                return entries[-1 - at].new
            if at == len(entries) and any(entries[0].old):
                return entries[0].old
            raise BadRevision(f"the log of {short or 'HEAD'} has only {len(entries)} entries", "give a lower number")
        if at is None:
            from buildtools.git.naming.approxidate import seconds_of

            at = seconds_of(place)
        return self._at_time(ref[1], entries, at)

    def _at_time(self, current: bytes, entries: list[LogEntry], at: int) -> bytes | None:
        if not entries:
            raise BadRevision("the log is empty", "give a commit by its id")
        for later, entry in zip([None, *reversed(entries)], reversed(entries), strict=False):
            if entry.time <= at:
                return entry.new if entry.time == at or (later and any(later.old)) else current
        return entries[0].old if any(entries[0].old) else entries[0].new

    def _describe_output(self, name: str) -> bytes | None:
        match = _DESCRIPTION.fullmatch(name)
        return self._abbreviation(match[2], "only commit") if match else None

    def _abbreviation(self, name: str, kind: str) -> bytes | None:
        prefix = name.lower()
        if not _SHORTEST <= len(prefix) <= 2 * self._objects.hash_size or not re.fullmatch(r"[0-9a-f]+", prefix):
            return None
        matches = sorted(set(self._objects.starting_with(prefix)))
        if len(matches) > 1:
            fits = self._hint(kind)
            matches = [name for name in matches if fits(bytes.fromhex(name))]
            if len(matches) != 1:
                raise BadRevision(f"{name} is the start of several objects", "give more digits")
        return bytes.fromhex(matches[0]) if matches else None

    def _hint(self, expected_kind: str) -> Callable[[bytes], bool]:
        """A test whether an object may be meant by an ambiguous abbreviation."""
        hints = {"commit": "committish", "tree": "treeish", "only commit": "commit"}
        hint = hints.get(expected_kind) or (self._repository.config.get("core.disambiguate") or "none").lower()

        def fits(oid: bytes) -> bool:
            try:
                kind = self._objects.kind(oid)
                if kind == "tag" and hint in ("committish", "treeish"):
                    end = self.peel_to(oid, "")
                    kind = self._objects.kind(end) if end else ""
            except DamagedRepository:
                return False
            return kind == "commit" if hint == "committish" else kind in ("commit", "tree")

        if hint == "none":
            return lambda _: True
        if hint in ("commit", "tree", "blob"):
            return lambda oid: self._objects.kind(oid) == hint
        return fits

    def _by_message(self, pattern: str, starts: Iterable[bytes]) -> bytes | None:
        """The newest commit reachable from ``starts`` whose message matches; ``!-`` negates the pattern."""
        negative = pattern.startswith("!-")
        if pattern.startswith("!"):
            if not pattern.startswith(("!-", "!!")):
                return None
            pattern = pattern[2:] if negative else pattern[1:]
        try:
            search = re.compile(pattern.encode("utf-8", "surrogateescape"), re.MULTILINE).search
        except re.error:
            return None
        queue: list[tuple[int, int, bytes]] = []
        visited_ids: set[bytes] = set()
        for start in starts:
            if start not in visited_ids:
                visited_ids.add(start)
                queue.append((-self._commits.load(start)[0], len(visited_ids), start))
        heapify(queue)
        while queue:
            commit = heappop(queue)[2]
            for parent in self._commits.load(commit)[1]:
                if parent not in visited_ids:
                    visited_ids.add(parent)
                    heappush(queue, (-self._commits.load(parent)[0], len(visited_ids), parent))
            _, blank, message = self._objects.read(commit)[1].partition(b"\n\n")
            if negative != (bool(blank) and search(message) is not None):
                return commit
        return None

    def _by_path(self, name: str) -> bytes | None:
        """The object of ``:/message`` or ``REVISION:path``."""
        if name.startswith(":/") and len(name) > 2:
            tips = [ref.oid for ref in self._repository.refs.under(b"refs/")] + [self._repository.head()]
            starts = []
            for tip in tips:
                try:
                    commit = self.commit(tip) if tip else None
                except DamagedRepository:
                    continue
                if commit:
                    starts.append(commit)
            return self._by_message(name[2:], starts)
        depth = 0
        at = -1
        for place, char in enumerate(name):
            depth += (char == "{") - (char == "}" and depth > 0)
            if char == ":" and not depth:
                at = place
                break
        tree_id = self._find(name[:at], "tree") if at > 0 else None
        tree = self.peel_to(tree_id, "tree") if tree_id else None
        return self._entry(tree, name[at + 1 :]) if tree else None

    def _entry(self, tree: bytes, path: str) -> bytes | None:
        oid = tree
        for part in path.encode("utf-8", "surrogateescape").split(b"/"):
            if part:
                kind, content = self._objects.read(oid)
                entry = None
                if kind == "tree":
                    entry = next(
                        (oid for _, name, oid in entries(content, self._objects.hash_size) if name == part), None
                    )
                if entry is None:
                    return None
                oid = entry
        return oid
