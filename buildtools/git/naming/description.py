"""The result of describe."""

from __future__ import annotations

from buildtools.frozen import frozen


@frozen
class Description:
    """A described commit.

    ``text`` is the output of ``git describe``. ``tag`` is the tag's own name (empty if ``always`` gave the bare
    commit), ``distance`` the number of commits since, ``commit`` the full id, ``abbreviation`` its start as printed
    (empty if the text has none).
    """

    text: str
    tag: str
    distance: int
    commit: str
    abbreviation: str
    dirty: bool = False
