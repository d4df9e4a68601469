"""git's globs. The expectations are those of git's own test t3070-wildmatch, which covers the odd corners."""

from __future__ import annotations

import pytest

from buildtools.git.wildmatch import wildmatch

# text, pattern, matches, matches as a path name
CASES = [
    ("foo", "foo", 1, 1),
    ("foo", "bar", 0, 0),
    ("", "", 1, 1),
    ("foo", "???", 1, 1),
    ("foo", "??", 0, 0),
    ("foo", "*", 1, 1),
    ("foo", "f*", 1, 1),
    ("foobar", "*ob*a*r*", 1, 1),
    ("aaaaaaabababab", "*ab", 1, 1),
    ("foo*", "foo\\*", 1, 1),
    ("foobar", "foo\\*bar", 0, 0),
    ("f\\oo", "f\\\\oo", 1, 1),
    ("ball", "*[al]?", 1, 1),
    ("ten", "[ten]", 0, 0),
    ("ten", "**[!te]", 1, 1),
    ("ten", "t[a-g]n", 1, 1),
    ("ten", "t[!a-g]n", 0, 0),
    ("ton", "t[!a-g]n", 1, 1),
    ("ton", "t[^a-g]n", 1, 1),
    ("a]b", "a[]]b", 1, 1),
    ("a-b", "a[]-]b", 1, 1),
    ("a]b", "a[]a-]b", 1, 1),
    ("]", "]", 1, 1),
    ("foo/baz/bar", "foo*bar", 1, 0),
    ("foo/baz/bar", "foo**bar", 1, 0),
    ("foobazbar", "foo**bar", 1, 1),
    ("foo/baz/bar", "foo/**/bar", 1, 1),
    ("foo/baz/bar", "foo/**/**/bar", 0, 1),
    ("foo/bar", "foo/**/bar", 0, 1),
    ("foo/bar", "foo/**/**/bar", 0, 1),
    ("foo/bar", "foo?bar", 1, 0),
    ("foo/bar", "foo[/]bar", 1, 0),
    ("foo/bar", "foo[^a-z]bar", 1, 0),
    ("foo", "**/foo", 0, 1),
    ("any/foo", "**/foo", 1, 1),
    ("bar/baz/foo", "*/foo", 1, 0),
    ("foo/bar/baz", "**/bar*", 1, 0),
    ("deep/foo/bar/baz", "**/bar/*", 1, 1),
    ("deep/foo/bar", "**/bar/**", 0, 0),
    ("deep/foo/bar/baz/x", "**/bar/*/*", 1, 1),
    ("foo", "foo/**", 0, 0),
    ("foo/", "foo/**", 1, 1),
    ("acrt", "a[c-c]rt", 1, 1),
    ("a", "[!]a-]", 0, 0),
    ("\\", "\\\\", 1, 1),
    ("\\", "[\\\\,]", 1, 1),
    ("5", "[[:xdigit:]]", 1, 1),
    ("D", "[[:xdigit:]]", 1, 1),
    ("a1B", "[[:alpha:]][[:digit:]][[:upper:]]", 1, 1),
    ("a", "[[:digit:][:upper:][:space:]]", 0, 0),
    (" ", "[[:digit:][:upper:][:space:]]", 1, 1),
    ("1", "[[:digit:][:upper:][:spaci:]]", 0, 0),
    (".", "[[:digit:][:punct:][:space:]]", 1, 1),
    ("_", "[[:alnum:][:alpha:][:blank:][:cntrl:][:graph:][:lower:][:print:][:punct:][:upper:]]", 1, 1),
    ("b", "[a-c[:digit:]x-z]", 1, 1),
    ("q", "[a-c[:digit:]x-z]", 0, 0),
    ("]", "[\\\\-^]", 1, 1),
    ("[", "[\\\\-^]", 0, 0),
    ("-", "[\\-_]", 1, 1),
    ("]", "[\\]]", 1, 1),
    ("\\]", "[\\]]", 0, 0),
    ("a[]b", "a[]b", 0, 0),
    ("ab[", "ab[", 0, 0),
    ("ab", "[!", 0, 0),
    ("-", "[-", 0, 0),
    ("-", "[-]", 1, 1),
    ("5", "[--A]", 1, 1),
    (" ", "[ --]", 1, 1),
    ("-", "[---]", 1, 1),
    ("--", "[------]", 0, 0),
    ("j", "[a-e-n]", 0, 0),
    ("-", "[a-e-n]", 1, 1),
    ("a", "[!------]", 1, 1),
    ("[", "[]-a]", 0, 0),
    ("^", "[]-a]", 1, 1),
    ("^", "[!]-a]", 0, 0),
    ("^", "[a^bc]", 1, 1),
    ("-b]", "[a-]b]", 1, 1),
    ("\\", "[\\]", 0, 0),
    ("G", "[A-\\\\]", 1, 1),
    ("aaabbb", "b*a", 0, 0),
    ("aabcaa", "*ba*", 0, 0),
    (",", "[,]", 1, 1),
    ("-", "[,-.]", 1, 1),
    ("foo\\", "foo\\", 0, 0),
    ("-adobe-courier-bold-o-normal--12-120-75-75-m-70-iso8859-1", "-*-*-*-*-*-*-12-*-*-*-m-*-*-*", 1, 1),
    ("abcd/abcdefg/abcdefghijk/abcdefghijklmnop.txt", "**/*a*b*g*n*t", 1, 1),
    ("foo/bba/arr", "foo/*", 1, 0),
    ("foo/bba/arr", "foo/**", 1, 1),
    ("foo/bba/arr", "foo*arr", 1, 0),
    ("foo/bba/arr", "foo/**arr", 1, 0),
    ("foo/bba/arr", "foo/*/arr", 1, 1),
]


@pytest.mark.parametrize(("text", "pattern", "plain", "path"), CASES)
def test_globs_match_what_git_matches(text: str, pattern: str, plain: int, path: int) -> None:
    actual = wildmatch(pattern.encode(), text.encode()), wildmatch(pattern.encode(), text.encode(), pathname=True)
    assert (bool(plain), bool(path)) == actual


def test_letters_are_compared_without_case_when_asked() -> None:
    assert not wildmatch(b"[A-Z]*x", b"aX")
    assert wildmatch(b"[A-Z]*x", b"aX", ignore_case=True)
