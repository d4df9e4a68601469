"""The ``working-tree-encoding`` attribute: converts text in another encoding to UTF-8.

Like git, this uses the C library's iconv: Python's codecs know other names and differ in rare characters.
https://git-scm.com/docs/gitattributes#_working_tree_encoding
"""

from __future__ import annotations

import codecs
import ctypes
import re

_MARKS = {
    "utf-16": (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE),
    "utf-32": (codecs.BOM_UTF32_BE, codecs.BOM_UTF32_LE),
}


def utf8_from(encoding: str, data: bytes) -> bytes:
    """``data`` as UTF-8; unchanged if it cannot be decoded, as in git."""
    name = re.sub(r"^utf-?", "utf-", encoding.lower())
    if name == "utf-8":
        return data
    # UTF-16 and UTF-32 must start with a byte order mark, and must not if the name gives the byte order.
    marks = _MARKS.get(name)
    if marks and not data.startswith(marks):
        return data
    mark = _MARKS.get(name[:-2]) if name[-2:] in ("be", "le") else None
    if mark and data.startswith(mark):
        return data
    if name == "utf-16le-bom":
        encoding = "UTF-16"
    for source in dict.fromkeys((encoding, "ISO-8859-1" if name == "latin-1" else encoding)):
        text = _iconv(source, data)
        if text is not None:
            return text
    return data


def _iconv(source: str, data: bytes) -> bytes | None:
    library = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_void_p
    library.iconv_open.restype = pointer
    library.iconv_close.argtypes = [pointer]
    library.iconv.restype = ctypes.c_size_t
    library.iconv.argtypes = [pointer] * 5
    descriptor = library.iconv_open(b"UTF-8", source.encode("latin-1"))
    error = ctypes.c_size_t(-1).value
    if descriptor in (None, error):
        return None
    try:
        # A character takes at most four bytes in UTF-8 for each byte it has in another encoding.
        room = 4 * len(data) + 16
        target = ctypes.create_string_buffer(room)
        in_buffer = ctypes.create_string_buffer(data, len(data))
        at, left = pointer(ctypes.addressof(in_buffer)), ctypes.c_size_t(len(data))
        out, free = pointer(ctypes.addressof(target)), ctypes.c_size_t(room)
        references = [ctypes.byref(value) for value in (at, left, out, free)]
        if library.iconv(descriptor, *references) == error:
            return None
        return target.raw[: room - free.value]
    finally:
        library.iconv_close(descriptor)
