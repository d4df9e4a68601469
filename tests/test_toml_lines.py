"""The lines of a TOML document's keys, with tomllib as the oracle for what the keys are."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools.toml_lines import lines_of_keys

DOCUMENT = '''\
a = 1

# a comment [x]
b.c = [
    "[not.a.header]",
    "]",
]
[ table . "quoted.key" ] # why not
text = """
d = 2
"""
inline = { e = 1, f = { g = 2 } }
[[array]]
h = 1
[[array]]
i = 1
[table.later]
'''


def test_every_key_has_the_line_of_its_statement() -> None:
    assert {
        "a": 1,
        "b": 4,
        "b.c": 4,
        "table.quoted.key": 8,
        "table.quoted.key.text": 9,
        "table.quoted.key.inline": 12,
        "table.quoted.key.inline.e": 12,
        "table.quoted.key.inline.f": 12,
        "table.quoted.key.inline.f.g": 12,
        "array": 13,
        "array.h": 14,
        "array.i": 16,
        "table.later": 17,
    } == lines_of_keys(DOCUMENT)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_line_ends_of_both_kinds_count(line_end: str) -> None:
    assert {"a": 1, "t": 2, "t.b": 3} == lines_of_keys(f"a = 1{line_end}[t]{line_end}b = 2{line_end}")


def test_an_empty_document_has_no_keys() -> None:
    assert {} == lines_of_keys("")


def leaves(value: Any, path: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {path}
    return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}" if path else key)}


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["1", '"x"', "[\n1,\n2,\n]", '"""\n[a]\nb = 1\n"""', "'''\n= '''", "{ d = 1 }", "[{ e = 2 }]"])
TABLES = st.lists(st.tuples(st.lists(KEYS, min_size=1, max_size=2), st.dictionaries(KEYS, VALUES)), max_size=4)


@settings(deadline=None)
@given(TABLES)
def test_the_keys_are_those_that_tomllib_reads(tables: list[tuple[list[str], dict[str, str]]]) -> None:
    text = "".join(
        f"[{'.'.join(header)}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
        for header, keys in tables
    )
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = lines_of_keys(text)
    assert set() == {leaf for leaf in leaves(document) if leaf} - lines.keys()
    rows = text.split("\n")
    assert all(path.rpartition(".")[2] in rows[line - 1] for path, line in lines.items())
