"""Release container images and a Java daemon's archive in lockstep.

This is the map of the code, from the outside in. Imports run downward only; ``tests/test_house.py`` has the exact
order.

Entry points:

* ``program``        the command ``buildtools``
* ``tasks``          the Invoke tasks: read arguments, make one pipeline call, render the result
* ``api``            the tasks as functions, for other programs; the only public interface
* ``invocation``     one call of a task: environment, settings, console, signals, exit code
* ``invoke_config``  Invoke's configuration files and variables as settings

Output:

* ``rendering``      results as tables, JSON documents and sentences; one module for each module of ``tasks``
* ``console``        progress: a live table, plain lines or JSON lines; ``workboard`` tracks the work in progress
* ``junit``          a run as JUnit XML
* ``caller``         how the user spells our commands, for use in messages

What a task does:

* ``pipeline``       the table of contents: one short function for each task
* ``stages``         the chapters: building, pushing, packing, publishing, and what follows a release
* ``task_context``   what a task works with: its ``run`` (the request), its ``services`` (engine, registry, store,
  each connected on first use) and the checkout

The release model, without I/O:

* ``release``        a release: its manifest, and how two releases differ
* ``statement``      the signed statement about a release
* ``channel``        a name that points to a release, and the history of its moves
* ``gates``          the gates that a version has passed
* ``audit``          a release compared with what the registry and the store hold

Adapters; ``git``, ``image``, ``archive`` and ``crypto`` never import one another:

* ``git``            from a repository to a version: describe, worktree state, release tags
* ``image``          image folders, build contexts, fingerprints, engines, BuildKit, registries
* ``archive``        distributions, deterministic tarballs, S3
* ``crypto``         keys and signatures
* ``deployment``     a folder of fetched versions, one of them current
* ``compose``        Docker Compose, whichever implementation is installed
* ``sandbox``        a registry, an S3 server and an engine on loopback, for trials and tests

Foundations:

* ``schedule``       runs a graph of work in parallel, parents first; ``partition`` divides one among agents
* ``command``        runs commands from the configuration
* ``json_document``  the JSON documents in the store
* ``settings``       the configuration as typed values; ``settings_reader`` reads it, ``toml_lines`` finds line numbers
* ``version``, ``platform``, ``build_cache``, ``events``, ``cancellation``  values that everything shares
* ``frozen``         frozen dataclasses that are cheap to define
* ``files``          atomic file writes
* ``memory``         large blocks that come and go
* ``user_folders``   the user's home and cache folders
* ``request_log``    one log line for each request to a service
"""

from collections.abc import Callable, Iterable, Sequence

__version__ = "0.1.0"


class BuildToolsError(Exception):
    """An expected failure: one message with the fact and the next step, never a traceback.

    ``fact`` says what is wrong and ``remedy`` what the reader can do about it; each is a clause without a full stop.
    ``details`` are lines printed above both, because people read a log from its end. ``exit_code`` is the exit code of
    the task; subclasses set it.
    """

    exit_code = 1

    def __init__(self, fact: str, remedy: str = "", details: Sequence[str] = ()) -> None:
        super().__init__("\n".join([*details, f"{fact}: {remedy}" if remedy else fact]))
        self.fact = fact
        self.remedy = remedy
        self.details = tuple(details)


class Cancelled(BuildToolsError):
    """The work was stopped because the run was cancelled."""


class Refused(BuildToolsError):
    """The request is refused or misused: dirty tree, shallow clone, no tag, bad configuration, unknown name."""

    exit_code = 2


class Conflict(BuildToolsError):
    """This version already exists with other content."""

    exit_code = 3


class Unreachable(BuildToolsError):
    """A service did not answer or refused the connection; a retry may help."""

    exit_code = 4


class Drifted(BuildToolsError):
    """An audit found something other than what the manifest says."""

    exit_code = 5


_GRAVEST_FIRST = (Conflict, Refused, Drifted, BuildToolsError, Unreachable)


class Failures:
    """Several failures of one task, combined into one error.

    Every message is kept, duplicates once. A retry can only help if every failure is an outage, so the exit code is 4
    only then. Otherwise the gravest failure decides: 3, then 2, then 5, then 1. The class of the combined error follows
    from the exit code, so ``except Conflict`` catches one conflict and several alike.
    """

    def __init__(self, errors: Iterable[BuildToolsError]) -> None:
        self.errors = tuple({str(error): error for error in errors}.values())

    @property
    def exit_code(self) -> int:
        """The exit code of all failures together; 0 if there are none."""
        codes = {error.exit_code for error in self.errors}
        return next((kind.exit_code for kind in _GRAVEST_FIRST if kind.exit_code in codes), 0)

    def combined(self, fact: str, remedy: str) -> BuildToolsError:
        """The only failure as it is, or several as one error made by :meth:`summarized`.

        ``fact`` then names one of the gravest, because the last line of a log may be all that somebody reads.
        """
        gravest = next(error for error in self.errors if error.exit_code == self.exit_code)
        return gravest if len(self.errors) == 1 else self.summarized(f"{fact}, one reason: {gravest.fact}", remedy)

    def summarized(self, fact: str, remedy: str) -> BuildToolsError:
        """One error with every message in its details, then ``fact`` and ``remedy``.

        There must be at least one failure.
        """
        details = []
        for error in self.errors:
            lines = str(error).splitlines()
            # A message of several lines is followed by a blank one.
            details += [*lines, ""] if len(lines) > 1 else lines
        return error_kind(self.exit_code)(fact, remedy, details)


def error_kind(exit_code: int) -> type[BuildToolsError]:
    """The error class with this exit code."""
    return next(kind for kind in _GRAVEST_FIRST if kind.exit_code == exit_code)


def error_count(errors: Sequence[object]) -> tuple[str, str]:
    """The number of errors in words, and the remedy, for a message that the errors stand above."""
    return ("1 error", "fix the error above") if len(errors) == 1 else (f"{len(errors)} errors", "fix the errors above")


def printable(name: str) -> str:
    """A name as it is, or quoted and escaped if it would break the line of a message or is not UTF-8."""
    return name if name.isprintable() else ascii(name)


def failures_of(checks: Iterable[Callable[[], object]]) -> list[BuildToolsError]:
    """Run every check and collect the expected failures."""
    errors = []
    for check in checks:
        try:
            check()
        except BuildToolsError as error:
            errors.append(error)
    return errors


def check_at(place: str, check: Callable[[], object]) -> None:
    """Run a check of what stands at a place, such as a key or a line; a :class:`Refused` then begins with the place."""
    try:
        check()
    except Refused as error:
        raise Refused(f"{place}: {error.fact}", error.remedy) from None


def expected_failures(errors: Iterable[BaseException]) -> list[BuildToolsError]:
    """The errors as a list, if all are expected; otherwise the first unexpected one is raised."""
    expected = []
    for error in errors:
        if not isinstance(error, BuildToolsError):
            raise error
        expected.append(error)
    return expected
