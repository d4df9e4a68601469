"""The name of a commit after the nearest tag, as ``git describe`` tells it, without git.

In process: :func:`describe`. As a program that stands in for git's: ``python -m buildtools.git.describe``, with git's
own stdout and exit status (``--help`` lists what it takes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from buildtools.git.naming.describer import Describer, Options
from buildtools.git.naming.walk import MOST_CANDIDATES
from buildtools.git.repository import Repository

TYPE_CHECKING = False  # the name that type checkers know; `typing` itself is not needed to start
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

    The options are those of ``git describe``. ``dirty`` and ``broken`` are the marks to put behind HEAD's name
    (``"-dirty"``, ``"-broken"``), ``None`` for none. ``walk`` is git's up to 2.47 or from 2.48 on; they differ in rare
    histories. With ``strict`` (the default) the answer is refused where the history is cut off or has holes so
    that it may be wrong; git gives it all the same.

    :raises NotARepository: no repository is there.
    :raises NoCommit: HEAD has no commit yet.
    :raises NoTag: no tag fits.
    :raises ShallowClone: the tag may lie beyond the border of a shallow clone.
    :raises BadRevision: ``commit`` leads to nothing, or the options contradict each other.
    :raises BadConfig: git's configuration is malformed.
    :raises DamagedRepository: an object, pack, index or ref cannot be read.
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
