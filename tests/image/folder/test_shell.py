"""Variables and quotes as a Dockerfile has them."""

from __future__ import annotations

import pytest

from buildtools.image.folder.shell import BadSubstitution, expand

VARIABLES = {"X": "value", "EMPTY": "", "PATH": "/a/b/c.tar.gz"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("$X", "value"),
        ("${X}s", "values"),
        ("$Xs", ""),
        ("a$", "a$"),
        ("$UNSET.", "."),
        ("${UNSET:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${UNSET-d}", "d"),
        ("${X:+a}", "a"),
        ("${EMPTY:+a}", ""),
        ("${EMPTY+a}", "a"),
        ("${UNSET+a}", ""),
        ("${UNSET:-${X}-$X}", "value-value"),
        ("${X:?oh}", "value"),
        ("${PATH#*/}", "a/b/c.tar.gz"),
        ("${PATH##*/}", "c.tar.gz"),
        ("${PATH%.*}", "/a/b/c.tar"),
        ("${PATH%%.*}", "/a/b/c"),
        ("${PATH/b/x}", "/a/x/c.tar.gz"),
        ("${PATH//\\//-}", "-a-b-c.tar.gz"),
        ("'$X'", "$X"),
        ('"$X y"', "value y"),
        ("\\$X", "$X"),
        ('"\\$X\\n"', "$X\\n"),
    ],
)
def test_a_word_expands_as_in_buildkit(word: str, expected: str) -> None:
    assert expected == expand(word, VARIABLES)


def test_the_escape_character_can_be_another() -> None:
    assert "$X\\" == expand("`$X\\", VARIABLES, "`")


@pytest.mark.parametrize("word", ["${X", "${}", "${X:-a", "'a", '"a', "${UNSET:?needed}", "${X!}"])
def test_what_cannot_be_expanded_is_an_error(word: str) -> None:
    with pytest.raises(BadSubstitution):
        expand(word, VARIABLES)
