"""The instructions of a Dockerfile: continued lines are joined, comments and here-documents skipped.

The grammar is that of BuildKit's ``frontend/dockerfile/parser``: https://docs.docker.com/reference/dockerfile/#format
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.image.folder.shell import SPACES, BadSubstitution, expand, word_pattern

_HEREDOC = re.compile(r"[0-9]*<<(-?+)([\t\r ]*+)([^<]+)")
# The words of a shell command, whatever the escape directive says. Since BuildKit 0.22, spaces may follow the <<.
_SHELL_WORD = re.compile(
    rf"""(?:<<[\t\r ]*|"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^{SPACES}"'\\]|\\$)+|[{SPACES}]+""", re.DOTALL
)

# https://docs.docker.com/reference/dockerfile/#overview
_KEYWORDS = (
    *("add", "arg", "cmd", "copy", "entrypoint", "env", "expose", "from", "healthcheck", "label", "maintainer"),
    *("onbuild", "run", "shell", "stopsignal", "user", "volume", "workdir"),
)
_DIRECTIVES = ("syntax", "escape", "check")
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
# BuildKit separates words by these, and by no other white space.
_SPLIT = re.compile(r"[\t\v\f\r ]+")
_KEYWORD = re.compile(rf"[{SPACES}]*([^\t\v\f\r ]*)[{SPACES}]*")


@frozen
class ImageMention:
    """A place in a Dockerfile that names an image or a stage.

    ``start`` and ``end`` are offsets into the text; -1 if the place is not in it, as in a base's ``ONBUILD``.
    """

    text: str
    line: int
    start: int = -1
    end: int = -1


@frozen
class Argument:
    """``ARG NAME`` or ``ARG NAME=DEFAULT``."""

    name: str
    default: str | None
    line: int


def read_directives(text: str) -> dict[str, str]:
    """The parser directives at the start of a Dockerfile, such as ``# escape=``, by name in lower case."""
    directives: dict[str, str] = {}
    for line in text.removeprefix("\ufeff").split("\n"):
        directive = _DIRECTIVE.fullmatch(line.strip(SPACES))
        if not directive or directive[1].lower() not in _DIRECTIVES:
            break
        directives.setdefault(directive[1].lower(), directive[2])
    return directives


def requested_frontend(text: str) -> str:
    """The image that ``# syntax=`` names; empty without it. It may follow a line that begins with ``#!``."""
    text = text.removeprefix("\ufeff")
    if text.startswith("#!"):
        text = text.partition("\n")[2]
    return read_directives(text).get("syntax", "").partition(" ")[0]


def is_docker_frontend(image: str) -> bool:
    """Whether an image is Docker's own Dockerfile frontend, in some version."""
    return re.fullmatch(r"(?:docker\.io/)?docker/dockerfile(?::[\w.-]+)?(?:@.*)?", image) is not None


@frozen
class Flag:
    """``--name=value``; ``start`` and ``end`` are the offsets of the quoted value in the joined instruction."""

    name: str
    value: str
    start: int
    end: int


class Instruction:
    """One instruction, with its lines joined.

    ``keyword`` is in lower case, ``line`` is its first line. What follows the flags starts at ``rest`` of ``text``.
    ``pieces`` maps parts of ``text`` to the file: offsets in one and the other.
    """

    def __init__(self, text: str, line: int, escape: str, where: str, pieces: Sequence[tuple[int, int]]) -> None:
        self.text = text
        self.line = line
        self.escape = escape
        self.where = where
        self.pieces = pieces
        keyword = _KEYWORD.match(text)
        assert keyword is not None
        self.keyword, self.rest = keyword[1].lower(), keyword.end()
        self.flags: list[Flag] = []
        while text.startswith("--", self.rest) and (flag := word_pattern(escape).match(text, self.rest)):
            end = flag.end()
            if flag[0] == "--":
                self.rest = end
                break
            name, equals, _ = flag[0].partition("=")
            start = flag.start() + len(name + equals)
            self.flags.append(Flag(name, _without_quotes(text[start:end], escape), start, end))
            self.rest = end
            while self.text[self.rest : self.rest + 1] in SPACES and self.rest < len(text):
                self.rest += 1

    @property
    def body(self) -> str:
        """What follows keyword and flags."""
        return self.text[self.rest :].strip(SPACES)

    def _offset(self, position: int, *, ending: bool = False) -> int:
        """The offset in the file of a position in ``text``; the end of a part belongs to the part it ends."""
        for begin, original in reversed(self.pieces):
            if position > begin or (position == begin and not ending):
                return original + position - begin
        return self.pieces[0][1]

    def mention(self, text: str, start: int, end: int) -> ImageMention:
        """The reference between two positions of ``text``."""
        first, last = self._offset(start), self._offset(end, ending=True)
        return ImageMention(text, self.line, first, last)

    def error(self, fact: str, remedy: str) -> Refused:
        """The error about this instruction."""
        return Refused(f"{self.where} line {self.line}: {fact}", remedy)

    def check_keyword(self) -> None:
        """Raise :class:`Refused` unless BuildKit's own frontend knows the instruction; another frontend may know more.

        :raises Refused: if it is unknown.
        """
        if self.keyword not in _KEYWORDS:
            near = difflib.get_close_matches(self.keyword, _KEYWORDS, n=1)
            remedy = f"did you mean {near[0].upper()}?" if near else "correct it"
            raise self.error(f"unknown instruction {self.text.split()[0]}", remedy)

    def arguments(self) -> Iterator[Argument]:
        """The arguments that an ARG declares.

        :raises Refused: if one of them has no name.
        """
        for word in word_pattern(self.escape).findall(self.body):
            name, equals, default = word.partition("=")
            if not name:
                raise self.error("ARG without a name", "write ARG NAME or ARG NAME=DEFAULT")
            yield Argument(name, default if equals else None, self.line)

    def variables(self) -> dict[str, str]:
        """The variables that an ENV sets, and their values as written."""
        words = word_pattern(self.escape).findall(self.body)
        if words and "=" not in words[0]:
            name, *value = _SPLIT.split(self.body, maxsplit=1)
            return {name: "".join(value)}
        return dict((word.partition("=")[::2]) for word in words)

    def sources(self) -> list[str]:
        """What COPY or ADD copies, from a JSON list or separated by white space, without here-documents."""
        paths = _json_list(self.body)
        if paths is None:
            paths = [word for word in _SPLIT.split(self.body) if not _HEREDOC.fullmatch(word)]
        return paths[:-1]

    def heredocs(self) -> Iterator[tuple[str, bool, bool]]:
        """The here-documents that follow: the terminator, and whether leading tabs are stripped.

        The third value is False for one that older engines do not see, with white space after its ``<<``.
        """
        keyword, body = self.keyword, self.body
        if keyword == "onbuild":
            keyword, body = [*_SPLIT.split(body, maxsplit=1), ""][:2]
        if keyword.lower() not in ("run", "copy", "add") or _json_list(body) is not None:
            return
        for word in _shell_words(body):
            heredoc = _HEREDOC.fullmatch(word)
            if heredoc and (name := expand(heredoc[3], None)):
                yield name, bool(heredoc[1]), not heredoc[2]

    def plain(self, word: str) -> str:
        """A word without its quotes and escapes.

        :raises Refused: if a quote is unclosed.
        """
        try:
            return expand(word, {}, self.escape)
        except BadSubstitution as error:
            raise self.error(f"invalid word {word} ({error})", "correct it") from None


def _json_list(text: str) -> list[str] | None:
    """The strings in a JSON list; None if it is something else."""
    if not text.startswith("["):
        return None
    try:
        items = json.loads(text)
    except ValueError:
        return None
    return items if all(isinstance(item, str) for item in items) else None


def _shell_words(text: str) -> list[str]:
    """The words of a command, with their quotes; none if a quote is unclosed."""
    words = []
    position = 0
    while position < len(text):
        word = _SHELL_WORD.match(text, position)
        if not word:
            return []
        words.append(word[0])
        position = word.end()
    return words


def _without_quotes(text: str, escape: str) -> str:
    # Flags lose their quotes, but their variables are expanded later, if at all.
    return re.sub(rf"""["']|{re.escape(escape)}(.)""", lambda match: match[1] or "", text, flags=re.DOTALL)


def read_instructions(text: str, escape: str, where: str) -> Iterator[Instruction]:
    """The instructions of a Dockerfile in order; ``where`` is its name in errors.

    :raises Refused: if a here-document is unterminated.
    """
    offset = len("\ufeff") if text.startswith("\ufeff") else 0
    lines = text[offset:].split("\n")
    number = 0
    while number < len(lines):
        parts: list[str] = []
        length = 0
        pieces: list[tuple[int, int]] = []
        first = 0
        while number < len(lines):
            raw = lines[number]
            line = raw.rstrip("\r")
            here = offset
            number += 1
            offset += len(raw) + 1
            bare = line.lstrip(SPACES)
            if not bare or bare.startswith("#"):
                if parts:
                    continue
                break
            if not parts:
                first = number
                here += len(line) - len(bare)
                line = bare
            bare_end = line.rstrip(" \t")
            goes_on = bare_end.endswith(escape) and not bare_end.endswith(escape * 2)
            part = bare_end[:-1] if goes_on else line
            pieces.append((length, here))
            parts.append(part)
            length += len(part)
            if not goes_on:
                break
        whole = "".join(parts)
        if not whole.strip():
            continue
        instruction = Instruction(whole, first, escape, where, pieces)
        for terminator, drops_tabs, is_certain in instruction.heredocs() if "<<" in whole else ():
            end = _end_of_heredoc(lines, number, terminator, drops_tabs=drops_tabs)
            if end is None:
                if not is_certain:
                    continue
                raise instruction.error(
                    f"the here-document {terminator} has no end", f"end it with a line {terminator}"
                )
            offset += sum(len(line) + 1 for line in lines[number:end])
            number = end
        yield instruction


def _end_of_heredoc(lines: Sequence[str], start: int, terminator: str, *, drops_tabs: bool) -> int | None:
    """The index after the terminator's line; None if there is none."""
    for index in range(start, len(lines)):
        line = lines[index].rstrip("\r")
        if terminator == (line.lstrip("\t") if drops_tabs else line):
            return index + 1
    return None
