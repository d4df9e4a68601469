"""The ancestors of HEAD: which versions are tagged there, and what changed since."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import TypeVar

from buildtools.frozen import frozen
from buildtools.git.naming.names import peeled
from buildtools.git.naming.prefix import has_prefix
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import CommitKey, Commits, read_grafts
from buildtools.git.tagging.versions import version_in
from buildtools.version import precedence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from semver import Version as SemanticVersion

_Commit = TypeVar("_Commit")
_TAGS = b"refs/tags/"
_ENCODING = re.compile(rb"^encoding ([^\n]+)$", re.MULTILINE)


@frozen
class AnnotatedTag:
    """An annotated tag with the configured prefix. ``version`` is ``None`` if the rest is not a semantic version."""

    name: str
    oid: bytes
    commit: bytes
    version: SemanticVersion | None


def annotated_tags(repository: Repository, prefix: str) -> list[AnnotatedTag]:
    """All annotated tags that count with this ``tag_prefix``."""
    tags = []
    for ref in repository.refs.under(_TAGS):
        name = ref.name.removeprefix(_TAGS).decode("utf-8", "surrogateescape")
        commit = ref.peeled or (ref.oid and peeled(repository.objects, ref.oid))
        if ref.oid is None or not commit or commit == ref.oid or not has_prefix(name, prefix):
            continue
        tags.append(AnnotatedTag(name, ref.oid, commit, version_in(name, prefix)))
    return tags


class Ancestry:
    """The ancestors of commits."""

    def __init__(self, repository: Repository) -> None:
        self._objects = repository.objects
        grafts = read_grafts(repository.common_dir, repository.hash_size, repository.environment)
        use_graph = repository.config.bool("core.commitgraph", True)
        self._commits = Commits(self._objects, grafts, strict=True, use_graph=use_graph)

    def greatest(self, head: bytes, tags: Sequence[AnnotatedTag]) -> AnnotatedTag | None:
        """The tag of the greatest version among the ancestors of ``head``."""
        key, load = self._commits.walker()
        versions = sorted((tag for tag in tags if tag.version), key=_order, reverse=True)
        ancestors: set[CommitKey] = set()
        for commit in _newest_first([key(head)], load):
            ancestors.add(commit)
            if versions and commit == key(versions[0].commit):
                break
        return next((tag for tag in versions if key(tag.commit) in ancestors), None)

    def is_ancestor(self, commit: bytes, of: bytes) -> bool:
        """Whether ``commit`` is ``of`` or one of its ancestors, like ``git merge-base --is-ancestor``."""
        key, load = self._commits.walker()
        return key(commit) in _newest_first([key(of)], load)

    def subjects(self, head: bytes, since: bytes | None) -> list[str]:
        """The subjects of the commits in ``since..head``, one line each, newest first."""
        key, load = self._commits.walker()
        ancestors = set(_newest_first([key(since)], load)) if since else set()
        commits = _newest_first([head], self._commits.load, lambda oid: key(oid) in ancestors)
        return [_subject(self._objects.read(oid)[1]) for oid in commits]


def _order(tag: AnnotatedTag) -> tuple[object, ...]:
    assert tag.version
    return precedence(tag.version)


def _newest_first(
    starts: Sequence[_Commit],
    load: Callable[[_Commit], tuple[int, Sequence[_Commit]]],
    is_excluded: Callable[[_Commit], bool] = lambda _: False,
) -> Iterator[_Commit]:
    queue: list[tuple[int, int, _Commit, Sequence[_Commit]]] = []
    visits: set[_Commit] = set()

    def add(commits: Sequence[_Commit]) -> None:
        for commit in commits:
            if commit not in visits and not is_excluded(commit):
                visits.add(commit)
                date, parents = load(commit)
                heappush(queue, (-date, len(visits), commit, parents))

    add(starts)
    while queue:
        _, _, commit, parents = heappop(queue)
        yield commit
        add(parents)


def _subject(commit: bytes) -> str:
    """The first paragraph of the message on one line, as ``git log --format=%s`` prints it."""
    head, _, message = commit.partition(b"\n\n")
    encoding = _ENCODING.search(head)
    try:
        text = message.decode(encoding[1].decode("ascii", "replace") if encoding else "utf-8", "replace")
    except LookupError:
        text = message.decode("utf-8", "replace")
    paragraph = text.strip("\n").partition("\n\n")[0]
    return " ".join(line.strip() for line in paragraph.splitlines()).strip()
