"""Answers of HTTP/1.1, read off a connection: https://www.rfc-editor.org/rfc/rfc9112.

http.client reads their headers with a parser for mail, which takes longer than all else that a small request does here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http.client import BadStatusLine, HTTPException, IncompleteRead, LineTooLong, RemoteDisconnected
from typing import IO

from buildtools.frozen import frozen

_LONGEST_LINE = 65536
_MOST_FIELDS = 200


class Headers:
    """The fields of a header, by their names in any case."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in fields:
            self._fields.setdefault(name.lower(), []).append(value)

    def get(self, name: str, default: str = "") -> str:
        """The first value of a field."""
        return next(iter(self.get_all(name)), default)

    def get_all(self, name: str) -> list[str]:
        """All values of a field, in their order."""
        return self._fields.get(name.lower(), [])


@frozen
class Response:
    """What a server answered, read to its end. ``is_last`` says that its connection is not to be used again."""

    status: int
    headers: Headers
    data: bytes
    is_last: bool = False


def read_answer(stream: IO[bytes], method: str) -> Response:
    """The answer to a request with this method.

    :raises HTTPException: what comes is no HTTP, or ends too early.
    """
    while True:
        version, status = _read_status(stream)
        headers = Headers(_read_fields(stream))
        # Section 15.2 of RFC 9110: any number of interim answers may come first.
        if status >= 200:
            break
    wishes = headers.get("Connection").lower()
    is_last = "close" in wishes or (version == b"HTTP/1.0" and "keep-alive" not in wishes)
    length = headers.get("Content-Length")
    # Section 6.3 says in this order how long a body is.
    if method == "HEAD" or status in (204, 304):
        data = b""
    elif "chunked" in headers.get("Transfer-Encoding").lower():
        data = b"".join(_read_chunks(stream))
    elif length:
        data = _read_exactly(stream, _number(length.encode(), 10))
    else:
        data, is_last = stream.read(), True
    return Response(status, headers, data, is_last)


def _read_status(stream: IO[bytes]) -> tuple[bytes, int]:
    line = stream.readline(_LONGEST_LINE)
    if not line:
        raise RemoteDisconnected("the connection was closed without an answer")
    version, _, rest = line.partition(b" ")
    status = rest[:3]
    if not (version.startswith(b"HTTP/1.") and len(status) == 3 and status.isdigit()):
        raise BadStatusLine(line[:80].decode("latin-1"))
    return version, int(status)


def _read_fields(stream: IO[bytes]) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    while line := _read_line(stream):
        if line[:1] in b" \t" and fields:
            # A value that goes on in the next line, which nobody may write any more: section 5.2.
            name, value = fields.pop()
            fields.append((name, f"{value} {line.decode('latin-1').strip()}"))
            continue
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise HTTPException(f"{line[:80]!r} is no field of a header")
        fields.append((name.strip(), value.strip()))
        if len(fields) > _MOST_FIELDS:
            raise HTTPException(f"a header of more than {_MOST_FIELDS} fields")
    return fields


def _read_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while size := _number(_read_line(stream).partition(b";")[0], 16):
        yield _read_exactly(stream, size)
        _read_line(stream)
    while _read_line(stream):
        pass


def _read_line(stream: IO[bytes]) -> bytes:
    line = stream.readline(_LONGEST_LINE + 1)
    if len(line) > _LONGEST_LINE:
        raise LineTooLong("answer")
    if not line.endswith(b"\n"):
        raise IncompleteRead(line)
    return line.rstrip(b"\r\n")


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise IncompleteRead(data, size - len(data))
    return data


def _number(digits: bytes, base: int) -> int:
    try:
        number = int(digits, base)
    except ValueError:
        number = -1
    if number < 0:
        raise HTTPException(f"{digits[:80]!r} is no length")
    return number
