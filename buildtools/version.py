"""Versions: the text of ``git describe --dirty`` without the tag prefix, its parts, its order and its mappings."""

from __future__ import annotations

import re
from functools import total_ordering

from buildtools import Refused
from buildtools.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from semver import Version as SemanticVersion

_TEXT = re.compile(r"(?P<base>.+?)(?:-(?P<distance>[0-9]+)-g(?P<abbreviation>[0-9a-f]{4,64}))?(?P<dirty>-dirty)?")
# https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
IMAGE_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@total_ordering
@frozen
class Version:
    """One version of everything in the repository.

    ``base`` is the annotated tag without its prefix, ``distance`` the number of commits since, ``commit`` the full id
    of the described commit (empty for a version that was parsed from text).
    """

    base: str
    distance: int = 0
    abbreviation: str = ""
    dirty: bool = False
    commit: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """The version that ``text`` spells.

        :raises Refused: if the text is empty or can never be an image tag.
        """
        match = _TEXT.fullmatch(text)
        if not match:
            raise Refused(f"{text!r} is not a version", "give one as `invoke version` or `git describe` prints it")
        version = cls(
            match["base"], int(match["distance"] or 0), match["abbreviation"] or "", dirty=bool(match["dirty"])
        )
        version.image_tag  # noqa: B018  raises for texts that can never be a tag
        return version

    @property
    def text(self) -> str:
        """The text that ``git describe --dirty`` prints, without the tag prefix."""
        suffix = f"-{self.distance}-g{self.abbreviation}" if self.abbreviation else ""
        return f"{self.base}{suffix}{'-dirty' if self.dirty else ''}"

    def __str__(self) -> str:
        return self.text

    @property
    def is_release(self) -> bool:
        """Whether this is a tagged commit with a clean worktree."""
        return not (self.distance or self.abbreviation or self.dirty)

    @property
    def image_tag(self) -> str:
        """The text as an image tag: every character that a tag cannot have becomes ``_``.

        Two versions may map to one tag. Publishing detects that, because the manifest under that name has the version's
        own text.

        :raises Refused: if the tag would be too long, or start with a character that a tag cannot start with.
        """
        tag = re.sub(r"[^A-Za-z0-9_.-]", "_", self.text)
        if not IMAGE_TAG.fullmatch(tag):
            raise Refused(
                f"the version {self.text!r} cannot be an image tag",
                "a tag has at most 128 characters and starts with a letter, a digit or _; rename the git tag",
            )
        return tag

    def archive_name(self, name: str) -> str:
        """The file name of a distribution's archive: ``NAME-VERSION.tgz``."""
        return f"{self.root_name(name)}.tgz"

    def root_name(self, name: str) -> str:
        """The single root folder in a distribution's archive: ``NAME-VERSION``."""
        return f"{name}-{self.image_tag}"

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Version) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __lt__(self, other: Version) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[object, ...]:
        # A commit after a tag is later than the tag but earlier than any greater tag, so the base decides first. semver
        # would read the suffix as a pre-release and sort it below its own tag.
        return (*_base_order(self.base), self.distance, self.dirty, self.text)


def _base_order(base: str) -> tuple[object, ...]:
    import semver

    try:
        number = semver.Version.parse(base, optional_minor_and_patch=True)
    except ValueError:
        # Anything else sorts below all semantic versions, by its numbers and words.
        return (0, tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", base)))
    return (1, *precedence(number))


def precedence(number: SemanticVersion) -> tuple[object, ...]:
    """A sort key for semantic versions. https://semver.org/spec/v2.0.0.html#spec-item-11

    One difference: a number at the end of a word counts as a number, so ``rc10`` follows ``rc9``. Semantic Versioning
    compares them as text and puts ``rc10`` first, which nobody who tags ``rc10`` after ``rc9`` means.
    """
    # A version without a pre-release is greater than those with one, and a number is less than a word.
    identifiers = number.prerelease.split(".") if number.prerelease else []
    pre_release = tuple((0, "", int(text)) if text.isdigit() else (1, *split_number(text)) for text in identifiers)
    return number.major, number.minor, number.patch, not identifiers, pre_release


def split_number(text: str) -> tuple[str, int]:
    """The text without the number at its end, and that number; -1 if there is none."""
    word = text.rstrip("0123456789")
    return word, int(text[len(word) :] or -1)
