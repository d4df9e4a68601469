from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildtools.image.engine.buildkit.protobuf import Message, bytes_field, int_field, map_field, string_field


# The first three: https://protobuf.dev/programming-guides/encoding/
@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (int_field(1, 150), "089601"),
        (string_field(2, "testing"), "120774657374696e67"),
        (int_field(1, -2), "08feffffffffffffffff01"),
        (int_field(1, 0) + string_field(1, ""), ""),
        (bytes_field(1, b""), "0a00"),
    ],
)
def test_values_are_encoded_as_the_specification_shows(encoded: bytes, expected: str) -> None:
    assert expected == encoded.hex()


@given(st.integers(-(2**63), 2**63 - 1), st.binary(), st.text(), st.dictionaries(st.text(), st.text()))
def test_what_was_written_is_read(integer: int, data: bytes, words: str, mapping: dict[str, str]) -> None:
    message = Message(
        int_field(1, integer)
        + bytes_field(2, data)
        + string_field(3, words)
        + map_field(200, mapping)
        + bytes_field(3, b"again")
    )
    assert (integer, data, "again") == (message.number(1), message.blob(2), message.text(3))
    assert mapping == message.table(200)


def test_fields_that_were_not_sent_have_zero_values() -> None:
    message = Message(b"")
    assert (0, b"", "", None, []) == (
        message.number(1),
        message.blob(1),
        message.text(1),
        message.message(1),
        message.messages(1),
    )


def test_fields_of_other_kinds_are_passed_over() -> None:
    message = Message(bytes.fromhex("0d01020304110102030405060708") + int_field(3, 7))
    assert 7 == message.number(3)


def test_a_file_name_keeps_bytes_that_are_not_utf_8() -> None:
    assert b"\xff.txt" == Message(string_field(1, "\udcff.txt")).blob(1)


@given(st.binary(max_size=40))
def test_bytes_that_are_not_a_message_raise_nothing_but_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert Message(data).number(1000) == 0


@pytest.mark.parametrize("data", ["0a05ab", "08", "0b", "08ffffffffffffffffffffff"])
def test_a_broken_message_is_said_to_be_one(data: str) -> None:
    with pytest.raises(ValueError, match=r"cut off|not known"):
        Message(bytes.fromhex(data))
