"""One call of a task: its settings, console and signals; its result on standard output; its failure as an exit code.

This is the only module that reads the environment.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.exceptions import Exit

from buildtools import BuildToolsError, Refused, printable
from buildtools.cancellation import Interrupted, cancel_on_signals

if TYPE_CHECKING:
    from buildtools.console import Console
    from buildtools.events import Event
    from buildtools.junit import Cases
    from buildtools.run import Run
    from buildtools.stages.planned import Planned

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@contextmanager
def process_for_a_run() -> Iterator[None]:
    """A context with faster interpreter settings. They are restored, because the process may do other work."""
    bytecode, thresholds = sys.dont_write_bytecode, gc.get_threshold()
    # Invoke turns off writing bytecode before it loads a tasks file. Every run of an editable install would then
    # compile this whole package again.
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    # Garbage collection among modules, which stay anyway, took a seventh of a run with nothing to do: while they were
    # loaded and when Python ended. Collecting after every 20,000 objects bounds memory in a long run as well as after
    # every 700.
    gc.freeze()
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        gc.set_threshold(*thresholds)


def process_environment() -> dict[str, str]:
    """The environment.

    Git's path variables are made absolute, because git reads them relative to the current folder.
    """
    paths = {name: os.environ[name] for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR") if os.environ.get(name)}
    # Joined but not normalized: like git, keep paths through symbolic links as they are written.
    return {**os.environ, **{name: os.path.join(os.getcwd(), path) for name, path in paths.items()}}  # noqa: PTH109, PTH118


def open_streams() -> None:
    """Send a closed standard stream to the null device; Python's None for it would be unusable."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  for as long as the process lives


@contextmanager
def exit_codes(console: Console | None = None, *, json: bool = False) -> Iterator[None]:
    """A context that turns an expected failure into a final message and an exit code; with ``json``, a document too."""
    message, code, document = "", 0, {}
    open_streams()
    try:
        with _disk_failures():
            yield
    except BuildToolsError as error:
        from buildtools.caller import as_called
        from buildtools.console import without_controls

        *details, last = as_called(str(error)).split("\n")
        message, code = without_controls("\n".join([*details, f"error: {last}"])), error.exit_code
        document = {"fact": error.fact, "remedy": error.remedy, "details": list(error.details), "exit_code": code}
    except KeyboardInterrupt as interruption:
        number = interruption.number if isinstance(interruption, Interrupted) else signal.SIGINT
        name = signal.Signals(number).name
        message = f"interrupted ({name}): nothing is half released; run the same command to resume"
        code = 128 + number
        document = {"fact": message, "remedy": "", "details": [], "exit_code": code}
    # The error goes into the document, unless the result that it is about was already written.
    if document and json and not (console and console.has_result):
        with suppress(BuildToolsError):
            show(console, True, {"schema": 1, "error": document}, "")
    if message and console is not None:
        console.summary(message, failed=True)
        raise Exit(code=code)
    if message:
        raise Exit(message, code)


@contextmanager
def _disk_failures() -> Iterator[None]:
    """A context in which a disk that is full or damaged, or rights that are missing, are an expected failure."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        fact = f"cannot use {printable(os.fsdecode(error.filename))}" if error.filename else "cannot write a file"
        raise BuildToolsError(f"{fact} ({error.strerror})", "correct that, and run the same command again") from None


@contextmanager
def running(
    context: Context,
    *,
    only: str = "",
    jobs: str = "",
    dry_run: bool = False,
    progress: str = "auto",
    json: bool = False,
    lenient: bool = False,
    no_cache: bool = False,
    pull: bool = False,
    allow_dirty: bool = False,
) -> Iterator[tuple[Run, Console]]:
    """A context with a run, its settings, its console and its signal handlers; failures inside become exit codes.

    With ``lenient``, errors in the configuration do not end the run; they are in the settings.
    """
    from buildtools.caller import event_as_called
    from buildtools.cancellation import Cancellation
    from buildtools.console import MODES, open_console
    from buildtools.invoke_config import read_settings
    from buildtools.request_log import open_log
    from buildtools.run import Run, job_count
    from buildtools.user_folders import cache_folder

    environment = process_environment()
    with exit_codes(json=json):
        if progress not in MODES:
            raise Refused(f"--progress {progress} is unknown", f"use one of {', '.join(MODES)}")
        settings = read_settings(context, environment, lenient=lenient)
        # Log lines on the same terminal would break the live table.
        if open_log(environment.get("BUILDTOOLS_LOG", "")) and progress == "auto":
            progress = "plain"
        cancelled = Cancellation()
        console = open_console(progress, sys.stderr, environment)
        with exit_codes(console, json=json), console, cancel_on_signals(cancelled):
            run = Run(
                settings=settings,
                environment=environment,
                report=lambda event: console(event_as_called(event)),
                cancelled=cancelled,
                cache=cache_folder(environment),
                only=tuple(name.strip() for name in only.split(",") if name.strip()),
                jobs=job_count(jobs, settings.jobs),
                dry_run=dry_run or bool(context.config.run.dry),
                no_cache=no_cache,
                pull=pull,
                allow_dirty=allow_dirty,
            )
            yield run, console


@contextmanager
def junit_report(path: str, task: str, run: Run) -> Iterator[tuple[Run, Cases]]:
    """The run, also reporting to a JUnit file, which is written when the block ends, even if it raises.

    :raises BuildToolsError: what the block raises; otherwise, if the file cannot be written.
    """
    from buildtools.caller import as_called, event_as_called
    from buildtools.junit import Cases

    cases, console = Cases(task), run.report

    def report(event: Event) -> None:
        cases(event_as_called(event))
        console(event)

    if not path or run.dry_run:
        yield run, cases
        return
    try:
        yield replace(run, report=report), cases
    except BuildToolsError as error:
        with suppress(BuildToolsError):
            cases.write(Path(path), as_called(str(error)))
        raise
    except KeyboardInterrupt:
        with suppress(BuildToolsError):
            cases.write(Path(path), "interrupted")
        raise
    cases.write(Path(path))


def show_plan(plan: Sequence[Planned], console: Console, *, json: bool) -> None:
    """Print a dry run's plan on standard output."""
    from buildtools.rendering import json_rendering, words

    show(console, json, json_rendering.document(plan), words.plan_table(plan))
    console.summary("dry run: nothing was touched")


def show(console: Console | None, json: bool, document: Any, text: str, *, verbatim: bool = False) -> None:
    """Print a result on standard output: a document if ``json``, otherwise text.

    ``verbatim`` text contains no messages of ours; in all other text, commands are spelled as the user calls them.
    """
    if console is not None:
        console.rest()
        console.has_result = True
    if json:
        import json as encoder

        text = encoder.dumps(document, indent=2)
    elif not text.isprintable():
        from buildtools.console import without_controls

        text = without_controls(text)
    if not verbatim:
        from buildtools.caller import as_called

        text = as_called(text)
    if text:
        from buildtools.console import drop

        # A terminal with another encoding shows what it can; that must not fail the task.
        encoding = sys.stdout.encoding or "utf-8"
        try:
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has what it wanted; the exit code still tells what became of the run.
            drop(sys.stdout)
        except OSError as error:
            drop(sys.stdout)
            fact = f"cannot write the result to standard output ({error.strerror})"
            raise BuildToolsError(fact, "free some space, then run the same command again") from None
