"""``python -m buildtools.git.describe``: git's arguments, stdout and exit status; our own messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from buildtools import BuildToolsError
from buildtools.git.errors import BadRevision
from buildtools.git.naming.describer import AUTOMATIC, BROKEN, DIRTY, LEAST_ABBREVIATION, Describer, Options
from buildtools.git.naming.walk import MOST_CANDIDATES
from buildtools.git.repository import Repository

FAILED, MISUSED = 128, 129  # git's own

USAGE = """\
usage: python -m buildtools.git.describe [--all] [--tags] [--abbrev[=N]] [--candidates=N] [--exact-match] [--long]
           [--match P] [--no-match] [--exclude P] [--no-exclude] [--always] [--first-parent]
           [--dirty[=MARK]] [--broken[=MARK]] [--debug] [COMMIT-ISH...]

stdout and exit status are those of `git describe` with the same arguments in the same folder and environment.

of its own it has
    --walk=2.47 | --walk=2.48   follow the walk of git up to 2.47, or from 2.48 on (the default)
    --worker                    answer JSON lines {"cwd": ..., "args": [...], "env": {...}} on stdin with
                                {"rc": ..., "stdout": ..., "stderr": ...}; "env" is added to this process's own
"""

_SWITCHES = {"all", "tags", "long", "always", "first-parent"}
_LISTS = {"match", "exclude"}
_OPTIONS = (*sorted(_SWITCHES), *sorted(_LISTS), "abbrev", "broken", "candidates", "contains", "debug", "dirty")
_OPTIONS += ("exact-match", "walk")


class _MisusedError(Exception):
    pass


def parse_arguments(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Options and commit-ishes, parsed like git's own option parser does.

    :raises _MisusedError: if git would print its usage.
    """
    options = Options()
    lists: dict[str, list[bytes]] = {"match": [], "exclude": []}
    names: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--" or argument == "--end-of-options":
            names.extend(rest)
        elif not argument.startswith("-") or argument == "-":
            names.append(argument)
        elif not argument.startswith("--"):
            raise _MisusedError(f"unknown switch {argument}")
        else:
            word, equals, value = argument[2:].partition("=")
            _apply(options, lists, word, value if equals else None, rest)
    options.match, options.exclude = tuple(lists["match"]), tuple(lists["exclude"])
    options.candidates = min(max(options.candidates, 0), MOST_CANDIDATES)
    return options, names


def _apply(options: Options, lists: dict[str, list[bytes]], word: str, value: str | None, rest: Iterator[str]) -> None:
    name, on = _option(word)
    if value is not None and (not on or name in _SWITCHES or name in ("contains", "debug", "exact-match")):
        raise _MisusedError(f"--{word} takes no value")
    if name in _SWITCHES:
        setattr(options, name.replace("-", "_"), on)
    elif name in _LISTS:
        if on:
            lists[name].append(os.fsencode(_value_of(word, value, rest)))
        else:
            lists[name].clear()
    elif name == "abbrev":
        options.abbrev = (AUTOMATIC if on else 0) if value is None else _digits(word, value)
    elif name == "candidates":
        options.candidates = _number(word, _value_of(word, value, rest)) if on else 0
    elif name == "exact-match":
        options.candidates = 0 if on else 10
    elif name == "dirty":
        options.dirty = (DIRTY if value is None else value) if on else None
    elif name == "broken":
        options.broken = (BROKEN if value is None else value) if on else None
    elif name == "debug":
        options.debug = on
    elif name == "contains" and on:
        raise _MisusedError("--contains is not supported here; use git for it")
    elif name == "walk":
        walk = _value_of(word, value, rest)
        if walk not in ("2.47", "2.48"):
            raise _MisusedError("--walk is 2.47 or 2.48")
        options.old_git = walk == "2.47"


def _option(word: str) -> tuple[str, bool]:
    """The option, which may be abbreviated if unambiguous, and False if it begins with ``no-``."""
    if word in _OPTIONS:
        return word, True
    candidates = [(name, True) for name in _OPTIONS if name.startswith(word)]
    if word.startswith("no-"):
        if word[3:] in _OPTIONS:
            return word[3:], False
        candidates += [(name, False) for name in _OPTIONS if name.startswith(word[3:])]
    elif "no-".startswith(word):
        candidates += [(name, False) for name in _OPTIONS]
    if len(candidates) != 1:
        raise _MisusedError(f"{'ambiguous' if candidates else 'unknown'} option --{word}")
    return candidates[0]


def _value_of(word: str, value: str | None, rest: Iterator[str]) -> str:
    if value is None:
        value = next(rest, None)
    if value is None:
        raise _MisusedError(f"--{word} needs a value")
    return value


def _number(word: str, value: str) -> int:
    try:
        return int(value) if value.isascii() and "_" not in value and value == value.rstrip() else int("-")
    except ValueError:
        raise _MisusedError(f"--{word} needs a number, not {value!r}") from None


def _digits(word: str, value: str) -> int:
    number = _number(word, value)
    return max(number, LEAST_ABBREVIATION) if number else 0


def answers(
    cwd: str, arguments: Sequence[str], environment: Mapping[str, str], report: Callable[[str], object]
) -> Iterator[str]:
    """One line per commit-ish, without line feed, as soon as it is known; ``report`` gets the lines of ``--debug``.

    :raises BuildToolsError: if the next one cannot be described.
    :raises _MisusedError: if the arguments are wrong.
    """
    options, names = parse_arguments(arguments)
    describer = Describer(Repository.open(cwd, environment), options, report)
    if not names:
        yield describer.head()[0].text
        return
    for word, mark in (("--dirty", options.dirty), ("--broken", options.broken)):
        if mark is not None:
            raise BadRevision(f"{word} and commit-ishes cannot be used together", "leave one of them out")
    for name in names:
        yield describer.describe(name).text


def describe_command(cwd: str, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out: list[str] = []
    debug: list[str] = []
    try:
        if "-h" in arguments or "--help" in arguments:
            return (MISUSED, USAGE, "") if "-h" in arguments else (0, USAGE, "")
        out.extend(f"{line}\n" for line in answers(cwd, arguments, environment, debug.append))
    except _MisusedError as error:
        return MISUSED, "", f"error: {error}\n{USAGE}"
    except BuildToolsError as error:
        return FAILED, "".join(out), "".join(f"{line}\n" for line in [*debug, f"fatal: {error}"])
    return 0, "".join(out), "".join(f"{line}\n" for line in debug)


def main() -> None:
    """Run as a program, or answer questions with ``--worker``."""
    arguments = sys.argv[1:]
    if arguments == ["--worker"]:
        serve()
        return
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        sys.stderr.write("fatal: the current folder is gone\n")
        sys.exit(FAILED)
    # As git does. Python has no stream where one was closed.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115  no pathlib here
    status, out, err = describe_command(cwd, arguments, os.environ)
    try:
        sys.stdout.buffer.write(os.fsencode(out))
        sys.stdout.flush()
    except OSError as error:
        status, err = FAILED, f"fatal: the answer cannot be written ({error.strerror})\n"
    sys.stderr.write(err)
    # Skip the interpreter's orderly shutdown, which takes as long as describing a small repository.
    sys.stderr.flush()
    os._exit(status)


def serve() -> None:
    """Answer JSON lines, one for each line, until stdin ends."""
    import json

    for line in sys.stdin:
        try:
            question = json.loads(line)
            environment = {**os.environ, **question.get("env", {})}
            environment = {name: value for name, value in environment.items() if value is not None}
            status, out, err = describe_command(question["cwd"], question["args"], environment)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            status, out, err = MISUSED, "", f"error: not a question: {error}\n"
        sys.stdout.write(json.dumps({"rc": status, "stdout": out, "stderr": err}) + "\n")
        sys.stdout.flush()
