"""Words and variables in a Dockerfile.

The rules are those of BuildKit's ``frontend/dockerfile/shell`` (``ProcessWord``):
https://docs.docker.com/reference/dockerfile/#environment-replacement
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

# Go's unicode.IsSpace; str.strip() and \s also take the separators U+001C to U+001F.
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class BadSubstitution(ValueError):
    """An invalid ``${…}``, or a ``${NAME:?message}`` whose variable is not set."""


@functools.cache
def word_pattern(escape: str) -> re.Pattern[str]:
    """Matches one word; white space inside quotes, or after ``escape``, does not end it."""
    e = re.escape(escape)
    return re.compile(rf"""(?:"(?:{e}.|[^"{e}])*"?|'[^']*'?|{e}.|[^{SPACES}"'{e}]|{e}$)+""", re.DOTALL)


def expand(word: str, variables: Mapping[str, str] | None, escape: str = "\\") -> str:
    """``word`` with quotes and escapes removed and variables replaced; an unset variable is empty.

    Without ``variables`` they stay as they are.

    :raises BadSubstitution: see there.
    """
    if "$" not in word and escape not in word and '"' not in word and "'" not in word:
        return word
    return _Reader(word, variables, escape).read("")


class _Reader:
    def __init__(self, text: str, variables: Mapping[str, str] | None, escape: str) -> None:
        self.text = text
        self.position = 0
        self.variables = variables
        self.escape = escape

    def read(self, stop: str) -> str:
        parts: list[str] = []
        while self.position < len(self.text):
            character = self.text[self.position]
            if character == stop:
                return "".join(parts)
            self.position += 1
            if character == "'":
                end = self.text.find("'", self.position)
                if end < 0:
                    raise BadSubstitution("unfinished single quote")
                parts.append(self.text[self.position : end])
                self.position = end + 1
            elif character == '"':
                parts.append(self.double_quoted())
            elif character == "$":
                parts.append(self.variable())
            elif character == self.escape:
                parts.append(self.text[self.position : self.position + 1])
                self.position += 1
            else:
                parts.append(character)
        if stop:
            raise BadSubstitution(f"{stop} is missing")
        return "".join(parts)

    def double_quoted(self) -> str:
        parts: list[str] = []
        while self.position < len(self.text):
            character = self.text[self.position]
            self.position += 1
            if character == '"':
                return "".join(parts)
            if character == "$":
                parts.append(self.variable())
            elif character == self.escape and self.text[self.position : self.position + 1] in ('"', "$", self.escape):
                parts.append(self.text[self.position])
                self.position += 1
            else:
                parts.append(character)
        raise BadSubstitution("unfinished double quote")

    def variable(self) -> str:
        if self.variables is None:
            return "$"
        has_brace = self.text.startswith("{", self.position)
        # A name, a positional parameter, or one of the shell's special parameters, which are never set here.
        name = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?\-$!]").match(self.text, self.position + has_brace)
        if not name:
            if has_brace:
                raise BadSubstitution("${ without a name")
            return "$"
        value = self.variables.get(name[0])
        self.position = name.end()
        if not has_brace:
            return value or ""
        operator = re.compile(r":?[-+?]|##?|%%?|//?|").match(self.text, self.position)
        assert operator is not None
        self.position = operator.end()
        word = self.read("/" if operator[0].startswith("/") else "}") if operator[0] else ""
        replacement = ""
        if operator[0].startswith("/"):
            self.position += 1
            replacement = self.read("}")
        if not self.text.startswith("}", self.position):
            raise BadSubstitution("${ without its }")
        self.position += 1
        return _with_operator(name[0], value, operator[0], word, replacement)


def _with_operator(name: str, value: str | None, operator: str, word: str, replacement: str) -> str:
    if operator[-1:] in ("-", "+", "?"):
        has_value = bool(value) if operator.startswith(":") else value is not None
        if operator.endswith("+"):
            return word if has_value else ""
        if not has_value and operator.endswith("?"):
            raise BadSubstitution(f"{name}: {word or 'not set'}")
        return (value or "") if has_value else word
    value = value or ""
    if not operator:
        return value
    if operator.startswith("#"):
        match = re.match(_shell_pattern(word, greedy=operator == "##"), value, re.DOTALL)
        return value[match.end() :] if match else value
    if operator.startswith("%"):
        # Backwards, so that the shortest suffix becomes the shortest prefix.
        match = re.match(_shell_pattern(word, greedy=operator == "%%", backwards=True), value[::-1], re.DOTALL)
        return value[: len(value) - match.end()] if match else value
    return re.sub(
        _shell_pattern(word, greedy=True),
        lambda _: replacement,
        value,
        count=operator == "/",
        flags=re.DOTALL,
    )


def _shell_pattern(word: str, *, greedy: bool, backwards: bool = False) -> str:
    parts = [
        {"*": ".*" if greedy else ".*?", "?": "."}.get(part, re.escape(part.removeprefix("\\") or "\\"))
        for part in re.findall(r"\\.|.", word, re.DOTALL)
    ]
    return "".join(reversed(parts) if backwards else parts)
