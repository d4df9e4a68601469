"""The line of each key in a TOML document: ``tomllib`` returns the values without their lines."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any


def lines_of_keys(text: str) -> dict[str, int]:
    """The line on which each key is first set, counted from 1, by the key's dotted path. The document must be valid.

    A statement (a header, or a key with its whole value) is the shortest run of lines that is valid TOML by itself.
    Keys inside a value have the line of the statement.
    """
    lines: dict[str, int] = {}
    header: tuple[str, ...] = ()
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        statement += f"{line}\n"
        try:
            paths = list(_paths(tomllib.loads(statement)))
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            header = paths[-1]
            lines.setdefault(".".join(header), first)
        else:
            for path in paths:
                lines.setdefault(".".join(header + path), first)
        statement, first = "", number + 1
    return lines


def _paths(value: Any) -> Iterator[tuple[str, ...]]:
    # The header of an array of tables is a list of one table.
    tables = value if isinstance(value, list) else [value]
    for table in tables:
        for key, inner in table.items() if isinstance(table, dict) else ():
            yield (key,)
            yield from ((key, *path) for path in _paths(inner))
