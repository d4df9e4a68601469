"""JSON documents that lie in the store: told apart by their schema's number, and every value's type checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from buildtools import BuildToolsError, Refused
from buildtools.settings import is_host

_Value = TypeVar("_Value")

# Any other text would fail later, in a request or on a terminal, where nobody knows what is to blame.
_TEXTS: dict[str, Callable[[str], object]] = {
    "version": str.isprintable,
    "registry": is_host,
    "digest": re.compile(r"sha256:[0-9a-f]{64}").fullmatch,
    "attestation": re.compile(r"sha256:[0-9a-f]{64}").fullmatch,
    "sha256": re.compile(r"[0-9a-f]{64}").fullmatch,
}
_ANY_TEXT = re.compile(r"[!-~]*").fullmatch
_MOST_SHOWN = 80


def parse_document(
    content: bytes, where: str, noun: str, schema: int, build: Callable[[Mapping[str, Any]], _Value]
) -> _Value:
    """What ``build`` makes of a document's fields; ``where`` names the document to the user, ``noun`` its kind.

    :raises BuildToolsError: it is not such a document, is of another schema, or ``build`` finds a field that is missing
        or wrong (``KeyError``, ``TypeError``, ``Refused``).
    """
    try:
        document = json.loads(content)
        number = document["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BuildToolsError(
            f"{where} is not a {noun}", "something else wrote there; look at it and remove it by hand"
        ) from None
    if number != schema:
        raise BuildToolsError(
            f"{where} has schema {number!r}, this version knows {schema}", "use a newer lockstep-buildtools"
        )
    try:
        return build(document)
    except (KeyError, TypeError, Refused) as error:
        raise BuildToolsError(
            f"{where} is a damaged {noun} ({error})", "restore it from a backup of the bucket"
        ) from None


def value_of(document: Mapping[str, Any], key: str, kind: str) -> Any:
    """What a document has under a key; ``kind`` is the name of its type in Python.

    :raises KeyError: it has nothing there.
    :raises TypeError: it is of another type, or a text that cannot stand there.
    """
    value = document[key]
    if type(value).__name__ != kind or (kind == "str" and not _TEXTS.get(key, _ANY_TEXT)(value)):
        raise TypeError(f"{key} cannot be {str(value)[:_MOST_SHOWN]!a}")
    return value


def encode_document(schema: int, fields: Mapping[str, Any]) -> bytes:
    """A document's bytes, with its keys sorted: equal fields give equal bytes."""
    return (json.dumps({"schema": schema, **fields}, indent=2, sort_keys=True) + "\n").encode()
