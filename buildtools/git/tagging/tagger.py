"""The tagger: name, email address and date, from where git takes them. https://git-scm.com/docs/git-commit-tree#_commit_information"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.git.config import Config

_SECONDS = re.compile(r"@?(\d{1,12})(?: ([+-])([01]\d|2[0-3])([0-5]\d))?")
# Three numbers with one separator, a time, and perhaps an offset from UTC: git's match_multi_num, date.c.
_NUMBERS = re.compile(r"(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})[ T]+(\d{1,2}:\d\d(?::\d\d)?)\s*([+-]\d{4}|Z)?")
# The characters that git strips from both ends of a name, and those that it removes inside: ident.c
_STRIPPED_ENDS = "".join(map(chr, range(33))) + ".,:;<>\"\\'"
_REMOVED_INSIDE = str.maketrans("", "", "\n<>")


@frozen
class Tagger:
    """``identity`` is ``NAME <EMAIL>``; ``seconds`` since 1970, ``offset`` in seconds east of UTC."""

    identity: str
    seconds: int
    offset: int


def read_tagger(config: Config, environment: Mapping[str, str]) -> Tagger:
    """The committer, now or at ``GIT_COMMITTER_DATE``.

    If nothing is configured, git guesses from the account and the host name; a release does not.

    :raises Refused: if there is no name or email address, or the date is invalid.
    """
    name = _first(environment.get("GIT_COMMITTER_NAME"), config.get("committer.name"), config.get("user.name"))
    email = _first(
        environment.get("GIT_COMMITTER_EMAIL"),
        config.get("committer.email"),
        config.get("user.email"),
        environment.get("EMAIL"),
    )
    missing = [key for key, value in (("user.name", name), ("user.email", email)) if not value]
    if missing:
        raise Refused(
            f"the tagger is unknown: {' and '.join(missing)} not set",
            f"run {' and '.join(f'`git config {key} ...`' for key in missing)}, "
            "or set GIT_COMMITTER_NAME and GIT_COMMITTER_EMAIL",
        )
    seconds, offset = _moment(environment.get("GIT_COMMITTER_DATE", ""))
    return Tagger(f"{name} <{email}>", seconds, offset)


def _first(*values: str | None) -> str:
    return next(
        (text for value in values if (text := (value or "").strip(_STRIPPED_ENDS).translate(_REMOVED_INSIDE))), ""
    )


def _moment(text: str) -> tuple[int, int]:
    """Seconds and offset of a date; those of now if ``text`` is empty. https://git-scm.com/docs/git-commit#_date_formats"""
    if not text:
        return _of(datetime.now().astimezone())
    match = _SECONDS.fullmatch(text.strip())
    if match and match[2] is None:
        return int(match[1]), _of(datetime.fromtimestamp(int(match[1])).astimezone())[1]
    if match:
        offset = int(match[3] or 0) * 3600 + int(match[4] or 0) * 60
        return int(match[1]), -offset if match[2] == "-" else offset
    for parse in (_iso, _numbers, _mail):
        try:
            return _of(parse(text))
        except ValueError:
            continue
    raise Refused(f"invalid GIT_COMMITTER_DATE {text!r}", "write it as 2026-01-31T12:00:00+00:00")


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(re.sub(r" ([+-]\d{4})$", r"\1", text.strip()))


def _numbers(text: str) -> datetime:
    match = _NUMBERS.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    first, separator, second, third = match[1], match[2], match[3], match[4]
    if len(first) > 2:
        orders = [(first, second, third), (first, third, second)]
    else:
        # With dots the day comes first, otherwise the month; reversed if the first number cannot be that.
        orders = [(third, second, first), (third, first, second)]
        if separator != ".":
            orders.reverse()
    for year, month, day in orders:
        if 1 <= int(month) <= 12:
            time = match[5] if len(match[5]) > 5 else f"{match[5]}:00"
            date = f"{_full_year(int(year)):04}-{int(month):02}-{int(day):02}"
            return _iso(f"{date} {time.zfill(8)} {match[6] or ''}".strip())
    raise ValueError(text)


def _mail(text: str) -> datetime:
    # What the library does not know at the end it passes over: `pm`, or the name of a time zone.
    word = re.search(r"[A-Za-z]+$", text.strip())
    if word and word[0].upper() not in ("GMT", "UT", "UTC", "Z"):
        raise ValueError(text)
    return parsedate_to_datetime(text)


def _full_year(year: int) -> int:
    """The four-digit year; 70 to 99 are in the last century, 0 to 37 in this one."""
    return year + 1900 if 70 <= year < 100 else year + 2000 if year < 38 else year


def _of(moment: datetime) -> tuple[int, int]:
    local = moment if moment.tzinfo else moment.astimezone()
    offset = local.utcoffset()
    assert offset is not None
    # A tag stores minutes only, and some old time zones have offsets with seconds.
    return int(local.timestamp()), int(offset.total_seconds()) // 60 * 60
