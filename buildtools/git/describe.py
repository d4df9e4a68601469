"""The name of a commit after the nearest tag, as ``git describe`` prints it, without git.

In process: :func:`describe`. As a drop-in program: ``python -m buildtools.git.describe``, with git's own stdout and
exit status (``--help`` lists its options).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from buildtools.git.naming.describer import Describer, Options
from buildtools.git.naming.walk import MOST_CANDIDATES
from buildtools.git.repository import Repository

TYPE_CHECKING = False  # type checkers know this name; importing `typing` costs time
if TYPE_CHECKING:
    from pathlib import Path

    from buildtools.git.naming.description import Description

WALKS = ("2.47", "2.48")


def describe(
    path: str | Path,
    *,
    environment: Mapping[str, str],
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
    strict: bool = True,
) -> Description:
    """Describe a commit of the repository that git would find from ``path``.

    The options are those of ``git describe``. ``dirty`` and ``broken`` are the suffixes for HEAD's name (``"-dirty"``,
    ``"-broken"``), ``None`` for none. ``walk`` selects the walk of git up to 2.47 or from 2.48 on; they differ in rare
    histories. With ``strict`` (the default) the call fails if missing history may make the result wrong; git returns it
    anyway.

    :raises NotARepository: if there is no repository.
    :raises NoCommit: if HEAD has no commit yet.
    :raises NoTag: if no tag fits.
    :raises ShallowClone: if the tag may be outside the history of a shallow clone.
    :raises BadRevision: if ``commit`` does not exist, or the options contradict each other.
    :raises BadConfig: if git's configuration is malformed.
    :raises DamagedRepository: if an object, pack, index or ref cannot be read.
    """
    from buildtools.git.naming.description import Description

    if walk not in WALKS:
        raise ValueError(f"walk must be one of {WALKS}")
    options = Options()
    options.all, options.tags, options.long, options.always = all, tags, long, always
    options.first_parent, options.abbrev = first_parent, abbrev
    options.candidates = 0 if exact_match else min(max(candidates, 0), MOST_CANDIDATES)
    options.match = tuple(pattern.encode("utf-8", "surrogateescape") for pattern in match)
    options.exclude = tuple(pattern.encode("utf-8", "surrogateescape") for pattern in exclude)
    options.dirty, options.broken = dirty, broken
    options.old_git, options.strict = walk == "2.47", strict
    describer = Describer(Repository.open(path, environment), options)
    answer, is_dirty = describer.head() if commit == "HEAD" else (describer.describe(commit), False)
    return Description(
        answer.text, answer.tag, answer.distance, answer.commit.hex(), answer.abbreviation, dirty=is_dirty
    )


if __name__ == "__main__":
    from buildtools.git.naming.describe_command import main

    main()
