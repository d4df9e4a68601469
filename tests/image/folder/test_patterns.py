"""The rules of .dockerignore, as Moby's own tests and documentation have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildtools import Refused
from buildtools.image.folder.patterns import Patterns, glob


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        # From Moby's patternmatcher_test.go.
        (["**"], "file", True),
        (["**/"], "file", True),
        (["**"], "dir/file", True),
        (["**/"], "dir/file", True),
        (["**/**"], "dir/file", True),
        (["dir/**"], "dir/file", True),
        (["dir/**"], "dir/dir2/file", True),
        (["dir/**"], "dir", False),
        (["**/dir"], "dir", True),
        (["**/dir"], "dir/file", True),
        (["**/dir2/*"], "dir/dir2/file", True),
        (["**/dir2/**"], "dir/dir2/dir2/file", True),
        (["**file"], "file", True),
        (["**file"], "dir/file", True),
        (["**/file"], "dir/file", True),
        (["**file"], "dir/dir/file", True),
        (["**/file*"], "dir/dir/file", True),
        (["**/file*txt"], "dir/dir/file.txt", True),
        (["**/file*.txt*"], "dir/dir/file.txt", True),
        (["**/**/*.txt"], "dir/dir/file.txt", True),
        (["**/**/*.txt2"], "dir/dir/file.txt", False),
        (["**/*.txt"], "file.txt", True),
        (["a**/*.txt"], "a/file.txt", True),
        (["a**/*.txt"], "a/dir/file.txt", True),
        (["a/*.txt"], "a/dir/file.txt", False),
        (["a/*.txt**"], "a/file.txt", True),
        (["a[b-d]e"], "ae", False),
        (["a[b-d]e"], "ace", True),
        (["a[b-d]e"], "aae", False),
        (["a[^b-d]e"], "aze", True),
        ([".*"], ".foo", True),
        ([".*"], "foo", False),
        (["abc.def"], "abcdef", False),
        (["abc.def"], "abcZdef", False),
        (["abc?def"], "abcZdef", True),
        (["abc?def"], "abcdef", False),
        (["a\\\\"], "a\\", True),
        (["**/foo/bar"], "foo/bar", True),
        (["**/foo/bar"], "dir/foo/bar", True),
        (["abc/**"], "abc", False),
        (["abc/**"], "abc/def/ghi", True),
        (["**/.foo"], ".foo", True),
        (["**/.foo"], "bar.foo", False),
        (["a(b)c/def"], "a(b)c/def", True),
        (["a(b)c/def"], "a(b)c/xyz", False),
        (["a.|)$(}+{bc"], "a.|)$(}+{bc", True),
        # The last rule decides; what matched a directory matches what lies in it.
        (["docs"], "docs/a/b", True),
        (["*", "!src"], "src/a", False),
        (["*", "!src"], "other/a", True),
        (["*", "!src/a"], "src/b", True),
        (["!src", "*"], "src", True),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/*.md", "docs/x.md"], "docs/x.md", True),
        (["**/*.pyc", "!keep/**"], "keep/a.pyc", False),
        # Spelling: slashes around, white space, comments, the context itself.
        (["/foo"], "foo", True),
        (["foo/"], "foo/bar", True),
        (["./foo//bar/"], "foo/bar", True),
        (["foo/../bar"], "bar", True),
        (["../foo"], "foo", False),
        (["."], "foo", False),
        (["/"], "foo", False),
        (["  foo\t"], "foo", True),
        (["! foo", "foo"], "foo", True),
        (["foo", "!  /foo"], "foo", False),
        (["#foo"], "#foo", False),
        ([" #foo"], "#foo", True),
        (["\\#foo"], "#foo", True),
        (["\\!foo"], "!foo", True),
        (["\ufefffoo"], "foo", True),
        (["a b"], "a b", True),
        (["[[]x"], "[x", True),
        (["[a\\-c]x"], "-x", True),
        (["[a\\-c]x"], "bx", False),
        # What Go's regular expressions make of a pattern that shell users would read otherwise.
        (["[!a]x"], "!x", True),
        (["[!a]x"], "bx", False),
        (["a^b*"], "a^b", False),
        (["\\d*"], "7up", True),
        (["[[:alpha:]]*"], "a", True),
        (["*.txt"], "a\nb.txt", True),
        (["a/**/b*"], "a/x\ny/b", False),
        (["ü*"], "über", True),
        (["?.txt"], "\udcff.txt", True),
    ],
)  # fmt: skip
def test_rules_match_as_mobys_do(lines: list[str], path: str, expected: bool) -> None:
    assert expected == Patterns.parse(lines).matches(path)


@pytest.mark.parametrize("line", ["[", "a[b", "a\\", "!", "! ", "[]a]", "[^]", "[a-]", "[z-a]", "\\y", "[[:nope:]]"])
def test_what_is_not_a_pattern_is_refused_and_its_line_is_named(line: str) -> None:
    with pytest.raises(Refused) as refusal:
        Patterns.parse(["# comment", "", "fine", line], source="x/.dockerignore")
    assert refusal.value.fact.startswith("x/.dockerignore line 4 is an invalid pattern")


def test_an_ignore_file_may_have_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_bytes(b"\xef\xbb\xbffoo\r\n\r\n!foo/bar\r\n\xff\r\n")
    rules = Patterns.read(tmp_path / ".dockerignore")
    assert [True, False, True, False] == [rules.matches(path) for path in ("foo/x", "foo/bar", "\udcff", "x")]


def test_no_rules_match_nothing() -> None:
    assert (False, False) == (bool(Patterns([])), Patterns([]).matches("a/b"))


@pytest.mark.parametrize(
    ("lines", "directory", "expected"),
    [
        (["node_modules"], "node_modules", False),
        (["*", "!src/app"], "src", True),
        (["*", "!src/app"], "lib", False),
        (["*", "!src/app"], "src/app2", False),
        (["*", "!**/keep"], "lib", True),
        (["*", "!src/*"], "src", True),
    ],
)
def test_a_directory_is_entered_only_where_an_exception_may_lie_below(
    lines: list[str], directory: str, expected: bool
) -> None:
    assert expected == Patterns.parse(lines).may_except_below(directory)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*.py", "a.py", True),
        ("*.py", "a/b.py", False),
        ("a?c", "abc", True),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[!a]x", "bx", False),
        ("[z-a]", "m", False),
        ("\\*", "*", True),
        ("\\d", "d", True),
        ("a.c", "abc", False),
        ("*", "", True),
        ("**", "a/b", False),
    ],
)
def test_a_glob_matches_as_gos_does(pattern: str, name: str, expected: bool) -> None:
    match = glob(pattern)
    assert match is not None
    assert expected == match(name)


def test_an_open_bracket_is_not_a_glob() -> None:
    assert glob("[") is None
