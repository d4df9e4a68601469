"""The name of a commit after the nearest tag, as ``git describe`` tells it, without git.

In process: :func:`describe`. As a program that stands in for git's: ``python -m buildtools.git.describe``, with git's
own stdout and exit status. https://git-scm.com/docs/git-describe
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from buildtools.git.commits import Commits, read_grafts
from buildtools.git.errors import BadConfig, BadRevision, NoCommit, NoTag
from buildtools.git.names import ANNOTATED, Name, known_names
from buildtools.git.repository import Repository
from buildtools.git.revision import Revisions
from buildtools.git.walk import MOST_CANDIDATES, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from buildtools.git.description import Description

AUTOMATIC = -1
LEAST_ABBREVIATION = 4


class Options:
    """What ``git describe`` can be told, with its defaults. ``abbrev`` is ``None`` for what git is configured to."""

    def __init__(self) -> None:
        self.all = self.tags = self.long = self.always = self.first_parent = False
        self.abbrev: int | None = None
        self.candidates = 10
        self.match: tuple[bytes, ...] = ()
        self.exclude: tuple[bytes, ...] = ()
        self.dirty: str | None = None
        self.broken: str | None = None
        self.early_stop = True


class Answer:
    """One commit described. ``tag`` is empty where no name was found and ``--always`` gave the bare commit."""

    __slots__ = ("abbreviation", "commit", "distance", "tag", "text")

    def __init__(self, text: str, tag: str, distance: int, commit: bytes, abbreviation: str) -> None:
        self.text, self.tag, self.distance, self.commit, self.abbreviation = text, tag, distance, commit, abbreviation


class Describer:
    """Describes commits of one repository with one set of options."""

    def __init__(self, repository: Repository, options: Options, *, strict: bool) -> None:
        self._repository = repository
        self._options = options
        configured = configured_abbrev(repository)
        self._abbrev = configured if options.abbrev in (None, AUTOMATIC) else options.abbrev or 0
        if options.long and self._abbrev == 0:
            raise BadRevision("--long and --abbrev=0 cannot be used together", "leave one of them out")
        self._names = known_names(repository, any_ref=options.all, match=options.match, exclude=options.exclude)
        grafts = read_grafts(repository.common_dir, repository.hash_size, repository.environment)
        self._commits = Commits(repository.objects, grafts, strict=strict)
        self._revisions = Revisions(repository, self._commits)

    def describe(self, name: str, mark: str = "") -> Answer:
        """One commit-ish, with a mark behind it."""
        if not self._names and not self._options.always:
            raise NoTag("there is no tag to describe a commit by", MAKE_A_TAG)
        if name == "HEAD" and self._repository.head() is None:
            raise NoCommit("there is no commit yet", "make one with `git commit`")
        oid = self._revisions.resolve(name)
        commit = self._revisions.commit(oid)
        if commit is None:
            raise BadRevision(f"{name!r} is no commit", "give a branch, a tag or a commit")
        options = self._options
        usable = options.all or options.tags
        exact = self._names.get(commit)
        if exact is not None and (usable or exact.priority == ANNOTATED):
            return self._exact(exact, commit, mark)
        if not options.candidates:
            raise NoTag(f"no tag is exactly at {commit.hex()}", MAKE_A_TAG)
        annotated = {oid for oid, name in self._names.items() if name.priority == ANNOTATED}
        best = nearest(
            commit,
            self._commits.load,
            self._names if usable else annotated,
            annotated,
            most=options.candidates,
            names=len(self._names),
            first_parent=options.first_parent,
            early_stop=options.early_stop,
        )
        if best is None:
            if not options.always:
                raise NoTag(f"no annotated tag is reachable from {commit.hex()}", MAKE_A_TAG)
            short = self._repository.objects.abbreviated(commit, self._abbrev)
            return Answer(short + mark, "", 0, commit, short)
        return self._distant(self._names[best.commit], best.depth, commit, mark)

    def _exact(self, name: Name, commit: bytes, mark: str) -> Answer:
        shown, misnamed = self._shown(name)
        if not (misnamed or self._options.long):
            return Answer(shown + mark, shown, 0, commit, "")
        # For a tag git abbreviates what the tag object points to, which for a nested tag is another tag.
        short = self._repository.objects.abbreviated(name.tag.target if name.tag else commit, self._abbrev)
        return Answer(f"{shown}-0-g{short}{mark}", shown, 0, commit, short)

    def _distant(self, name: Name, depth: int, commit: bytes, mark: str) -> Answer:
        shown, misnamed = self._shown(name)
        if not (misnamed or self._abbrev):
            return Answer(shown + mark, shown, depth, commit, "")
        short = self._repository.objects.abbreviated(commit, self._abbrev)
        return Answer(f"{shown}-{depth}-g{short}{mark}", shown, depth, commit, short)

    def _shown(self, name: Name) -> tuple[str, bool]:
        """The name as it is shown, and whether the tag calls itself otherwise than its ref."""
        tag = name.read(self._repository.objects)
        if tag is None:
            return os.fsdecode(name.path), False
        path = name.path.removeprefix(b"tags/") if self._options.all else name.path
        return ("tags/" if self._options.all else "") + os.fsdecode(tag.name), tag.name != path


MAKE_A_TAG = "make one with `git tag -a NAME -m MESSAGE`, or with `invoke release --first 0.1.0`"


def configured_abbrev(repository: Repository) -> int:
    """``core.abbrev``: digits, or :data:`AUTOMATIC`.

    :raises BadConfig: it is nothing that git accepts.
    """
    value = (repository.config.get("core.abbrev") or "auto").lower()
    digits = repository.hash_size * 2
    if value == "auto":
        return AUTOMATIC
    if value in ("no", "off", "false"):
        return digits
    length = repository.config.int("core.abbrev")
    if not LEAST_ABBREVIATION <= length <= digits:
        raise BadConfig(f"git configuration core.abbrev is {length}", f"set it from {LEAST_ABBREVIATION} to {digits}")
    return length


def describe(
    path: str | Path,
    *,
    commit: str = "HEAD",
    all: bool = False,  # noqa: A002  git's own word
    tags: bool = False,
    abbrev: int | None = None,
    candidates: int = 10,
    exact_match: bool = False,
    long: bool = False,
    match: Sequence[str] = (),
    exclude: Sequence[str] = (),
    always: bool = False,
    first_parent: bool = False,
    dirty: str | None = None,
    broken: str | None = None,
    walk: str = "2.48",
    environment: Mapping[str, str],
) -> Description:
    """Describe a commit of the repository in ``path``."""
    from buildtools.git.description import Description

    options = Options()
    options.all, options.tags, options.abbrev, options.long = all, tags, abbrev, long
    options.candidates = 0 if exact_match else min(max(candidates, 0), MOST_CANDIDATES)
    options.match = tuple(pattern.encode("utf-8", "surrogateescape") for pattern in match)
    options.exclude = tuple(pattern.encode("utf-8", "surrogateescape") for pattern in exclude)
    options.always, options.first_parent, options.early_stop = always, first_parent, walk != "2.47"
    options.dirty, options.broken = dirty, broken
    repository = Repository.open(path, environment)
    mark = ""
    is_dirty = False
    if dirty is not None or broken is not None:
        from importlib import import_module

        is_dirty = import_module("buildtools.git.worktree").is_dirty(repository)
        mark = (dirty or "") if is_dirty else ""
    answer = Describer(repository, options, strict=True).describe(commit, mark)
    return Description(
        answer.text, answer.tag, answer.distance, answer.commit.hex(), answer.abbreviation, dirty=is_dirty
    )
