"""Find the instruction in a Dockerfile that a step of a build came from, for engines that do not say so."""

from __future__ import annotations

import re
from collections.abc import Iterator

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.image.engine.buildkit.progress import Vertex
from buildtools.image.folder.instructions import Instruction, read_directives, read_instructions

# The instructions that BuildKit's dockerfile2llb counts as steps of a stage, besides FROM.
_STEPS = ("RUN", "COPY", "ADD", "WORKDIR")
# A step's name has the base image as the engine spells it out.
_SPELLED_OUT = re.compile(r"(?:docker-image://)?(?:docker\.io/(?:library/)?)?(?P<name>[^@\s]+?)(?::latest)?(?:@\S+)?")


@frozen
class Place:
    """One instruction with its first and last line, counted from 1.

    ``text`` is one line with the keyword in capitals.
    """

    first: int
    last: int
    keyword: str
    text: str
    stage: int
    stage_name: str


def locate(text: str, vertex: Vertex) -> Place | None:
    """The instruction that a step of a build came from; None if it is unknown.

    A step has the name of its instruction with variables replaced, so if the words differ, its number decides.
    """
    try:
        places = list(_places(text))
    except Refused:
        return None
    if not vertex.number:
        return _mentioning(places, vertex.text)
    stage = vertex.stage.rpartition(" ")[2].lower()
    if stage:
        places = [each for each in places if stage in (each.stage_name, f"stage-{each.stage}")]
    command = " ".join(vertex.text.split())
    same = [each for each in places if each.text == command]
    if same:
        return same[0]
    # A step without a stage name belongs to the only stage that is built, usually the last.
    stage_number = max((each.stage for each in places), default=0)
    own = [each for each in places if each.stage == stage_number]
    steps = [each for each in own if each.keyword in _STEPS]
    # They are preceded by FROM, if it is counted, and the ONBUILD steps of the base image.
    position = vertex.number - (vertex.total - len(steps)) - 1
    if 0 <= position < len(steps) and steps[position].keyword == command.partition(" ")[0]:
        return steps[position]
    return next((each for each in own if each.keyword == "FROM" and command.startswith("FROM ")), None)


def first_with(text: str, word: str) -> Place | None:
    """The first instruction that has this word; None if there is none."""
    try:
        return next((each for each in _places(text) if word in each.text.split()), None)
    except Refused:
        return None


def heredoc_around(text: str, line: int) -> int:
    """The line of the instruction whose here-document contains ``line``; 0 if none does."""
    try:
        above = [each for each in _instructions(text) if each.line <= line]
    except Refused:
        return 0
    return above[-1].line if above and above[-1].line < line and any(above[-1].heredocs()) else 0


def _instructions(text: str) -> Iterator[Instruction]:
    return read_instructions(text, read_directives(text).get("escape", "\\"), "the Dockerfile")


def _places(text: str) -> Iterator[Place]:
    stage, name = -1, ""
    for instruction in _instructions(text):
        keyword, *words = instruction.text.split()
        keyword = keyword.upper()
        if keyword == "FROM":
            stage += 1
            name = words[-1].lower() if len(words) > 2 and words[-2].upper() == "AS" else ""
        last = text.count("\n", 0, instruction.pieces[-1][1]) + 1
        yield Place(instruction.line, last, keyword, " ".join([keyword, *words]), stage, name)


def _mentioning(places: list[Place], name: str) -> Place | None:
    words = name.split()
    base = _SPELLED_OUT.fullmatch(words[-1]) if words else None
    if not base:
        return None
    for place in places:
        for word in place.text.split()[1:]:
            mention = _SPELLED_OUT.fullmatch(re.sub(r"^--(?:from=|mount=.*from=)", "", word).partition(",")[0])
            if mention and mention["name"] == base["name"]:
                return place
    return None
