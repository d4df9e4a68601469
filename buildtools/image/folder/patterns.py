"""``.dockerignore`` rules, as Moby's pattern matcher and BuildKit's file filter read them.

The rules are those of https://github.com/moby/patternmatcher (``New``, ``MatchesUsingParentResults`` and
``ignorefile.ReadAll``), including odd corner cases: any difference from the engine's own filter would build a wrong
image. Paths are relative, with ``/`` between names, and may contain surrogate escapes for bytes that are not UTF-8.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from buildtools import Refused
from buildtools.image.folder.shell import SPACES

PatternMatches = Sequence[bool]
"""Which pattern matched a directory, pattern by pattern: what the entries below it inherit."""

# Go's path/filepath.Match: a pattern that gives ErrBadPattern there does not match this.
_RANGE_CHARACTER = r"(?:\\.|[^\\\-\]])"
_VALID = re.compile(rf"(?:\\.|\[\^?+(?:{_RANGE_CHARACTER}(?:-{_RANGE_CHARACTER})?)+\]|[^\\\[])*", re.DOTALL)
_CLASS = re.compile(rf"\[(\^?+)((?:{_RANGE_CHARACTER}(?:-{_RANGE_CHARACTER})?)+)\]", re.DOTALL)

# Go's repetition; any other brace stands for itself, also the {,2} that Python knows.
_REPETITION = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")

_GLOB_CHARACTERS = frozenset("*[]?^\\")
_POSIX_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "digit": "0-9",
    "lower": "a-z",
    "upper": "A-Z",
    "space": r"\t\n\v\f\r ",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
    "punct": r"!-/:-@\[-`{-~",
}


class Pattern:
    """One rule. ``text`` is the cleaned pattern without its ``!``; ``matches`` tests one path by itself."""

    __slots__ = ("is_literal", "is_negative", "matches", "prefix", "text")

    def __init__(self, text: str, *, is_negative: bool) -> None:
        self.text = text
        self.is_negative = is_negative
        literal = text.removesuffix("/**").removesuffix("/*")
        # The required prefix of a path that this rule can match; only if the rest has no glob in it.
        self.is_literal = _GLOB_CHARACTERS.isdisjoint(literal)
        self.prefix = f"{literal}/"
        self.matches = _matcher(text)


class Patterns:
    """Rules in order: the last one that matches a path, or matched a directory above it, decides."""

    def __init__(self, patterns: Iterable[str], *, where: Callable[[int], str] = "pattern {}".format) -> None:
        """Compile patterns as the engine passes them on, already cleaned; ``where(index)`` names one in an error.

        :raises Refused: if one of them is invalid.
        """
        rules = []
        for index, line in enumerate(patterns):
            text = line.strip(SPACES)
            if not text:
                continue
            text = clean(text)
            is_negative = text.startswith("!")
            try:
                if text == "!":
                    raise ValueError("nothing follows the !")
                if is_negative:
                    text = text[1:]
                if not _VALID.fullmatch(text):
                    raise ValueError("unfinished bracket or backslash")
                rules.append(Pattern(text, is_negative=is_negative))
            except ValueError as error:
                raise Refused(
                    f"{where(index)} is an invalid pattern: {line!r} ({error})", "correct that line"
                ) from None
        self.rules = tuple(rules)
        self._negations = tuple(rule for rule in rules if rule.is_negative)
        self._literal_negations = all(rule.is_literal for rule in self._negations)
        self._affirmations = tuple(rule for rule in rules if not rule.is_negative)
        self._literal_affirmations = all(rule.is_literal for rule in self._affirmations)
        self._nothing: PatternMatches = (False,) * len(rules)

    @classmethod
    def parse(cls, lines: Iterable[str], *, source: str = ".dockerignore") -> Patterns:
        """The rules of an ignore file. ``source`` is its name in errors.

        :raises Refused: if a pattern is invalid; the message names its line.
        """
        patterns, numbers = [], []
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix("\ufeff") if number == 1 else line
            if line.startswith("#"):
                continue
            text = line.strip(SPACES)
            if not text:
                continue
            negation = "!" if text.startswith("!") else ""
            text = text[len(negation) :].strip(SPACES)
            if text:
                text = clean(text)
                if len(text) > 1:
                    text = text.removeprefix("/")
            patterns.append(negation + text)
            numbers.append(number)
        return cls(patterns, where=lambda index: f"{source} line {numbers[index]}")

    @classmethod
    def read(cls, path: Path, *, source: str = "") -> Patterns:
        """The rules of the ignore file at ``path``.

        :raises Refused: if a pattern is invalid.
        :raises OSError: if the file cannot be read.
        """
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        return cls.parse((line.removesuffix("\r") for line in text.split("\n")), source=source or path.name)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def match(self, path: str, parent: PatternMatches | None = None) -> tuple[bool, PatternMatches]:
        """Whether the rules match ``path``, and the results to pass on for the entries below it.

        ``parent`` are the results for its directory, None for an entry of the root.
        """
        is_match = False
        results = []
        for rule, parent_match in zip(self.rules, parent or self._nothing, strict=True):
            # A rule that cannot change the result is skipped, and counts as not matching for the entries below. Moby
            # does the same, and it is visible.
            match = parent_match or (rule.is_negative == is_match and rule.matches(path))
            results.append(match)
            if match:
                is_match = not rule.is_negative
        return is_match, results

    def matches(self, path: str) -> bool:
        """Whether the rules match ``path``, testing each directory from the root down."""
        is_match, results = False, None
        for end in (*(i for i, character in enumerate(path) if character == "/"), len(path)):
            is_match, results = self.match(path[:end], results)
        return is_match

    def may_except_below(self, directory: str) -> bool:
        """Whether a ``!`` rule can exempt something below a matched directory, by BuildKit's rules."""
        return _may_concern(self._negations, directory, literal=self._literal_negations)

    def may_match_below(self, directory: str) -> bool:
        """Whether a rule without ``!`` can match something below a directory that does not match itself."""
        return _may_concern(self._affirmations, directory, literal=self._literal_affirmations)


def _may_concern(rules: tuple[Pattern, ...], directory: str, *, literal: bool) -> bool:
    if not literal:
        return True
    below = f"{directory}/"
    return any(rule.prefix.startswith(below) for rule in rules)


def clean(path: str) -> str:
    """Go's ``filepath.Clean``."""
    normal = posixpath.normpath(path)
    # POSIX gives two leading slashes a special meaning, Go does not.
    return normal[1:] if normal.startswith("//") else normal


def glob(pattern: str) -> Callable[[str], bool] | None:
    """Go's ``filepath.Match`` for one pattern: no ``**``, and ``*`` and ``?`` stop at ``/``; None if invalid."""
    if not _VALID.fullmatch(pattern):
        return None
    expression, position = "", 0
    while position < len(pattern):
        character = pattern[position]
        if character == "[" and (char_class := _CLASS.match(pattern, position)):
            expression += f"[{char_class[1]}{_escaped_class(char_class[2])}]"
            position = char_class.end()
            continue
        if character == "\\":
            position += 1
            character = pattern[position]
            expression += re.escape(character)
        else:
            expression += {"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character))
        position += 1
    try:
        regexp = re.compile(expression, re.DOTALL)
    except re.error:  # a range such as z-a, which is empty in Go
        return lambda _: False
    return lambda name: regexp.fullmatch(name) is not None


def _escaped_class(body: str) -> str:
    return re.sub(r"\\(.)|(-)|(.)", lambda m: m[2] or re.escape(m[1] or m[3]), body, flags=re.DOTALL)


# A project's ignore files have much in common, and compiling costs more than everything else.
@functools.lru_cache(4096)
def _matcher(text: str) -> Callable[[str], bool]:
    kind, expression = _go_expression(text)
    if kind == "exact":
        return text.__eq__
    if kind == "prefix":
        prefix = text[:-2]
        return lambda path: path.startswith(prefix)
    if kind == "suffix":
        suffix = text[2:]
        bare = suffix[1:] if suffix.startswith("/") else None
        return lambda path: path.endswith(suffix) or path == bare
    try:
        regexp = re.compile(_python_expression(expression), re.ASCII)
    except re.error as error:
        raise ValueError(str(error)) from None
    return lambda path: regexp.search(path) is not None


def _go_expression(text: str) -> tuple[str, str]:
    """Moby's ``Pattern.compile``: the kind of match, and the regular expression in Go's syntax."""
    kind, expression, position, tokens = "exact", "^", 0, 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "*" and text.startswith("*", position):
            position += 1
            if text.startswith("/", position):
                position += 1
            if position < len(text):
                expression += "(.*/)?"
                kind = "regexp"
            elif kind == "exact":
                kind = "prefix"
            else:
                expression += ".*"
                kind = "regexp"
            if not tokens:
                kind = "suffix"
        elif character == "*":
            expression += "[^/]*"
            kind = "regexp"
        elif character == "?":
            expression += "[^/]"
            kind = "regexp"
        elif character in ".+()$":
            # Moby means to escape | { } as well, but its table has room for codes below 64 only. So `*.js|*.ts` is two
            # expressions, one for each end of a path.
            expression += f"\\{character}"
        elif character == "\\" and position < len(text):
            expression += f"\\{text[position]}"
            position += 1
            kind = "regexp"
        else:
            expression += character
            if character in "[]":
                kind = "regexp"
        tokens += 1
    return kind, f"{expression}$"


def _python_expression(expression: str) -> str:
    """Translate Go's regular expression syntax (RE2) to Python's: classes, some escapes and the end differ."""
    python, position = "", 0
    while position < len(expression):
        character = expression[position]
        if character == "[":
            class_text, position = _python_class(expression, position)
            python += class_text
            continue
        position += 1
        if character == "\\":
            python += _python_escape(expression[position])
            position += 1
        elif character == "$":
            python += r"\Z"
        elif character == "{" and not _REPETITION.match(expression, position - 1):
            python += r"\{"
        else:
            python += character
    return python


def _python_class(expression: str, position: int) -> tuple[str, int]:
    position += 1
    python = "["
    if expression.startswith("^", position):
        python += "^"
        position += 1
    first = True
    while position < len(expression):
        character = expression[position]
        if character == "]" and not first:
            return f"{python}]", position + 1
        first = False
        posix_class = re.compile(r"\[:([a-z]+):\]").match(expression, position)
        if posix_class:
            if posix_class[1] not in _POSIX_CLASSES:
                raise ValueError(f"unknown character class {posix_class[1]}")
            python += _POSIX_CLASSES[posix_class[1]]
            position = posix_class.end()
            continue
        position += 1
        if character == "\\":
            python += _python_escape(expression[position])
            position += 1
        elif character == "-":
            python += "-" if not expression.startswith("]", position) else r"\-"
        else:
            python += re.escape(character)
    raise ValueError("unfinished bracket")


def _python_escape(character: str) -> str:
    if character in "dDwWsSbBAafnrtv":
        return f"\\{character}"
    if character == "z":
        return r"\Z"
    if character.isascii() and character.isalnum():
        raise ValueError(f"\\{character} has no meaning")
    return re.escape(character)
