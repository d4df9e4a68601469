"""What a Dockerfile says about its stages, arguments, base images and the files it takes from the context.

The grammar is BuildKit's (``frontend/dockerfile/parser`` and ``instructions``), of which only the instructions that
decide these things are read: https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from buildtools import Refused
from buildtools.image.shell import BadSubstitution, expand, word_pattern

SCRATCH = "scratch"

_KEYWORD = re.compile(r"\s*(\S*)\s*")
_WORD = re.compile(r"\S+")
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"[0-9]*<<(-?)([^<]+)")
_REMOTE = re.compile(r"(?:https?|git|ssh)://|git@")


@dataclass(frozen=True)
class Reference:
    """A place in a Dockerfile that names an image or a stage.

    ``start`` and ``end`` are offsets into the text; -1 where the place is not in it, as in a base's ``ONBUILD``.
    """

    written: str
    line: int
    start: int = -1
    end: int = -1


@dataclass(frozen=True)
class Argument:
    """``ARG NAME`` or ``ARG NAME=DEFAULT``."""

    name: str
    default: str | None
    line: int


@dataclass(frozen=True)
class Stage:
    """From one ``FROM`` to the next.

    ``uses`` are the images and stages of ``COPY --from`` and ``RUN --mount=from=``. ``sources`` are the paths and
    globs, as written, that it takes from the context, ``.`` for all of it. ``triggers`` are what follows ``ONBUILD``.
    """

    index: int
    name: str
    line: int
    base: Reference
    platform: str
    arguments: tuple[Argument, ...]
    uses: tuple[Reference, ...]
    sources: tuple[str, ...]
    triggers: tuple[str, ...]


@dataclass(frozen=True)
class Base:
    """An image from outside that a build needs. ``image`` is the reference after expansion."""

    image: str
    platform: str
    reference: Reference


@dataclass(frozen=True)
class Needs:
    """What building one target takes.

    ``stages`` are the indexes of the stages that are built. ``arguments`` has the value of each argument that one of
    them declares and that has a value from outside the stage. ``sources`` are the paths and globs taken from the
    context. ``triggers`` are the ``ONBUILD`` instructions that the image will carry.
    """

    stages: tuple[int, ...]
    arguments: Mapping[str, str]
    bases: tuple[Base, ...]
    sources: tuple[str, ...]
    triggers: tuple[str, ...]


@dataclass(frozen=True)
class Dockerfile:
    """A parsed Dockerfile. ``where`` names it in errors; ``syntax`` is the frontend image that it asks for."""

    where: str
    text: str
    escape: str
    syntax: str
    arguments: tuple[Argument, ...]
    stages: tuple[Stage, ...]

    @property
    def declared(self) -> frozenset[str]:
        """The names of all arguments, before and inside the stages."""
        return frozenset(a.name for a in (*self.arguments, *(a for s in self.stages for a in s.arguments)))

    def needs(
        self,
        arguments: Mapping[str, str],
        *,
        target: str = "",
        platform: str = "linux/amd64",
        triggers: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> Needs:
        """What building ``target`` (the last stage if empty) takes, given the values of build arguments.

        ``triggers(image)`` gives the ``ONBUILD`` instructions that an image from outside carries.

        :raises Refused: no such target, a reference that expands to nothing, stages in a circle.
        """
        return _Resolver(self, arguments, platform, triggers).needs(target)

    def rewritten(self, images: Mapping[Reference, str]) -> bytes:
        """The Dockerfile with each of these references replaced by an image, all else untouched."""
        text = self.text
        for reference, image in sorted(images.items(), key=lambda item: -item[0].start):
            text = text[: reference.start] + image + text[reference.end :]
        return text.encode("utf-8", "surrogateescape")


def parse(data: bytes, *, where: str = "Dockerfile") -> Dockerfile:
    """The Dockerfile in ``data``.

    :raises Refused: it is none; names the line.
    """
    text = data.decode("utf-8", "surrogateescape")
    directives = _directives(text)
    escape = directives.get("escape", "\\")
    if escape not in ("\\", "`"):
        raise Refused(f"{where}: the escape directive is {escape!r}", "it can be \\ or `")
    arguments: list[Argument] = []
    stages: list[_StageInTheMaking] = []
    for instruction in _instructions(text, escape, where):
        if instruction.keyword == "from":
            stages.append(_stage(instruction, len(stages)))
        elif stages:
            stages[-1].add(instruction)
        elif instruction.keyword == "arg":
            arguments += instruction.arguments()
        else:
            raise instruction.refused("an instruction before the first FROM", "only ARG may stand there")
    if not stages:
        raise Refused(f"{where} has no FROM", "start it with the image to build on, or FROM scratch")
    return Dockerfile(
        where, text, escape, directives.get("syntax", ""), tuple(arguments), tuple(s.finished() for s in stages)
    )


def _directives(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.removeprefix("\ufeff").split("\n"):
        directive = _DIRECTIVE.fullmatch(line.strip())
        if not directive:
            break
        found.setdefault(directive[1].lower(), directive[2])
    return found


@dataclass
class _Instruction:
    """One instruction, its lines joined. ``pieces`` says where in the text the parts of ``joined`` came from."""

    joined: str
    line: int
    escape: str
    where: str
    pieces: list[tuple[int, int]]
    keyword: str = ""
    flags: list[tuple[str, str, int, int]] = field(default_factory=list)
    rest: int = 0

    def __post_init__(self) -> None:
        """Take keyword and flags; what follows begins at ``rest``."""
        found = _KEYWORD.match(self.joined)
        assert found is not None
        self.keyword, self.rest = found[1].lower(), found.end()
        while self.joined.startswith("--", self.rest) and (
            flag := word_pattern(self.escape).match(self.joined, self.rest)
        ):
            end = flag.end()
            if flag[0] == "--":
                break
            name, equals, _ = flag[0].partition("=")
            self.flags.append((name, self.value(flag[0][len(name + equals) :]), flag.start() + len(name + equals), end))
            self.rest = end
            while self.joined[self.rest : self.rest + 1].isspace():
                self.rest += 1

    def value(self, written: str) -> str:
        # Flags lose their quotes, but variables in them are looked at later, if at all.
        return re.sub(rf"""["']|{re.escape(self.escape)}(.)""", lambda found: found[1] or "", written, flags=re.DOTALL)

    @property
    def body(self) -> str:
        return self.joined[self.rest :].strip()

    def offset(self, position: int, *, ending: bool = False) -> int:
        """Where in the text a position of ``joined`` lies; the end of a part belongs to the part it ends."""
        for begin, original in reversed(self.pieces):
            if position > begin or (position == begin and not ending):
                return original + position - begin
        return self.pieces[0][1]

    def reference(self, written: str, start: int, end: int) -> Reference:
        first, last = self.offset(start), self.offset(end, ending=True)
        return Reference(written, self.line, first, last)

    def refused(self, fact: str, remedy: str) -> Refused:
        return Refused(f"{self.where} line {self.line}: {fact}", remedy)

    def arguments(self) -> Iterator[Argument]:
        for word in word_pattern(self.escape).findall(self.body):
            name, equals, default = word.partition("=")
            if not name:
                raise self.refused("ARG without a name", "write ARG NAME or ARG NAME=DEFAULT")
            yield Argument(name, default if equals else None, self.line)

    def words(self) -> list[str]:
        """The paths of COPY or ADD: a JSON list, or separated by white space."""
        body = self.body
        if body.startswith("["):
            try:
                listed = json.loads(body)
            except ValueError:
                return body.split()
            if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
                return listed
        return body.split()

    def heredocs(self) -> list[tuple[str, bool]]:
        """The terminators of the here-documents that follow, and whether leading tabs are dropped."""
        keyword = self.keyword
        if keyword == "onbuild":
            keyword = (self.body.split(None, 1) or [""])[0].lower()
        if keyword not in ("run", "copy", "add") or self.body.startswith("["):
            return []
        found = []
        for word in word_pattern(self.escape).findall(self.joined[self.rest :]):
            heredoc = _HEREDOC.fullmatch(word)
            if heredoc:
                found.append((self.plain(heredoc[2]), bool(heredoc[1])))
        return found

    def plain(self, word: str) -> str:
        try:
            return expand(word, {}, self.escape)
        except BadSubstitution as error:
            raise self.refused(f"{word} cannot be read ({error})", "correct it") from None


def _instructions(text: str, escape: str, where: str) -> Iterator[_Instruction]:
    offset = len("\ufeff") if text.startswith("\ufeff") else 0
    lines = text[offset:].split("\n")
    number = 0
    while number < len(lines):
        joined: list[str] = []
        length = 0
        pieces: list[tuple[int, int]] = []
        first = 0
        while number < len(lines):
            raw = lines[number]
            line = raw.removesuffix("\r")
            here = offset
            number += 1
            offset += len(raw) + 1
            bare = line.lstrip()
            if not bare or bare.startswith("#"):
                if joined:
                    continue
                break
            if not joined:
                first = number
                here += len(line) - len(bare)
                line = bare
            trimmed = line.rstrip(" \t")
            continued = trimmed.endswith(escape) and not trimmed.endswith(escape * 2)
            part = trimmed[:-1] if continued else line
            pieces.append((length, here))
            joined.append(part)
            length += len(part)
            if not continued:
                break
        whole = "".join(joined)
        if not whole.strip():
            continue
        instruction = _Instruction(whole, first, escape, where, pieces)
        if "<<" in whole:
            for terminator, drops_tabs in instruction.heredocs():
                while True:
                    if number == len(lines):
                        raise instruction.refused(
                            f"the here-document {terminator} has no end", f"end it with a line {terminator}"
                        )
                    line = lines[number].removesuffix("\r")
                    offset += len(lines[number]) + 1
                    number += 1
                    if terminator == (line.lstrip("\t") if drops_tabs else line):
                        break
        yield instruction


@dataclass
class _StageInTheMaking:
    index: int
    name: str
    line: int
    base: Reference
    platform: str
    arguments: list[Argument] = field(default_factory=list)
    uses: list[Reference] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)

    def add(self, instruction: _Instruction) -> None:
        if instruction.keyword == "arg":
            self.arguments += instruction.arguments()
        elif instruction.keyword in ("copy", "add"):
            self._add_copy(instruction)
        elif instruction.keyword == "run":
            for name, value, start, end in instruction.flags:
                if name == "--mount":
                    self._add_mount(instruction, value, start, end)
        elif instruction.keyword == "onbuild":
            self.triggers.append(instruction.body)

    def _add_copy(self, instruction: _Instruction) -> None:
        for name, value, start, end in instruction.flags:
            if name == "--from":
                self.uses.append(instruction.reference(value, start, end))
                return
        for word in instruction.words()[:-1]:
            if _HEREDOC.fullmatch(word) or (instruction.keyword == "add" and _REMOTE.match(word)):
                continue
            # A base image's own environment has a say in what a variable means here, so take what it could name.
            self.sources.append("." if "$" in word else instruction.plain(word))

    def _add_mount(self, instruction: _Instruction, value: str, start: int, end: int) -> None:
        fields = dict(part.partition("=")[::2] for part in next(csv.reader([value]), []))
        fields = {key.strip().lower(): text for key, text in fields.items()}
        kind = fields.get("type", "bind")
        origin = fields.get("from", "")
        if origin and kind != "tmpfs":
            place = re.compile(rf"""(?:^|[,"'])from=({re.escape(origin)})(?:$|[,"'])""", re.IGNORECASE)
            found = place.search(instruction.joined[start:end])
            if not found:
                raise instruction.refused("the mount's from is quoted in parts", "write it plainly: from=NAME")
            self.uses.append(instruction.reference(origin, start + found.start(1), start + found.end(1)))
        elif kind == "bind":
            source = fields.get("source", fields.get("src", "."))
            self.sources.append("." if "$" in source else source)

    def finished(self) -> Stage:
        return Stage(
            self.index,
            self.name,
            self.line,
            self.base,
            self.platform,
            tuple(self.arguments),
            tuple(self.uses),
            tuple(self.sources),
            tuple(self.triggers),
        )


def _stage(instruction: _Instruction, index: int) -> _StageInTheMaking:
    words = list(_WORD.finditer(instruction.joined, instruction.rest))
    if len(words) == 3 and words[1][0].lower() == "as":
        name = words[2][0].lower()
    elif len(words) == 1:
        name = ""
    else:
        raise instruction.refused("FROM must name one image", "write FROM IMAGE or FROM IMAGE AS STAGE")
    reference = instruction.reference(words[0][0], *words[0].span())
    platform = next((value for name_, value, _, _ in instruction.flags if name_ == "--platform"), "")
    return _StageInTheMaking(index, name, instruction.line, reference, platform)


class _Resolver:
    def __init__(
        self,
        dockerfile: Dockerfile,
        arguments: Mapping[str, str],
        platform: str,
        triggers: Callable[[str], Sequence[str]],
    ) -> None:
        self.dockerfile = dockerfile
        self.given = arguments
        self.platform = platform
        self.triggers_of_image = triggers
        self.globals = self._globals()
        self.values: dict[str, str] = {}
        self.bases: dict[tuple[str, str], Base] = {}
        self.sources: set[str] = set()
        self.done: dict[int, tuple[str, ...] | None] = {}

    def _globals(self) -> dict[str, str]:
        known = platform_arguments(self.platform)
        for argument in self.dockerfile.arguments:
            if argument.name in self.given:
                known[argument.name] = self.given[argument.name]
            elif argument.default is not None:
                known[argument.name] = self.expanded(argument.default, argument.line, known)
        return known

    def expanded(self, word: str, line: int, variables: Mapping[str, str]) -> str:
        try:
            return expand(word, variables, self.dockerfile.escape)
        except BadSubstitution as error:
            raise Refused(f"{self.dockerfile.where} line {line}: {word} ({error})", "correct it") from None

    def needs(self, target: str) -> Needs:
        stages = self.dockerfile.stages
        chosen = stages[-1] if not target else self.named(target, len(stages))
        if chosen is None:
            names = ", ".join(stage.name for stage in stages if stage.name) or "none has a name"
            raise Refused(f"{self.dockerfile.where} has no stage {target!r}", f"its stages: {names}")
        triggers = self.visit(chosen)
        bases = tuple(self.bases.values())
        return Needs(tuple(sorted(self.done)), self.values, bases, tuple(sorted(self.sources)), triggers)

    def named(self, name: str, before: int) -> Stage | None:
        return next((s for s in reversed(self.dockerfile.stages[:before]) if s.name and s.name == name.lower()), None)

    def visit(self, stage: Stage) -> tuple[str, ...]:
        """Take in a stage and what it is built from; its triggers."""
        if stage.index in self.done:
            known = self.done[stage.index]
            if known is None:
                raise Refused(
                    f"{self.dockerfile.where} line {stage.line}: this stage is built from itself",
                    "take the circle out of its COPY --from",
                )
            return known
        self.done[stage.index] = None
        image = self.expanded(stage.base.written, stage.line, self.globals)
        parent = self.named(image, stage.index)
        if parent:
            triggers: Sequence[str] = self.visit(parent)
        elif not image:
            raise Refused(
                f"{self.dockerfile.where} line {stage.line}: {stage.base.written} is empty",
                "give the argument a default before the first FROM",
            )
        else:
            triggers = self.add_image(image, stage.base, stage.platform)
        self.take(stage.arguments, stage.uses, stage.sources)
        if triggers:
            added = self.parsed(triggers, stage)
            self.take(added.arguments, added.uses, added.sources)
        self.done[stage.index] = stage.triggers
        return stage.triggers

    def parsed(self, triggers: Sequence[str], stage: Stage) -> _StageInTheMaking:
        made = _StageInTheMaking(-1, "", stage.line, stage.base, "")
        for text in triggers:
            for instruction in _instructions(text, self.dockerfile.escape, self.dockerfile.where):
                made.add(instruction)
        made.uses = [Reference(use.written, stage.line) for use in made.uses]
        return made

    def take(self, arguments: Sequence[Argument], uses: Sequence[Reference], sources: Sequence[str]) -> None:
        for argument in arguments:
            if argument.name in self.given:
                self.values[argument.name] = self.given[argument.name]
            elif argument.default is None and argument.name in self.globals:
                self.values[argument.name] = self.globals[argument.name]
        self.sources.update(sources)
        for use in uses:
            stages = self.dockerfile.stages
            if use.written.isdigit() and int(use.written) < len(stages):
                self.visit(stages[int(use.written)])
            elif stage := self.named(use.written, len(stages)):
                self.visit(stage)
            else:
                self.add_image(use.written, use, "")

    def add_image(self, image: str, reference: Reference, platform: str) -> Sequence[str]:
        if image == SCRATCH:
            return ()
        wanted = self.expanded(platform, reference.line, self.globals) or self.platform
        self.bases.setdefault((reference.written, str(reference.start)), Base(image, wanted, reference))
        return self.triggers_of_image(image)


def platform_arguments(platform: str) -> dict[str, str]:
    """The arguments that BuildKit sets by itself: https://docs.docker.com/reference/dockerfile/#automatic-platform-args-in-the-global-scope."""
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    parts = {"PLATFORM": platform, "OS": system, "ARCH": architecture, "VARIANT": variant}
    return {f"{side}{name}": value for side in ("BUILD", "TARGET") for name, value in parts.items()}
