"""Who makes a tag and when, as git takes it. https://git-scm.com/docs/git-commit-tree#_commit_information"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.git.config import Config

_SECONDS = re.compile(r"@?(\d{1,12})(?: ([+-])(0\d|1[0-4])([0-5]\d))?")
# What git takes off both ends of a name, and out of it: ident.c
_AROUND = "".join(map(chr, range(33))) + ".,:;<>\"\\'"
_INSIDE = str.maketrans("", "", "\n<>")


@frozen
class Tagger:
    """``identity`` is ``NAME <EMAIL>``; ``seconds`` since 1970, ``offset`` in seconds east of UTC."""

    identity: str
    seconds: int
    offset: int


def read_tagger(config: Config, environment: Mapping[str, str]) -> Tagger:
    """The committer of this moment, or of ``GIT_COMMITTER_DATE``.

    git would make up what is not configured from the account and the host; a release does not.

    :raises Refused: no name, no address, or a date that is not understood.
    """
    name = _first(environment.get("GIT_COMMITTER_NAME"), config.get("committer.name"), config.get("user.name"))
    email = _first(
        environment.get("GIT_COMMITTER_EMAIL"),
        config.get("committer.email"),
        config.get("user.email"),
        environment.get("EMAIL"),
    )
    missing = [what for what, value in (("user.name", name), ("user.email", email)) if not value]
    if missing:
        raise Refused(
            f"git does not know who makes the tag: {' and '.join(missing)} not set",
            f"run {' and '.join(f'`git config {what} ...`' for what in missing)}, "
            "or set GIT_COMMITTER_NAME and GIT_COMMITTER_EMAIL",
        )
    seconds, offset = _moment(environment.get("GIT_COMMITTER_DATE", ""))
    return Tagger(f"{name} <{email}>", seconds, offset)


def _first(*values: str | None) -> str:
    return next((cleaned for value in values if (cleaned := (value or "").strip(_AROUND).translate(_INSIDE))), "")


def _moment(text: str) -> tuple[int, int]:
    """Seconds and offset; now where there is no text. https://git-scm.com/docs/git-commit#_date_formats"""
    if not text:
        return _of(datetime.now().astimezone())
    counted = _SECONDS.fullmatch(text)
    if counted:
        offset = int(counted[3] or 0) * 3600 + int(counted[4] or 0) * 60
        return int(counted[1]), -offset if counted[2] == "-" else offset
    for read in (_iso, parsedate_to_datetime):
        try:
            return _of(read(text))
        except ValueError:
            continue
    raise Refused(f"GIT_COMMITTER_DATE is {text!r}, which is no date", "write it as 2026-01-31T12:00:00+00:00")


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(re.sub(r" ([+-]\d{4})$", r"\1", text.strip()))


def _of(moment: datetime) -> tuple[int, int]:
    there = moment if moment.tzinfo else moment.astimezone()
    offset = there.utcoffset()
    assert offset is not None
    # A tag has no room for the seconds that some old time zones are off by.
    return int(there.timestamp()), int(offset.total_seconds()) // 60 * 60
