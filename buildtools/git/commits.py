"""Commits as a walk needs them: date and parents, with grafts and shallow borders in force."""

from __future__ import annotations

import re
from collections.abc import Mapping

from buildtools.git.errors import DamagedRepository, MissingObject
from buildtools.git.objects import Objects

_NUMBER = re.compile(rb"\s*(-?)(\d+)")
_LARGEST = (1 << 64) - 1


def date_of(line: bytes) -> int:
    """The seconds since 1970 in an author, committer or tagger line; 0 where there is no number."""
    found = _NUMBER.match(line, line.rfind(b">") + 1) if b">" in line else None
    if not found:
        return 0
    seconds = min(int(found[2]), _LARGEST)
    return _LARGEST + 1 - seconds if found[1] and seconds else seconds


def parsed(content: bytes, hash_size: int) -> tuple[int, list[bytes]]:
    """Committer date and parents of a commit.

    :raises ValueError: it does not start as a commit does.
    """
    digits = hash_size * 2
    at = 6 + digits
    if not content.startswith(b"tree ") or content[at - 1 : at] != b"\n":
        raise ValueError("no tree")
    parents = []
    width = digits + 8
    while content.startswith(b"parent ", at):
        if content[at + width - 1 : at + width] != b"\n":
            raise ValueError("a broken parent line")
        parents.append(bytes.fromhex(content[at + 7 : at + 7 + digits].decode("latin-1")))
        at += width
    if not content.startswith(b"author ", at):
        return 0, parents
    start = content.find(b"\n", at) + 1
    end = content.find(b"\n", start)
    if not start or end < 0 or not content.startswith(b"committer ", start):
        return 0, parents
    return date_of(content[start:end]), parents


class Commits:
    """Date and parents by id.

    ``grafts`` maps a commit to the parents it is to have; a shallow clone's border has none. With ``strict`` a commit
    that is missing is an error; git itself goes on as if it had neither date nor parents.
    """

    def __init__(self, objects: Objects, grafts: Mapping[bytes, list[bytes]], *, strict: bool) -> None:
        self._objects = objects
        self._grafts = grafts
        self._strict = strict
        self._shallow = frozenset(oid for oid, parents in grafts.items() if not parents)
        self.met: set[bytes] = set()

    def load(self, oid: bytes) -> tuple[int, list[bytes]]:
        """Date and parents.

        :raises DamagedRepository: the commit cannot be read.
        """
        if oid in self._shallow:
            self.met.add(oid)
        try:
            kind, content = self._objects.read(oid)
        except MissingObject:
            if self._strict:
                raise
            return 0, []
        if kind != "commit":
            raise DamagedRepository(f"object {oid.hex()} is a {kind} where a commit is expected")
        try:
            date, parents = parsed(content, self._objects.hash_size)
        except ValueError as error:
            raise DamagedRepository(f"commit {oid.hex()} cannot be understood ({error})") from None
        return date, self._grafts.get(oid, parents)


def read_grafts(common_dir: str, hash_size: int, environment: Mapping[str, str]) -> dict[bytes, list[bytes]]:
    """What ``info/grafts`` and ``shallow`` say about parents.

    :raises DamagedRepository: the list of the shallow border is malformed.
    """
    grafts: dict[bytes, list[bytes]] = {}
    word = re.compile(f"[0-9a-f]{{{hash_size * 2}}}")
    for line in _lines(environment.get("GIT_GRAFT_FILE") or f"{common_dir}/info/grafts"):
        words = line.rstrip().split(" ")
        if not line.startswith("#") and all(map(word.fullmatch, words)):
            first, *parents = map(bytes.fromhex, words)
            grafts.setdefault(first, parents)
    return grafts


def read_shallow(common_dir: str, hash_size: int, environment: Mapping[str, str]) -> list[bytes]:
    """The commits whose parents were not fetched."""
    path = environment.get("GIT_SHALLOW_FILE") or f"{common_dir}/shallow"
    found = []
    for line in _lines(path):
        if not re.fullmatch(f"[0-9a-f]{{{hash_size * 2}}}", line):
            raise DamagedRepository(f"{path} has a line that is no object name")
        found.append(bytes.fromhex(line))
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
