"""The command ``buildtools``: the tasks without a ``tasks.py``, in a project configured by ``pyproject.toml``."""

from __future__ import annotations

import errno
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from buildtools import Refused
from buildtools.console import drop
from buildtools.invocation import exit_codes, open_streams
from buildtools.invoke_config import refuse_invalid_file, refusing_what_invoke_cannot_use
from buildtools.tasks import namespace

_DISTRIBUTION = "lockstep-buildtools"
_LIST_FORMATS = ("flat", "nested", "json")


def main() -> None:
    """Run the task named on the command line, and exit with its exit code."""
    open_streams()
    try:
        try:
            _Buildtools(namespace=namespace, name="buildtools", binary="buildtools").run()
        finally:
            # Invoke's own output, such as its help, is still in the buffer.
            sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        drop(sys.stdout)
        sys.exit(_refused(f"cannot write to standard output ({error.strerror})", "make room"))


class _Buildtools(Program):
    """Invoke's program.

    Given a fixed set of tasks, Invoke does not look for a project's configuration, so this does.
    """

    def create_config(self) -> None:
        with exit_codes(), refusing_what_invoke_cannot_use("~/.invoke.* or /etc/invoke.*"):
            super().create_config()

    def update_config(self, merge: bool = True) -> None:
        with exit_codes(), refusing_what_invoke_cannot_use("the file of -f or INVOKE_RUNTIME_CONFIG"):
            super().update_config(merge)

    def parse_collection(self) -> None:
        with exit_codes():
            folder = project_folder(_current_folder())
            refuse_invalid_file(folder)
        self.config.set_project_location(folder)
        self.config.load_project()
        super().parse_collection()

    def parse_core(self, argv: list[str] | None) -> None:
        with _misuse():
            super().parse_core(argv)

    def parse_tasks(self) -> None:
        with _misuse():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        with _misuse():
            if (shape := self.args["list-format"].value) not in _LIST_FORMATS:
                raise ParseError(f"--list-format {shape} is unknown (there are {', '.join(_LIST_FORMATS)})")
            super().parse_cleanup()

    def print_version(self) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"buildtools {version(_DISTRIBUTION)}\n")


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise Refused("the current folder does not exist any more", "change into one that does") from None


def project_folder(start: Path) -> Path:
    """The folder of the project around ``start``: the nearest one with a ``tasks.py`` or a ``[tool.buildtools]`` table.

    If there is none, it is ``start`` itself.
    """
    folders = (start, *start.parents)
    return next((folder for folder in folders if (folder / "tasks.py").is_file() or _is_configured(folder)), start)


def _is_configured(folder: Path) -> bool:
    try:
        document = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    except OSError:
        return False
    except ValueError:
        # Reading the configuration reports what is wrong with it.
        return True
    tool = document.get("tool", {})
    return not isinstance(tool, dict) or "buildtools" in tool


@contextmanager
def _misuse() -> Iterator[None]:
    """A context in which arguments that Invoke cannot parse end the program with one message and exit code 2."""
    try:
        yield
    except ParseError as error:
        fact = re.sub("^No idea what (.*) is!$", r"\1 is neither a task nor an option", str(error).rstrip("."))
        fact = re.sub(
            "^Flag <Argument: ([^ >]+).*", lambda match: f"--{match[1].replace('_', '-')} needs a value", fact
        )
        task = error.context.name if error.context else ""
        sys.exit(_refused(fact, f"see `buildtools {f'--help {task}' if task else '--list'}`"))
    except ValueError:
        sys.exit(_refused("--list-depth and --command-timeout need a whole number", "give one"))
    except Exit as error:
        if not error.message:
            raise
        sys.exit(_refused(error.message.rstrip(".!"), "see `buildtools --help`"))


def _refused(fact: str, remedy: str) -> int:
    sys.stderr.write(f"error: {fact}: {remedy}\n")
    return 2
