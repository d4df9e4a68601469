"""What lies behind HEAD for a release: the versions that were tagged, and what has happened since."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import TypeVar

from buildtools.frozen import frozen
from buildtools.git.naming.names import peeled
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import Commits, Key, read_grafts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from semver import Version as SemanticVersion

_Any = TypeVar("_Any")
_TAGS = b"refs/tags/"
_ENCODING = re.compile(rb"^encoding ([^\n]+)$", re.MULTILINE)


@frozen
class AnnotatedTag:
    """An annotated tag with the configured prefix. ``version`` is ``None`` where the rest is no semantic version."""

    name: str
    oid: bytes
    commit: bytes
    version: SemanticVersion | None


def annotated_tags(repository: Repository, prefix: str) -> list[AnnotatedTag]:
    """Every annotated tag whose name starts with the prefix."""
    found = []
    start = prefix.encode("utf-8", "surrogateescape")
    for ref in repository.refs.under(_TAGS):
        short = ref.name.removeprefix(_TAGS)
        commit = ref.peeled or (ref.oid and peeled(repository.objects, ref.oid))
        if ref.oid is None or not commit or commit == ref.oid or not short.startswith(start):
            continue
        name = short.decode("utf-8", "surrogateescape")
        found.append(AnnotatedTag(name, ref.oid, commit, version_in(name, prefix)))
    return found


def version_in(name: str, prefix: str) -> SemanticVersion | None:
    """The semantic version behind the prefix of a tag's name; ``1.2`` is ``1.2.0``."""
    import semver

    try:
        return semver.Version.parse(name.removeprefix(prefix), optional_minor_and_patch=True)
    except ValueError:
        return None


class History:
    """The commits that lead to others."""

    def __init__(self, repository: Repository) -> None:
        self._objects = repository.objects
        grafts = read_grafts(repository.common_dir, repository.hash_size, repository.environment)
        use_graph = repository.config.bool("core.commitgraph", True)
        self._commits = Commits(self._objects, grafts, strict=True, use_graph=use_graph)

    def greatest(self, head: bytes, tags: Sequence[AnnotatedTag]) -> AnnotatedTag | None:
        """The tag of the greatest version that ``head`` descends from."""
        key, load = self._commits.walker()
        versions = sorted((tag for tag in tags if tag.version), key=_order, reverse=True)
        seen: set[Key] = set()
        for commit in _newest_first([key(head)], load):
            seen.add(commit)
            if versions and commit == key(versions[0].commit):
                break
        return next((tag for tag in versions if key(tag.commit) in seen), None)

    def is_ancestor(self, commit: bytes, of: bytes) -> bool:
        """Whether ``of`` descends from ``commit``, or is it."""
        key, load = self._commits.walker()
        return key(commit) in _newest_first([key(of)], load)

    def subjects(self, head: bytes, since: bytes | None) -> list[str]:
        """The one-line subjects of the commits that ``since`` does not have, newest first."""
        key, load = self._commits.walker()
        known = set(_newest_first([key(since)], load)) if since else set()
        since_then = _newest_first([head], self._commits.load, lambda oid: key(oid) in known)
        return [_subject(self._objects.read(oid)[1]) for oid in since_then]


def _order(tag: AnnotatedTag) -> SemanticVersion:
    assert tag.version
    return tag.version


def _newest_first(
    starts: Sequence[_Any],
    load: Callable[[_Any], tuple[int, Sequence[_Any]]],
    is_left_out: Callable[[_Any], bool] = lambda _: False,
) -> Iterator[_Any]:
    queue: list[tuple[int, int, _Any, Sequence[_Any]]] = []
    seen: set[_Any] = set()

    def add(commits: Sequence[_Any]) -> None:
        for commit in commits:
            if commit not in seen and not is_left_out(commit):
                seen.add(commit)
                date, parents = load(commit)
                heappush(queue, (-date, len(seen), commit, parents))

    add(starts)
    while queue:
        _, _, commit, parents = heappop(queue)
        yield commit
        add(parents)


def _subject(commit: bytes) -> str:
    """As git's ``%s``: the first paragraph, on one line."""
    head, _, message = commit.partition(b"\n\n")
    encoding = _ENCODING.search(head)
    try:
        text = message.decode(encoding[1].decode("ascii", "replace") if encoding else "utf-8", "replace")
    except LookupError:
        text = message.decode("utf-8", "replace")
    paragraph = text.strip("\n").partition("\n\n")[0]
    return " ".join(line.strip() for line in paragraph.splitlines()).strip()
