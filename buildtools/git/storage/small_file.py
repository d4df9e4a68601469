"""Small files, read in the fastest way: opening a repository looks for a dozen, most of which do not exist."""

from __future__ import annotations

import os

_CHUNK = 1 << 16


def content(path: str) -> bytes | None:
    """The whole content; ``None`` if there is no such file.

    :raises OSError: if it exists and cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return None  # a name with a null in it, as a damaged ref may have
    try:
        start = os.read(descriptor, _CHUNK)
        if len(start) < _CHUNK:
            return start
        pieces = [start]
        while pieces[-1]:
            pieces.append(os.read(descriptor, _CHUNK))
        return b"".join(pieces)
    except IsADirectoryError:
        return None
    finally:
        os.close(descriptor)


def text(path: str) -> str | None:
    """The whole content as text, or ``None``; bytes that are not UTF-8 become surrogates (``surrogateescape``).

    :raises OSError: if it exists and cannot be read.
    """
    data = content(path)
    return None if data is None else data.decode("utf-8", "surrogateescape")
