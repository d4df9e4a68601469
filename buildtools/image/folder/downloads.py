"""What ``ADD`` downloads, and whether the Dockerfile fixes its content.

The rules are those of BuildKit's ``frontend/dockerfile/dfgitutil``: https://docs.docker.com/build/concepts/context/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping

from buildtools.frozen import frozen
from buildtools.image.folder.instructions import Argument, Instruction
from buildtools.image.folder.shell import BadSubstitution, expand

_GIT = re.compile(r"(?i:git|ssh)://|(?i:https?)://[^?#]*\.git(?:[?#]|$)|[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:")
_REMOTE = re.compile(rf"https?://|{_GIT.pattern}")
# A fragment, or the query that newer frontends accept instead.
_COMMIT = re.compile(r"(?:#|[?&](?:ref|commit|checksum)=)[0-9a-f]{40}(?![0-9a-f])")
_FIRST_VARIABLE = re.compile(r"""["']*\$\{?([A-Za-z_][A-Za-z0-9_]*)""")


@frozen
class Addition:
    """An argument of ``ADD`` that is a URL, or may be one because of a variable; it and ``--checksum`` as written."""

    word: str
    checksum: str

    def may_change(self, variables: Mapping[str, str], escape: str) -> bool:
        """Whether it is a URL whose content nothing fixes, or begins with a variable that only a base image may set."""
        first = _FIRST_VARIABLE.match(self.word)
        if first and first[1] not in variables:
            return True
        try:
            url, checksum = (expand(text, variables, escape) for text in (self.word, self.checksum))
        except BadSubstitution:
            return True
        return is_remote(url) and not (checksum or (_GIT.match(url) and _COMMIT.search(url)))


def is_remote(word: str) -> bool:
    """Whether ``ADD`` downloads this; a word without variables and quotes."""
    return _REMOTE.match(word) is not None


def downloads(instruction: Instruction) -> Iterator[Addition]:
    """What an ``ADD`` downloads, or may."""
    checksum = next((flag.value for flag in instruction.flags if flag.name == "--checksum"), "")
    for word in instruction.sources():
        if "$" in word or is_remote(instruction.plain(word)):
            yield Addition(word, checksum)


def changing_words(
    steps: Iterable[Argument | Mapping[str, str] | Addition],
    variables: MutableMapping[str, str],
    given: Mapping[str, str],
    inherited: Mapping[str, str],
    escape: str,
) -> Iterator[str]:
    """The words of ``ADD`` whose content may change from one build to the next.

    ``steps`` are a stage's ``ARG``, ``ENV`` (its variables) and ``ADD`` in order. ``variables`` are those of the stage
    below, to which its own are added. ``given`` are build arguments, ``inherited`` those declared before all stages.
    """

    def value_of(word: str) -> str:
        try:
            return expand(word, variables, escape)
        except BadSubstitution:
            return ""

    for step in steps:
        if isinstance(step, Addition):
            if step.may_change(variables, escape):
                yield step.word
        elif isinstance(step, Argument):
            default = inherited.get(step.name) if step.default is None else value_of(step.default)
            value = given.get(step.name, default)
            if value is not None:
                variables[step.name] = value
        else:
            variables.update({name: value_of(word) for name, word in step.items()})
