"""``git describe`` for one repository and one set of options. https://git-scm.com/docs/git-describe"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from buildtools import BuildToolsError
from buildtools.git.errors import BadConfig, BadRevision, NoCommit, NoTag, NotARepository, ShallowClone
from buildtools.git.naming.names import ANNOTATED, BRANCH, LIGHTWEIGHT, Name, known_names
from buildtools.git.naming.revision import Revisions
from buildtools.git.naming.walk import Candidate, WalkRecord, nearest
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import Commits, read_grafts, read_shallow

AUTOMATIC = -1
LEAST_ABBREVIATION = 4
DIRTY, BROKEN = "-dirty", "-broken"
# git's words for names, by priority.
_KINDS = {BRANCH: "head", LIGHTWEIGHT: "lightweight", ANNOTATED: "annotated"}
MAKE_A_TAG = "make one with `git tag -a NAME -m MESSAGE`, or with `invoke release --first 0.1.0`"
FETCH_ALL = (
    "run `git fetch --unshallow --tags`; in Jenkins untick “Shallow clone” and tick “Fetch tags” in the job's "
    "“Advanced clone behaviours”"
)


class Options:
    """The options of describe, with their defaults.

    ``abbrev`` is ``None`` for git's configured length, and 0 for no suffix. ``dirty`` and ``broken`` are the suffixes,
    ``None`` if not wanted. ``old_git`` selects the results of git up to 2.47 where they differ. With ``strict``,
    missing history is an error where git would print a version that may be wrong. ``debug`` reports what git's
    ``--debug`` writes to stderr.
    """

    def __init__(self) -> None:
        self.all = self.tags = self.long = self.always = self.first_parent = False
        self.abbrev: int | None = None
        self.candidates = 10
        self.match: tuple[bytes, ...] = ()
        self.exclude: tuple[bytes, ...] = ()
        self.dirty: str | None = None
        self.broken: str | None = None
        self.old_git = False
        self.strict = False
        self.debug = False


class CommitName:
    """A described commit. ``tag`` is empty if there was no name and ``--always`` gave the bare commit."""

    __slots__ = ("abbreviation", "commit", "distance", "tag", "text")

    def __init__(self, text: str, tag: str, distance: int, commit: bytes, abbreviation: str = "") -> None:
        self.text, self.tag, self.distance, self.commit, self.abbreviation = text, tag, distance, commit, abbreviation


class Describer:
    """Describes commits of one repository. ``report`` is called with each line of debug output.

    :raises BadConfig: if git would refuse ``core.abbrev``.
    :raises BadRevision: if the options contradict each other.
    :raises NoTag: if there are no names at all, and ``always`` is off.
    """

    def __init__(
        self, repository: Repository, options: Options, report: Callable[[str], object] = lambda _: None
    ) -> None:
        self._repository = repository
        self._objects = repository.objects
        self._options = options
        self._report = report
        length = configured_abbrev(repository)
        self._abbrev = length if options.abbrev is None or options.abbrev < 0 else options.abbrev
        if options.long and self._abbrev == 0:
            raise BadRevision("--long and --abbrev=0 cannot be used together", "leave one of them out")
        self._shallow = read_shallow(repository.common_dir, repository.hash_size, repository.environment)
        grafts = read_grafts(repository.common_dir, repository.hash_size, repository.environment)
        self._commits = Commits(
            self._objects,
            {**grafts, **{oid: [] for oid in self._shallow}},
            strict=options.strict,
            use_graph=repository.config.bool("core.commitgraph", True),
        )
        self._names = known_names(repository, any_ref=options.all, match=options.match, exclude=options.exclude)
        if not self._names and not options.always:
            raise self._no_tag("there is no tag to describe a commit by")

    def head(self) -> tuple[CommitName, bool]:
        """The name of HEAD, with the suffix for the worktree's state, and whether the worktree is dirty.

        :raises NoCommit: if the branch has no commit yet.
        """
        dirty, mark = self._state()
        self._debug("describe HEAD")
        commit = self._repository.head()
        if commit is None:
            raise NoCommit("there is no commit yet", "make one with `git commit`, then a tag with `git tag -a`")
        answer = self._answer(Revisions(self._repository, self._commits), commit, "HEAD")
        answer.text += mark
        return answer, dirty

    def _state(self) -> tuple[bool, str]:
        options = self._options
        if options.dirty is None and options.broken is None:
            return False, ""
        try:
            if self._repository.work_tree is None:
                raise NotARepository("there is no work tree here that could be dirty", "run this in a work tree")
            from buildtools.git.worktree.status import is_dirty

            # Up to git 2.45 --broken did not look at the content of files whose status had changed.
            dirty = is_dirty(self._repository, refresh=options.broken is None or not options.old_git)
        except BuildToolsError:
            if options.broken is None:
                raise
            return True, options.broken
        return dirty, (DIRTY if options.dirty is None else options.dirty) if dirty else ""

    def describe(self, name: str) -> CommitName:
        """The name of an object: a commit, or a blob that some commit introduced.

        :raises BadRevision: if it is neither.
        :raises NoTag: if there is no tag to describe it with.
        :raises ShallowClone: with ``strict``, if a tag may be outside the fetched history.
        :raises DamagedRepository: if a needed object cannot be read.
        """
        self._debug(f"describe {name}")
        revisions = Revisions(self._repository, self._commits)
        return self._answer(revisions, revisions.resolve(name), name)

    def _answer(self, revisions: Revisions, oid: bytes, name: str) -> CommitName:
        commit = revisions.commit(oid)
        if commit is not None:
            return self._describe(commit, oid)
        if self._objects.kind(oid) != "blob":
            raise BadRevision(f"{name!r} is neither a commit nor a blob", "give a branch, a tag or a commit")
        from buildtools.git.naming.origin import first_holder

        holder = first_holder(self._repository, self._commits, oid)
        if holder is None:
            if self._options.old_git:
                return CommitName("", "", 0, oid)
            raise BadRevision(f"blob {oid.hex()} is in no commit of HEAD's history", "give a commit")
        commit, path = holder
        answer = self._describe(commit, commit)
        answer.text += f":{os.fsdecode(path)}"
        return answer

    def _describe(self, commit: bytes, commit_asked: bytes) -> CommitName:
        options, names = self._options, self._names
        any_kind = options.all or options.tags
        exact = names.get(commit)
        if exact is not None and (any_kind or exact.priority == ANNOTATED):
            return self._exact(exact, commit, commit_asked if options.old_git else commit)
        if not options.candidates:
            raise NoTag(f"no tag is exactly at {commit.hex()}", MAKE_A_TAG)
        self._debug("No exact match on refs or tags, searching to describe")
        usable = {oid: name for oid, name in names.items() if any_kind or name.priority == ANNOTATED}
        if usable:
            record = WalkRecord() if options.debug else None
            key, load = self._commits.walker(commit, by_id=options.debug)
            names_by_key = {key(oid): name for oid, name in usable.items()}
            best = nearest(
                key(commit),
                load,
                names_by_key,
                {commit for commit, name in names_by_key.items() if name.priority == ANNOTATED},
                most=options.candidates,
                names=len(names),
                first_parent=options.first_parent,
                old_git=options.old_git,
                record=record,
            )
            if record:
                self._report_walk(record, names_by_key)
            if options.strict:
                self._check_border(best)
            if best is not None:
                return self._distant(names_by_key[best.commit], best.depth, commit)
        elif options.strict and self._shallow:
            raise self._no_tag("it has no tag to describe a commit by")
        if options.always:
            short = self._objects.abbreviated(commit, self._abbrev)
            return CommitName(short, "", 0, commit, short)
        if any_kind or not any(name.priority < ANNOTATED for name in names.values()):
            raise self._no_tag(f"no tag is reachable from {commit.hex()}")
        raise self._no_tag(f"no annotated tag is reachable from {commit.hex()}")

    def _report_walk(self, record: WalkRecord, names: Mapping[Any, Name]) -> None:
        """Report a walk as git's ``--debug`` does."""
        lines = [f"finished search at {record.finished_at.hex()}"] if record.finished_at else []
        for candidate in record.candidates:
            name = names[candidate.commit]
            lines.append(f" {_KINDS[name.priority]:11} {candidate.depth:8} {os.fsdecode(name.path)}")
        if record.candidates:
            lines.append(f"traversed {record.commits} commits")
        if record.gave_up_at:
            most, commit = self._options.candidates, record.gave_up_at.hex()
            if self._options.old_git:
                lines.append(f"more than {most} tags found; listed {most} most recent")
                lines.append(f"gave up search at {commit}")
            else:
                lines.append(f"found {most} tags; gave up search at {commit}")
        for line in lines:
            self._debug(line)

    def _debug(self, line: str) -> None:
        if self._options.debug:
            self._report(line)

    def _no_tag(self, fact: str) -> NoTag | ShallowClone:
        if self._options.strict and self._shallow:
            return ShallowClone(f"this clone is shallow, and {fact}", FETCH_ALL)
        return NoTag(fact, MAKE_A_TAG)

    def _check_border(self, best: Candidate | None) -> None:
        """Raise :class:`ShallowClone` if the missing history could change the result.

        It cannot if the walk met no commit of the border except the tagged one itself, and that one's parents are not
        present in another way.
        """
        border = self._commits.visits.intersection(self._shallow)
        # In a shallow clone a walk uses ids as keys.
        if best is not None and best.commit in border:
            elsewhere = any(parent in self._objects for parent in self._true_parents(best.commit))
            border -= set() if elsewhere else {best.commit}
        if border:
            raise ShallowClone("shallow clone: the nearest tag may be outside the fetched history", FETCH_ALL)

    def _true_parents(self, commit: bytes) -> list[bytes]:
        return Commits(self._objects, {}, strict=True, use_graph=False).load(commit)[1]

    def _exact(self, name: Name, commit: bytes, object_id: bytes) -> CommitName:
        text, is_misnamed = self._shown_name(name)
        if not (is_misnamed or self._options.long):
            return CommitName(text, text, 0, commit)
        # git abbreviates the tag's target, which for a nested tag is another tag.
        short = self._objects.abbreviated(name.tag.target if name.tag else object_id, self._abbrev)
        return CommitName(f"{text}-0-g{short}", text, 0, commit, short)

    def _distant(self, name: Name, depth: int, commit: bytes) -> CommitName:
        text, is_misnamed = self._shown_name(name)
        if not (is_misnamed or self._abbrev):
            return CommitName(text, text, depth, commit)
        short = self._objects.abbreviated(commit, self._abbrev)
        return CommitName(f"{text}-{depth}-g{short}", text, depth, commit, short)

    def _shown_name(self, name: Name) -> tuple[str, bool]:
        """The name as printed, and whether the tag object has another name than its ref."""
        tag = name.read(self._objects)
        if tag is None:
            return os.fsdecode(name.path), False
        if self._options.all:
            return f"tags/{os.fsdecode(tag.name)}", tag.name != name.path.removeprefix(b"tags/")
        return os.fsdecode(tag.name), tag.name != name.path


def configured_abbrev(repository: Repository) -> int:
    """``core.abbrev``: a number of digits, or :data:`AUTOMATIC`.

    :raises BadConfig: if git would refuse it.
    """
    value = (repository.config.get("core.abbrev", "auto") or "").lower()
    digits = repository.hash_size * 2
    if value == "auto":
        return AUTOMATIC
    if value in ("no", "off", "false", ""):
        return digits
    length = repository.config.int("core.abbrev")
    if not LEAST_ABBREVIATION <= length <= digits:
        raise BadConfig(f"git configuration core.abbrev is {length}", f"set it from {LEAST_ABBREVIATION} to {digits}")
    return length
