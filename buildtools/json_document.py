"""The JSON documents in the store. A number identifies each schema, and the type of every value is checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from buildtools import BuildToolsError, Refused
from buildtools.settings import is_host

_Value = TypeVar("_Value")

# Any other text would fail later, in a request or on a terminal, where its origin is unknown.
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
    """What ``build`` makes of a document's fields; ``where`` and ``noun`` name the document and its kind in messages.

    :raises BuildToolsError: if it is not such a document, has another schema, or ``build`` finds a field missing or
        invalid (``KeyError``, ``TypeError``, ``Refused``).
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
    """The document's value for a key; ``kind`` is the name of its Python type.

    :raises KeyError: if the key is missing.
    :raises TypeError: if the value has another type, or is a text that the key does not allow.
    """
    value = document[key]
    if type(value).__name__ != kind or (kind == "str" and not _TEXTS.get(key, _ANY_TEXT)(value)):
        raise TypeError(f"{key} cannot be {str(value)[:_MOST_SHOWN]!a}")
    return value


def encode_document(schema: int, fields: Mapping[str, Any]) -> bytes:
    """The document's bytes, with keys sorted: equal fields give equal bytes."""
    return (json.dumps({"schema": schema, **fields}, indent=2, sort_keys=True) + "\n").encode()
