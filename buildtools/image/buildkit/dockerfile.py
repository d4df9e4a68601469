"""Where in a Dockerfile something is, for engines that do not say so.

https://docs.docker.com/reference/dockerfile/: format, parser directives, here-documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from buildtools.image.buildkit.progress import Vertex

_DIRECTIVE = re.compile(r"#\s*(?P<name>[A-Za-z][A-Za-z0-9]*)\s*=\s*(?P<value>.+?)\s*")
_HEREDOC = re.compile(r"<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_HEREDOC_KEYWORDS = ("RUN", "COPY", "ADD")
# What BuildKit's dockerfile2llb counts as a step of a stage, beside its FROM.
_COUNTED = ("RUN", "COPY", "ADD", "WORKDIR")
# A base image appears in a step's name as the engine spells it out.
_SPELLED_OUT = re.compile(r"(?:docker-image://)?(?:docker\.io/(?:library/)?)?(?P<name>[^@\s]+?)(?::latest)?(?:@\S+)?")


@dataclass(frozen=True)
class Instruction:
    """One instruction with its lines, the first of a file being 1. ``text`` is on one line, the keyword in capitals."""

    first: int
    last: int
    text: str
    stage: int
    stage_name: str

    @property
    def keyword(self) -> str:
        return self.text.partition(" ")[0]


def directives(text: str) -> dict[str, str]:
    """The parser directives at the top, by name in small letters: ``syntax``, ``escape``, ``check``."""
    found: dict[str, str] = {}
    lines = text.removeprefix("\ufeff").splitlines()
    for line in lines[1:] if lines and lines[0].startswith("#!") else lines:
        directive = _DIRECTIVE.fullmatch(line.strip())
        if not directive or directive["name"].lower() in found:
            break
        found[directive["name"].lower()] = directive["value"]
    return found


def instructions(text: str) -> Iterator[Instruction]:
    """All instructions, as far as lines alone tell."""
    escape = re.escape(directives(text).get("escape", "\\"))
    continued = re.compile(rf"{escape}[ \t]*$")
    lines = text.splitlines()
    at, stage, stage_name = 0, -1, ""
    while at < len(lines):
        first = at
        parts: list[str] = []
        while at < len(lines):
            line = lines[at]
            at += 1
            if line.lstrip().startswith("#") or not line.strip():
                if not parts:
                    first = at
                continue
            parts.append(continued.sub("", line).strip())
            if not continued.search(line):
                break
        words = " ".join(parts).split()
        if not words:
            continue
        keyword = words[0].upper()
        last = at
        if keyword in _HEREDOC_KEYWORDS:
            at = _after_heredocs(lines, at, " ".join(words))
            last = at
        if keyword == "FROM":
            stage += 1
            stage_name = words[-1].lower() if len(words) > 2 and words[-2].upper() == "AS" else ""
        yield Instruction(first + 1, last, " ".join([keyword, *words[1:]]), stage, stage_name)


def _after_heredocs(lines: list[str], at: int, instruction: str) -> int:
    for dash, _, name in _HEREDOC.findall(instruction):
        end = at
        while end < len(lines) and (lines[end].lstrip("\t") if dash else lines[end]) != name:
            end += 1
        # One that is never closed is none: "<<" means something to a shell too.
        at = end + 1 if end < len(lines) else at
    return at


def locate(text: str, vertex: Vertex) -> Instruction | None:
    """The instruction that a step of a build came from; None where it cannot be told.

    A step is named after its instruction with variables replaced, so where the words differ its number decides.
    """
    found = list(instructions(text))
    if not vertex.number:
        return _mentioning(found, vertex.text)
    stage = vertex.stage.rpartition(" ")[2].lower()
    if stage:
        found = [each for each in found if stage in (each.stage_name, f"stage-{each.stage}")]
    wanted = " ".join(vertex.text.split())
    same = [each for each in found if each.text == wanted]
    if same:
        return same[0]
    # Without a name it is the only stage that is built, which is most often the last.
    stage_number = max((each.stage for each in found), default=0)
    own = [each for each in found if each.stage == stage_number]
    counted = [each for each in own if each.keyword in _COUNTED]
    # Before them come FROM, if it is counted, and what an ONBUILD of the base image added.
    position = vertex.number - (vertex.total - len(counted)) - 1
    if 0 <= position < len(counted) and counted[position].keyword == wanted.partition(" ")[0]:
        return counted[position]
    return next((each for each in own if each.keyword == "FROM" and wanted.startswith("FROM ")), None)


def _mentioning(found: list[Instruction], name: str) -> Instruction | None:
    words = name.split()
    spelled = _SPELLED_OUT.fullmatch(words[-1]) if words else None
    if not spelled:
        return None
    wanted = spelled["name"]
    for instruction in found:
        for word in instruction.text.split()[1:]:
            mentioned = _SPELLED_OUT.fullmatch(re.sub(r"^--(?:from=|mount=.*from=)", "", word).partition(",")[0])
            if mentioned and mentioned["name"] == wanted:
                return instruction
    return None
