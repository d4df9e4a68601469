"""Results as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

# Incremented when a field of a document changes its meaning or is removed.
DOCUMENT_SCHEMA = 1


def document(value: Any) -> Any:
    """A value, or a list of values, as a JSON value; the outermost object has the schema's number."""
    if isinstance(value, list | tuple):
        return {"schema": DOCUMENT_SCHEMA, "items": [json_value(item) for item in value]}
    return {"schema": DOCUMENT_SCHEMA, **json_value(value)}


def json_value(value: Any) -> Any:
    """A value as a JSON value, without the schema's number, and without the fields that its ``repr`` leaves out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: json_value(getattr(value, each.name)) for each in fields(value) if each.repr}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
