"""git's glob patterns (``wildmatch.c``), translated to regular expressions over bytes.

A pattern that git considers malformed (an open bracket, an unknown ``[:class:]``, a backslash at the end) matches
nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CLASSES = {
    b"alnum": re.compile(rb"[0-9A-Za-z]"),
    b"alpha": re.compile(rb"[A-Za-z]"),
    b"blank": re.compile(rb"[ \t]"),
    b"cntrl": re.compile(rb"[\x00-\x1f\x7f]"),
    b"digit": re.compile(rb"[0-9]"),
    b"graph": re.compile(rb"[!-~]"),
    b"lower": re.compile(rb"[a-z]"),
    b"print": re.compile(rb"[ -~]"),
    b"punct": re.compile(rb"[!-/:-@\[-`{-~]"),
    b"space": re.compile(rb"[ \t\n\r]"),
    b"upper": re.compile(rb"[A-Z]"),
    b"xdigit": re.compile(rb"[0-9A-Fa-f]"),
}
_NEVER = re.compile(rb"(?!)")


class _MalformedError(Exception):
    pass


def wildmatch(pattern: bytes, text: bytes, *, pathname: bool = False, ignore_case: bool = False) -> bool:
    """Whether all of ``text`` matches; with ``pathname`` only ``**`` between slashes crosses a slash."""
    return compiled(pattern, pathname=pathname, ignore_case=ignore_case).fullmatch(text) is not None


@lru_cache(maxsize=1024)
def compiled(pattern: bytes, *, pathname: bool = False, ignore_case: bool = False) -> re.Pattern[bytes]:
    """The regular expression that ``wildmatch`` uses, for ``fullmatch``."""
    try:
        expression = _translation(pattern, pathname=pathname)
    except _MalformedError:
        return _NEVER
    return re.compile(expression, re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _translation(pattern: bytes, *, pathname: bool) -> bytes:
    one = b"[^/]" if pathname else b"."
    out = []
    at, end = 0, len(pattern)
    while at < end:
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            first = at - 1
            while pattern[at : at + 1] == b"*":
                at += 1
            alone = pathname and at - first > 1 and (first == 0 or pattern[first - 1 : first] == b"/")
            if not pathname:
                out.append(b".*")
            elif alone and pattern[at : at + 1] == b"/":
                out.append(b"(?:.*/)?")
                at += 1
            elif alone and (at == end or pattern[at : at + 2] == b"\\/"):
                out.append(b".*")
            else:
                out.append(b"[^/]*")
        elif char == b"?":
            out.append(one)
        elif char == b"[":
            members, at = _bracket(pattern, at)
            if pathname:
                members.discard(ord("/"))
            out.append(
                b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]" if members else b"(?!)"
            )
        elif char == b"\\":
            if at == end:
                raise _MalformedError
            out.append(re.escape(pattern[at : at + 1]))
            at += 1
        else:
            out.append(re.escape(char))
    return b"".join(out)


def _bracket(pattern: bytes, at: int) -> tuple[set[int], int]:
    """The bytes that a bracket expression stands for, and the position after it."""
    is_negative = pattern[at : at + 1] in (b"!", b"^")
    if is_negative:
        at += 1
    members: set[int] = set()
    previous = 0
    first = True
    while True:
        if at >= len(pattern):
            raise _MalformedError
        char = pattern[at]
        if char == 0x5D and not first:  # ]
            break
        first = False
        if char == 0x5C:  # backslash
            at += 1
            if at >= len(pattern):
                raise _MalformedError
            char = pattern[at]
            members.add(char)
        elif char == 0x2D and previous and at + 1 < len(pattern) and pattern[at + 1] != 0x5D:  # a range
            at += 1
            if pattern[at] == 0x5C:
                at += 1
                if at >= len(pattern):
                    raise _MalformedError
            members.update(range(previous, pattern[at] + 1))
            char = 0
        elif char == 0x5B and pattern[at + 1 : at + 2] == b":":  # [:class:]
            close = pattern.find(b"]", at + 2)
            if close < 0:
                raise _MalformedError
            if close - at - 3 < 0 or pattern[close - 1] != 0x3A:
                members.add(char)
            else:
                characters = _CLASSES.get(pattern[at + 2 : close - 1])
                if characters is None:
                    raise _MalformedError
                members.update(byte for byte in range(256) if characters.match(bytes([byte])))
                at, char = close, 0
        else:
            members.add(char)
        previous = char
        at += 1
    if is_negative:
        members = set(range(256)) - members
    return members, at + 1
