"""What describe found out about a commit."""

from __future__ import annotations

from buildtools.frozen import frozen


@frozen
class Description:
    """A commit described.

    ``text`` is what ``git describe`` prints. ``tag`` is the tag's own name (empty where ``always`` gave the bare
    commit), ``distance`` the number of commits since, ``commit`` the full id, ``abbreviation`` its start as shown
    (empty where the text has none).
    """

    text: str
    tag: str
    distance: int
    commit: str
    abbreviation: str
    dirty: bool = False
