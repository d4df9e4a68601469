"""Protocol buffers on the wire, as far as BuildKit's messages need them.

The encoding: https://protobuf.dev/programming-guides/encoding/. Field numbers are named where messages are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


def varint(number: int) -> bytes:
    """``number`` in base 128, least significant group first; a negative one as its 64-bit complement."""
    if 0 <= number < 0x80:
        return _SMALL[number]
    number &= 0xFFFF_FFFF_FFFF_FFFF
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


_SMALL = [bytes((number,)) for number in range(0x80)]


@cache
def _tag(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def int_field(field: int, value: int) -> bytes:
    """One integer, enumeration or boolean; nothing for 0, which is what an absent field means."""
    return _tag(field, _VARINT) + varint(value) if value else b""


def bytes_field(field: int, value: bytes) -> bytes:
    """One byte string or embedded message, even an empty one."""
    return bytes_head(field, len(value)) + value


def bytes_head(field: int, size: int) -> bytes:
    """What precedes the bytes of such a field."""
    return _tag(field, _BYTES) + varint(size)


def string_field(field: int, value: str) -> bytes:
    """One string; nothing for an empty one. File names keep bytes that are not UTF-8."""
    return bytes_field(field, value.encode("utf-8", "surrogateescape")) if value else b""


def map_field(field: int, values: Mapping[str, str]) -> bytes:
    """A ``map<string, string>``."""
    return b"".join(bytes_field(field, string_field(1, key) + string_field(2, value)) for key, value in values.items())


class Message:
    """A received message. An absent field reads as its zero value, as the encoding demands.

    :raises ValueError: if the bytes are not a message.
    """

    def __init__(self, data: bytes | memoryview = b"") -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        view, at = memoryview(data), 0
        while at < len(view):
            tag, at = _read_varint(view, at)
            kind = tag & 7
            value: int | memoryview
            if kind == _VARINT:
                value, at = _read_varint(view, at)
            else:
                if kind == _BYTES:
                    size, at = _read_varint(view, at)
                elif kind in _WIDTHS:
                    size = _WIDTHS[kind]
                else:
                    raise ValueError(f"wire type {kind} is not known")
                if size > len(view) - at:
                    raise ValueError("the message is cut off")
                value = view[at : at + size]
                at += size
            self._fields.setdefault(tag >> 3, []).append(value)

    def number(self, field: int) -> int:
        """A signed integer or enumeration."""
        value = self._fields.get(field, (0,))[-1]
        if not isinstance(value, int):
            raise ValueError(f"field {field} is not a number")
        return value - (1 << 64) if value >> 63 else value

    def blob(self, field: int) -> bytes:
        """A byte string."""
        return bytes(self._views(field)[-1]) if field in self._fields else b""

    def text(self, field: int) -> str:
        """A string; invalid UTF-8 in it is replaced."""
        return self.blob(field).decode("utf-8", "replace")

    def message(self, field: int) -> Message | None:
        """An embedded message, or None if it is absent."""
        return Message(self._views(field)[-1]) if field in self._fields else None

    def messages(self, field: int) -> list[Message]:
        """All values of a repeated message."""
        return [Message(view) for view in self._views(field)]

    def table(self, field: int) -> dict[str, str]:
        """A ``map<string, string>``."""
        return {entry.text(1): entry.text(2) for entry in self.messages(field)}

    def _views(self, field: int) -> list[memoryview]:
        values = self._fields.get(field, [])
        views = [value for value in values if isinstance(value, memoryview)]
        if len(views) != len(values):
            raise ValueError(f"field {field} is a number")
        return views


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while at < len(view) and shift < 70:
        group = view[at]
        at += 1
        result |= (group & 0x7F) << shift
        if group < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise ValueError("a number is cut off or too long")
