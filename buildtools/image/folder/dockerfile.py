"""A Dockerfile's stages, arguments, base images and the files it takes from the context.

The semantics are BuildKit's (``frontend/dockerfile/instructions`` and ``dockerfile2llb``). Only the instructions that
determine these things are parsed: https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace

from buildtools import BuildToolsError, Refused, failures_of
from buildtools.frozen import frozen
from buildtools.image.folder.downloads import Addition, changing_words, downloads, is_remote
from buildtools.image.folder.instructions import (
    Argument,
    Flag,
    ImageMention,
    Instruction,
    read_directives,
    read_instructions,
    requested_frontend,
)
from buildtools.image.folder.patterns import glob
from buildtools.image.folder.shell import BadSubstitution, expand
from buildtools.platform import Platform

SCRATCH = "scratch"

_LINUX = Platform("linux", "amd64")

_WORD = re.compile(r"[^\t\v\f\r ]+")
_INDEX = re.compile(r"\+?[0-9]+", re.ASCII)


@frozen
class Steps:
    """What a sequence of instructions declares and uses.

    ``uses`` are the images and stages of ``COPY --from`` and ``RUN --mount=from=``, ``indexes`` the stages that a
    ``COPY`` names by their number. ``sources`` are the paths and globs, as written, that are taken from the context,
    ``.`` for all of it. ``triggers`` are the instructions after ``ONBUILD``. ``flow`` has in order what decides about
    downloads: arguments, the variables of ``ENV``, and what ``ADD`` may download. ``secrets`` are the ids of the
    secrets without which a ``RUN`` fails. ``errors`` are about what only matters if the stage is built.
    """

    arguments: tuple[Argument, ...]
    uses: tuple[ImageMention, ...]
    indexes: tuple[int, ...]
    sources: tuple[str, ...]
    triggers: tuple[str, ...]
    flow: tuple[Argument | Mapping[str, str] | Addition, ...]
    secrets: tuple[str, ...]
    errors: tuple[Refused, ...]


@frozen
class Stage:
    """From one ``FROM`` to the next. ``name`` is in lower case, and empty if it has none."""

    index: int
    name: str
    line: int
    base: ImageMention
    platform: str
    steps: Steps


@frozen
class Base:
    """An external image that a build needs. ``image`` is the reference after expansion."""

    image: str
    platform: Platform
    mention: ImageMention


@frozen
class Needs:
    """What building one target needs.

    ``stages`` are the indexes of the stages that are built. ``arguments`` has the value of each argument that one of
    them declares and that gets a value from outside the stage. ``sources`` are the paths and globs taken from the
    context. ``triggers`` are the ``ONBUILD`` instructions in the built image. ``remotes`` are those URLs of ``ADD``, as
    written, whose content may change from one build to the next. ``secrets`` are the ids of the secrets without which a
    ``RUN`` fails.
    """

    stages: tuple[int, ...]
    arguments: Mapping[str, str] = field(repr=False)
    bases: tuple[Base, ...]
    sources: tuple[str, ...]
    triggers: tuple[str, ...]
    remotes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


@frozen
class Dockerfile:
    """A parsed Dockerfile. ``where`` is its name in errors; ``syntax`` is the frontend image that it requests."""

    where: str
    text: str
    escape: str
    syntax: str
    arguments: tuple[Argument, ...]
    stages: tuple[Stage, ...]

    def needs(
        self,
        arguments: Mapping[str, str],
        *,
        target: str = "",
        platform: Platform = _LINUX,
        builder: Platform = _LINUX,
        triggers: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> Needs:
        """What building ``target`` (the last stage if empty) needs, given the values of build arguments.

        The image is for ``platform``, and ``builder`` is the platform of the builder. ``triggers(image)`` returns the
        ``ONBUILD`` instructions of an external image.

        :raises Refused: if there is no such target, a reference expands to nothing, stages form a cycle, or a path is
            invalid.
        """
        automatic = automatic_arguments(builder, platform, target or self.stages[-1].name)
        return _Resolver(self, arguments, platform, automatic, triggers).needs(target)

    def unknown_instructions(self) -> list[BuildToolsError]:
        """An error for each unknown instruction, unless ``# syntax=`` names a frontend that may know it."""
        instructions = () if self.syntax else read_instructions(self.text, self.escape, self.where)
        return failures_of(each.check_keyword for each in instructions)

    def with_images(self, images: Mapping[ImageMention, str]) -> bytes:
        """The Dockerfile with each of these references replaced by an image, and otherwise unchanged."""
        text = self.text
        for mention, image in sorted(images.items(), key=lambda item: -item[0].start):
            text = text[: mention.start] + image + text[mention.end :]
        return text.encode("utf-8", "surrogateescape")


def parse(data: bytes, *, where: str = "Dockerfile") -> Dockerfile:
    """The Dockerfile in ``data``.

    :raises Refused: if it is not a Dockerfile; the message names the line.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Refused(f"{where} is written in UTF-16", "save it as UTF-8")
    text = data.decode("utf-8", "surrogateescape")
    directives = read_directives(text)
    escape = directives.get("escape", "\\")
    if escape not in ("\\", "`"):
        raise Refused(f"{where}: the escape directive is {escape!r}", "use \\ or `")
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
            instruction.check_keyword()
            raise instruction.error("instruction before the first FROM", "only ARG is allowed there")
    if not parts:
        raise Refused(f"{where} has no FROM", "begin it with FROM IMAGE, or FROM scratch")
    stages = tuple(_stage(index, *part) for index, part in enumerate(parts))
    return Dockerfile(where, text, escape, requested_frontend(text), tuple(arguments), stages)


def _stage(index: int, opening: Instruction, *following: Instruction) -> Stage:
    words = list(_WORD.finditer(opening.text, opening.rest))
    if len(words) == 3 and words[1][0].lower() == "as":
        name = words[2][0].lower()
    elif len(words) == 1:
        name = ""
    else:
        raise opening.error("FROM must name one image", "write FROM IMAGE or FROM IMAGE AS STAGE")
    base = opening.mention(words[0][0], *words[0].span())
    platform = next((flag.value for flag in opening.flags if flag.name == "--platform"), "")
    return Stage(index, name, opening.line, base, platform, _steps(following))


def _steps(instructions: Iterable[Instruction]) -> Steps:
    arguments: list[Argument] = []
    uses: list[ImageMention] = []
    sources: list[str] = []
    indexes: list[int] = []
    triggers: list[str] = []
    flow: list[Argument | Mapping[str, str] | Addition] = []
    secrets: list[str] = []
    errors: list[Refused] = []
    for instruction in instructions:
        if instruction.keyword == "arg":
            declared = list(instruction.arguments())
            arguments += declared
            flow += declared
        elif instruction.keyword == "env":
            flow.append(instruction.variables())
        elif instruction.keyword in ("copy", "add"):
            origins = [flag for flag in instruction.flags if flag.name == "--from" and flag.value]
            numbered = [int(flag.value) for flag in origins if _INDEX.fullmatch(flag.value)]
            indexes += numbered
            if not numbered:
                uses += [instruction.mention(flag.value, flag.start, flag.end) for flag in origins]
            try:
                if not origins:
                    sources += _copy_sources(instruction)
                if instruction.keyword == "add":
                    flow += downloads(instruction)
            except Refused as error:
                errors.append(error)
        elif instruction.keyword == "run":
            for flag in instruction.flags:
                if flag.name == "--mount":
                    fields = _mount_fields(instruction, flag)
                    use, source = _mount_sources(instruction, flag, fields)
                    uses += use
                    sources += source
                    secrets += _necessary_secret(fields)
        elif instruction.keyword == "onbuild":
            triggers.append(instruction.body)
    return Steps(
        tuple(arguments),
        tuple(uses),
        tuple(indexes),
        tuple(sources),
        tuple(triggers),
        tuple(flow),
        tuple(secrets),
        tuple(errors),
    )


def _copy_sources(instruction: Instruction) -> Iterable[str]:
    for word in instruction.sources():
        # A variable may also come from the base image's environment, so take everything it could name.
        source = "." if "$" in word else instruction.plain(word)
        if not (instruction.keyword == "add" and is_remote(source)):
            if glob(source) is None:
                keyword = instruction.keyword.upper()
                raise instruction.error(f"{keyword} of the invalid pattern {word}", "correct its brackets or quotes")
            yield source


def _mount_fields(instruction: Instruction, flag: Flag) -> dict[str, str]:
    try:
        pairs = [part.partition("=") for part in next(csv.reader([flag.value]), [])]
    except csv.Error as error:
        raise instruction.error(f"invalid --mount ({error})", "correct it") from None
    return {key.strip().lower(): text for key, _, text in pairs}


def _necessary_secret(fields: Mapping[str, str]) -> list[str]:
    """The id of a secret without which its ``RUN`` fails."""
    target = fields.get("target", fields.get("dst", fields.get("destination", "")))
    source = fields.get("source", fields.get("src", ""))
    name = source or fields.get("id") or target.rpartition("/")[2]
    is_necessary = fields.get("type") == "secret" and fields.get("required", "false").lower() in ("", "true", "t", "1")
    return [name] if is_necessary and "$" not in name else []


def _mount_sources(
    instruction: Instruction, flag: Flag, fields: Mapping[str, str]
) -> tuple[list[ImageMention], list[str]]:
    """The images or stages that a ``--mount`` uses, and the paths that it takes from the context."""
    kind, origin = fields.get("type", "bind").lower(), fields.get("from", "")
    if origin and kind != "tmpfs":
        pattern = re.compile(rf"""(?:^|[,"'])from=({re.escape(origin)})(?:$|[,"'])""", re.IGNORECASE)
        place = pattern.search(instruction.text[flag.start : flag.end])
        if not place:
            raise instruction.error("the mount's from is quoted in parts", "write it plainly: from=NAME")
        return [instruction.mention(origin, flag.start + place.start(1), flag.start + place.end(1))], []
    if kind != "bind" and "$" not in kind:
        return [], []
    source = fields.get("source", fields.get("src", "."))
    return [], ["." if "$" in source else source]


class _Resolver:
    def __init__(
        self,
        dockerfile: Dockerfile,
        arguments: Mapping[str, str],
        platform: Platform,
        automatic: Mapping[str, str],
        triggers: Callable[[str], Sequence[str]],
    ) -> None:
        self.dockerfile = dockerfile
        self.outer_values = arguments
        self.platform = platform
        self.triggers_of_image = triggers
        self.globals = self._globals(automatic)
        self.values: dict[str, str] = {}
        self.bases: dict[ImageMention, Base] = {}
        self.sources: set[str] = set()
        self.remotes: dict[str, None] = {}
        self.secrets: dict[str, None] = {}
        self.visits: dict[int, tuple[str, ...] | None] = {}
        self.variables: dict[int, dict[str, str]] = {}

    def _globals(self, automatic: Mapping[str, str]) -> dict[str, str]:
        # A given value replaces one of these too, declared or not.
        values = {name: self.outer_values.get(name, value) for name, value in automatic.items()}
        for argument in self.dockerfile.arguments:
            if argument.name in self.outer_values:
                values[argument.name] = self.outer_values[argument.name]
            elif argument.default is not None:
                values[argument.name] = self.expand_word(argument.default, argument.line, values)
        return values

    def expand_word(self, word: str, line: int, variables: Mapping[str, str]) -> str:
        try:
            return expand(word, variables, self.dockerfile.escape)
        except BadSubstitution as error:
            raise Refused(f"{self.dockerfile.where} line {line}: {word} ({error})", "correct it") from None

    def needs(self, target: str) -> Needs:
        stages = self.dockerfile.stages
        stage = stages[-1] if not target else self.stage_named(target, len(stages))
        if stage is None:
            names = ", ".join(stage.name for stage in stages if stage.name) or "no stage has a name"
            raise Refused(f"{self.dockerfile.where} has no stage {target!r}", f"its stages: {names}")
        triggers = self.visit(stage)
        bases = tuple(self.bases.values())
        sources = tuple(sorted(self.sources))
        remotes, secrets = tuple(self.remotes), tuple(self.secrets)
        return Needs(tuple(sorted(self.visits)), self.values, bases, sources, triggers, remotes, secrets)

    def stage_named(self, name: str, before: int) -> Stage | None:
        return next((s for s in reversed(self.dockerfile.stages[:before]) if s.name and s.name == name.lower()), None)

    def visit(self, stage: Stage) -> tuple[str, ...]:
        """Process a stage and everything it is built from; returns its triggers."""
        if stage.index in self.visits:
            earlier = self.visits[stage.index]
            if earlier is None:
                raise Refused(
                    f"{self.dockerfile.where} line {stage.line}: this stage is built from itself",
                    "remove the cycle from its COPY --from",
                )
            return earlier
        self.visits[stage.index] = None
        image = self.expand_word(stage.base.text, stage.line, self.globals)
        parent = self.stage_named(image, stage.index)
        variables: dict[str, str] = {}
        if parent:
            triggers: Sequence[str] = self.visit(parent)
            variables |= self.variables[parent.index]
        elif not image:
            raise Refused(
                f"{self.dockerfile.where} line {stage.line}: {stage.base.text} is empty",
                "give the argument a default before the first FROM",
            )
        else:
            triggers = self.add_image(image, stage.base, stage.platform)
        if triggers:
            self.take(self.trigger_steps(triggers, stage.line), variables)
        self.take(stage.steps, variables)
        self.variables[stage.index] = variables
        self.visits[stage.index] = stage.steps.triggers
        return stage.steps.triggers

    def trigger_steps(self, triggers: Sequence[str], line: int) -> Steps:
        where = f"{self.dockerfile.where} line {line}, ONBUILD of its base,"
        # Each is a Dockerfile of its own, in which nothing changes the escape character.
        steps = _steps(one for text in triggers for one in read_instructions(text, "\\", where))
        return replace(steps, uses=tuple(ImageMention(use.text, line) for use in steps.uses))

    def take(self, steps: Steps, variables: dict[str, str]) -> None:
        if steps.errors:
            raise steps.errors[0]
        for argument in steps.arguments:
            if argument.name in self.outer_values:
                self.values[argument.name] = self.outer_values[argument.name]
            elif argument.default is None and argument.name in self.globals:
                self.values[argument.name] = self.globals[argument.name]
        self.sources.update(steps.sources)
        self.secrets |= dict.fromkeys(steps.secrets)
        words = changing_words(steps.flow, variables, self.outer_values, self.globals, self.dockerfile.escape)
        self.remotes |= dict.fromkeys(words)
        stages = self.dockerfile.stages
        for index in steps.indexes:
            if index < len(stages):
                self.visit(stages[index])
        for use in steps.uses:
            if stage := self.stage_named(use.text, len(stages)):
                self.visit(stage)
            else:
                self.add_image(use.text, use, "")

    def add_image(self, image: str, mention: ImageMention, platform: str) -> Sequence[str]:
        if image == SCRATCH:
            return ()
        self.bases[mention] = Base(image, self.platform_of(platform, mention.line), mention)
        return self.triggers_of_image(image)

    def platform_of(self, word: str, line: int) -> Platform:
        """The platform of ``FROM --platform=WORD``; the image's if there is no such flag, or it is empty."""
        text = self.expand_word(word, line, self.globals)
        try:
            return Platform.parse(text) if text else self.platform
        except ValueError as error:
            raise Refused(
                f"{self.dockerfile.where} line {line}: invalid platform {text!r} ({error})",
                "write one platform, such as linux/arm64",
            ) from None


def automatic_arguments(builder: Platform, platform: Platform, stage: str) -> dict[str, str]:
    """The arguments that BuildKit sets itself, for use in ``FROM``, or in a stage that declares them.

    ``stage`` is the name of the one that is built, empty if it has none.

    https://docs.docker.com/reference/dockerfile/#automatic-platform-args-in-the-global-scope
    """
    arguments = {"TARGETSTAGE": stage or "default"}
    for side, each in (("BUILD", builder), ("TARGET", platform)):
        parts = {"PLATFORM": str(each), "OS": each.system, "ARCH": each.architecture, "VARIANT": each.variant}
        arguments |= {f"{side}{name}": value for name, value in parts.items()}
    return arguments
