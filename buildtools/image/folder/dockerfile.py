"""What a Dockerfile says about its stages, arguments, base images and the files it takes from the context.

The meaning is BuildKit's (``frontend/dockerfile/instructions`` and ``dockerfile2llb``), of which only the instructions
that decide these things are read: https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.image.folder.instructions import (
    HEREDOC,
    Argument,
    Flag,
    ImageMention,
    Instruction,
    read_directives,
    read_instructions,
)
from buildtools.image.folder.shell import BadSubstitution, expand

SCRATCH = "scratch"

_WORD = re.compile(r"\S+")
_REMOTE = re.compile(r"(?:https?|git|ssh)://|git@")


@frozen
class Steps:
    """What a run of instructions declares and takes.

    ``uses`` are the images and stages of ``COPY --from`` and ``RUN --mount=from=``. ``sources`` are the paths and
    globs, as written, that are taken from the context, ``.`` for all of it. ``triggers`` are what follows ``ONBUILD``.
    """

    arguments: tuple[Argument, ...]
    uses: tuple[ImageMention, ...]
    sources: tuple[str, ...]
    triggers: tuple[str, ...]


@frozen
class Stage:
    """From one ``FROM`` to the next. ``name`` is in lower case, and empty where there is none."""

    index: int
    name: str
    line: int
    base: ImageMention
    platform: str
    steps: Steps


@frozen
class Base:
    """An image from outside that a build needs. ``image`` is the reference after expansion."""

    image: str
    platform: str
    reference: ImageMention


@frozen
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


@frozen
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
        return frozenset(a.name for a in (*self.arguments, *(a for s in self.stages for a in s.steps.arguments)))

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

    def rewritten(self, images: Mapping[ImageMention, str]) -> bytes:
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
    directives = read_directives(text)
    escape = directives.get("escape", "\\")
    if escape not in ("\\", "`"):
        raise Refused(f"{where}: the escape directive is {escape!r}", "it can be \\ or `")
    arguments: list[Argument] = []
    parts: list[list[Instruction]] = []
    for instruction in read_instructions(text, escape, where):
        if instruction.keyword == "from":
            parts.append([instruction])
        elif parts:
            parts[-1].append(instruction)
        elif instruction.keyword == "arg":
            arguments += instruction.arguments()
        else:
            raise instruction.refused("an instruction before the first FROM", "only ARG may stand there")
    if not parts:
        raise Refused(f"{where} has no FROM", "start it with the image to build on, or FROM scratch")
    stages = tuple(_stage(index, *part) for index, part in enumerate(parts))
    return Dockerfile(where, text, escape, directives.get("syntax", ""), tuple(arguments), stages)


def _stage(index: int, opening: Instruction, *following: Instruction) -> Stage:
    words = list(_WORD.finditer(opening.joined, opening.rest))
    if len(words) == 3 and words[1][0].lower() == "as":
        name = words[2][0].lower()
    elif len(words) == 1:
        name = ""
    else:
        raise opening.refused("FROM must name one image", "write FROM IMAGE or FROM IMAGE AS STAGE")
    base = opening.reference(words[0][0], *words[0].span())
    platform = next((flag.value for flag in opening.flags if flag.name == "--platform"), "")
    return Stage(index, name, opening.line, base, platform, _steps(following))


def _steps(instructions: Iterable[Instruction]) -> Steps:
    arguments: list[Argument] = []
    uses: list[ImageMention] = []
    sources: list[str] = []
    triggers: list[str] = []
    for instruction in instructions:
        if instruction.keyword == "arg":
            arguments += instruction.arguments()
        elif instruction.keyword in ("copy", "add"):
            origins = [instruction.reference(f.value, f.start, f.end) for f in instruction.flags if f.name == "--from"]
            uses += origins
            if not origins:
                sources += _copied(instruction)
        elif instruction.keyword == "run":
            for flag in instruction.flags:
                if flag.name == "--mount":
                    use, source = _mounted(instruction, flag)
                    uses += use
                    sources += source
        elif instruction.keyword == "onbuild":
            triggers.append(instruction.body)
    return Steps(tuple(arguments), tuple(uses), tuple(sources), tuple(triggers))


def _copied(instruction: Instruction) -> Iterable[str]:
    for word in instruction.words()[:-1]:
        if not (HEREDOC.fullmatch(word) or (instruction.keyword == "add" and _REMOTE.match(word))):
            # A base image's own environment has a say in what a variable means here, so take all it could name.
            yield "." if "$" in word else instruction.plain(word)


def _mounted(instruction: Instruction, flag: Flag) -> tuple[list[ImageMention], list[str]]:
    """The image or stage that a ``--mount`` uses, or what it takes from the context."""
    try:
        pairs = [part.partition("=") for part in next(csv.reader([flag.value]), [])]
    except csv.Error as error:
        raise instruction.refused(f"the mount cannot be read ({error})", "correct it") from None
    fields = {key.strip().lower(): text for key, _, text in pairs}
    kind, origin = fields.get("type", "bind"), fields.get("from", "")
    if origin and kind != "tmpfs":
        place = re.compile(rf"""(?:^|[,"'])from=({re.escape(origin)})(?:$|[,"'])""", re.IGNORECASE)
        found = place.search(instruction.joined[flag.start : flag.end])
        if not found:
            raise instruction.refused("the mount's from is quoted in parts", "write it plainly: from=NAME")
        return [instruction.reference(origin, flag.start + found.start(1), flag.start + found.end(1))], []
    if kind != "bind":
        return [], []
    source = fields.get("source", fields.get("src", "."))
    return [], ["." if "$" in source else source]


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
        self.bases: dict[ImageMention, Base] = {}
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
        self.take(stage.steps)
        if triggers:
            self.take(self.parsed(triggers, stage.line))
        self.done[stage.index] = stage.steps.triggers
        return stage.steps.triggers

    def parsed(self, triggers: Sequence[str], line: int) -> Steps:
        where = f"{self.dockerfile.where} line {line}, ONBUILD of its base,"
        steps = _steps(one for text in triggers for one in read_instructions(text, self.dockerfile.escape, where))
        return replace(steps, uses=tuple(ImageMention(use.written, line) for use in steps.uses))

    def take(self, steps: Steps) -> None:
        for argument in steps.arguments:
            if argument.name in self.given:
                self.values[argument.name] = self.given[argument.name]
            elif argument.default is None and argument.name in self.globals:
                self.values[argument.name] = self.globals[argument.name]
        self.sources.update(steps.sources)
        for use in steps.uses:
            stages = self.dockerfile.stages
            if use.written.isdigit() and int(use.written) < len(stages):
                self.visit(stages[int(use.written)])
            elif stage := self.named(use.written, len(stages)):
                self.visit(stage)
            else:
                self.add_image(use.written, use, "")

    def add_image(self, image: str, reference: ImageMention, platform: str) -> Sequence[str]:
        if image == SCRATCH:
            return ()
        wanted = self.expanded(platform, reference.line, self.globals) or self.platform
        self.bases[reference] = Base(image, wanted, reference)
        return self.triggers_of_image(image)


def platform_arguments(platform: str) -> dict[str, str]:
    """The arguments that BuildKit sets by itself: https://docs.docker.com/reference/dockerfile/#automatic-platform-args-in-the-global-scope."""
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    parts = {"PLATFORM": platform, "OS": system, "ARCH": architecture, "VARIANT": variant}
    return {f"{side}{name}": value for side in ("BUILD", "TARGET") for name, value in parts.items()}
