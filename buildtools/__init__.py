"""Releases container images and a Java daemon's archive in lockstep.

A map of the house, from the street to the cellar; imports run downward only:

* ``program``    the tasks as the program ``buildtools``
* ``api``        what other programs may use: the tasks as functions
* ``tasks``      Invoke tasks: arguments -> one pipeline call -> rendering
* ``invocation``  one call of a task: environment, settings, console, signals, exit codes
* ``rendering``  results as tables, documents and sentences, a module for each of ``tasks``
* ``invoke_config``  Invoke's levels of configuration as settings
* ``console``    how a run looks: live table, plain lines, JSON lines; ``workboard``: what is at work in it;
  ``caller``: how commands are called in what it says
* ``pipeline``   the table of contents: one function per task
* ``stages``     the chapters: images, archives, releases, and whether the tree is what the commit says
* ``task_context``  what a task works with: ``run``, what it was asked for; ``services``: engine, registry and store,
  each connected at its first use; and the checkout
* ``channel``    a name that points to a release, and its past; ``audit``: releases held against the world;
  ``gates``: what a version has passed (pure)
* ``release``    what a release is: manifest, comparison (pure); ``statement``: what is signed of it (pure)
* ``deployment``  a folder with versions, one of which is current; ``compose``: Docker Compose, as it is installed
* ``sandbox``    a registry, an S3 server and an engine on loopback
* ``git``        repository -> version: describe, worktree state, release tags
* ``image``      image folders, contexts, fingerprints, engine, BuildKit, registry
* ``archive``    distributions, deterministic tarballs, S3
* ``crypto``     keys, and signatures that they make and verify
* ``schedule``   work side by side, parents first; ``partition``: work divided among agents;
  ``command``: programs that are run; ``json_document``: what lies in the store
* ``version``, ``settings``, ``events``, ``cancellation``   the values that everyone shares; ``frozen`` makes them;
  ``build_cache``: where builds read and write caches; ``platform``: what they are for;
  ``files`` writes what nobody may see half of; ``request_log`` shows what was asked of whom;
  ``toml_lines`` finds the line of a key
"""

from collections.abc import Callable, Iterable, Sequence

__version__ = "0.1.0"


class BuildToolsError(Exception):
    """An expected failure: one message that states the fact and the next step, never a traceback.

    ``fact`` says what is wrong, ``remedy`` what the reader can do about it; each is a clause without a full stop.
    ``details`` are lines that come before both, because a log is read from its end. ``exit_code`` is what a task ends
    with; subclasses set it.
    """

    exit_code = 1

    def __init__(self, fact: str, remedy: str = "", details: Sequence[str] = ()) -> None:
        super().__init__("\n".join([*details, f"{fact}: {remedy}" if remedy else fact]))
        self.fact = fact
        self.remedy = remedy
        self.details = tuple(details)


class Cancelled(BuildToolsError):
    """Work that was ended because the run was told to stop."""


class Refused(BuildToolsError):
    """Refused or misused: a dirty tree, a shallow clone, no tag, bad configuration, an unknown name."""

    exit_code = 2


class Conflict(BuildToolsError):
    """This version already exists with other content."""

    exit_code = 3


class Unreachable(BuildToolsError):
    """A service did not answer, or refused the connection; worth a retry."""

    exit_code = 4


class Drifted(BuildToolsError):
    """An audit found that the world is not what the manifest says."""

    exit_code = 5


_GRAVEST_FIRST = (Conflict, Refused, Drifted, BuildToolsError, Unreachable)


class Failures:
    """Several failures of one task, combined into one error by one rule.

    What each says is kept, the same failure once. A retry can help only where every failure is an outage, so the exit
    code is 4 only then; else it is that of the gravest other one: 3 over 2 over 5 over 1. The class of the error
    follows from the exit code, so that ``except Conflict`` catches one failure and several alike.
    """

    def __init__(self, errors: Iterable[BuildToolsError]) -> None:
        self.errors = tuple({str(error): error for error in errors}.values())

    @property
    def exit_code(self) -> int:
        """The exit code of all together; 0 where nothing failed."""
        codes = {error.exit_code for error in self.errors}
        return next((kind.exit_code for kind in _GRAVEST_FIRST if kind.exit_code in codes), 0)

    def combined(self, fact: str, remedy: str) -> BuildToolsError:
        """One error for all, as :meth:`summarized` makes it; where there is one failure, that itself."""
        return self.errors[0] if len(self.errors) == 1 else self.summarized(fact, remedy)

    def summarized(self, fact: str, remedy: str) -> BuildToolsError:
        """One error with every message in its details, then ``fact`` and ``remedy``. There must be a failure."""
        details = []
        for error in self.errors:
            lines = str(error).splitlines()
            # What has a log of its own is set off from its neighbours.
            details += [*lines, ""] if len(lines) > 1 else lines
        return error_kind(self.exit_code)(fact, remedy, details)


def error_kind(exit_code: int) -> type[BuildToolsError]:
    """The kind of failure that a task ends with this code for."""
    return next(kind for kind in _GRAVEST_FIRST if kind.exit_code == exit_code)


def error_count(errors: Sequence[object]) -> tuple[str, str]:
    """How many errors there are, in words, and what to do about them, once they stand above the message."""
    return ("1 error", "fix the error above") if len(errors) == 1 else (f"{len(errors)} errors", "fix the errors above")


def failures_of(checks: Iterable[Callable[[], object]]) -> list[BuildToolsError]:
    """The expected failures of several checks, all of which are made."""
    errors = []
    for check in checks:
        try:
            check()
        except BuildToolsError as error:
            errors.append(error)
    return errors


def expected_failures(errors: Iterable[BaseException]) -> list[BuildToolsError]:
    """The same errors, where all of them are expected; else the first that is not is raised."""
    expected = []
    for error in errors:
        if not isinstance(error, BuildToolsError):
            raise error
        expected.append(error)
    return expected
