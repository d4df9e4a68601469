"""Dates in names such as ``main@{yesterday}``: the common part of git's free-form dates."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from buildtools.git.errors import BadRevision

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
_MONTHS = {"month": 1, "year": 12}
_AGO = re.compile(r"(\d+|an?|last|one|two|three|four|five|six|seven|eight|nine|ten)[ .]+([a-z]+?)s?(?=$|[ .])")
_NUMBERS = ["last", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def seconds_of(text: str) -> int:
    """Seconds since 1970 of a date: ISO 8601, a unix time, ``now``, ``yesterday``, ``2 weeks ago``, ``1.day.ago``.

    :raises BadRevision: if the date is not understood.
    """
    plain = text.strip().lower()
    if re.fullmatch(r"@?\d{9,18}", plain):
        return int(plain.removeprefix("@"))
    now = datetime.fromtimestamp(time.time(), UTC).astimezone()
    if plain in ("now", "today"):
        return int(now.timestamp())
    if plain == "yesterday":
        return int((now - timedelta(days=1)).timestamp())
    if re.fullmatch(rf"(?:{_AGO.pattern}[ .]*)+(?:ago)?", plain):
        return _before(now, _AGO.findall(plain), text)
    try:
        moment = datetime.fromisoformat(re.sub(r" ([+-]\d{4})$", r"\1", text.strip()))
    except ValueError:
        raise _unknown(text) from None
    if re.fullmatch(r"\d{4}-\d\d-\d\d", plain):
        # A date alone means that day at the present time of day.
        moment = moment.replace(hour=now.hour, minute=now.minute, second=now.second)
    return int(moment.timestamp())


def _before(now: datetime, pairs: list[tuple[str, str]], text: str) -> int:
    for amount, unit in pairs:
        count = int(amount) if amount.isdigit() else 1 if amount in ("a", "an", "last") else _NUMBERS.index(amount)
        if unit in _UNITS:
            now -= timedelta(seconds=count * _UNITS[unit])
        elif unit in _MONTHS:
            months = now.year * 12 + now.month - 1 - count * _MONTHS[unit]
            # A day that the month does not have overflows into the next month, like in mktime.
            first = now.replace(year=months // 12, month=months % 12 + 1, day=1)
            now = first + timedelta(days=now.day - 1)
        else:
            raise _unknown(text)
    return int(now.timestamp())


def _unknown(text: str) -> BadRevision:
    return BadRevision(f"the date {text!r} is not understood", "write it as 2026-01-31T12:00:00+00:00")
