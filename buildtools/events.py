"""What happens during a run, as values: adapters report events, the console renders them.

``subject`` is always the name of an image or a distribution. A :data:`Report` may be called from several threads at
once and must not raise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from buildtools import BuildToolsError, Cancelled
from buildtools.frozen import frozen

_Value = TypeVar("_Value")


class Outcome(Enum):
    """How work on a subject ended."""

    DONE = "done"
    UP_TO_DATE = "up to date"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@frozen
class Started:
    """Work on a subject started. ``action`` is one word: build, tag, push, pack, upload."""

    subject: str
    action: str


@frozen
class Step:
    """A build started its next step. ``number`` and ``total`` are 0 if the engine gave none."""

    subject: str
    text: str
    number: int = 0
    total: int = 0
    cached: bool = False


@frozen
class Log:
    """One line of output, without its line ending."""

    subject: str
    line: str


@frozen
class Warned:
    """Something the user should know that does not stop the run. ``subject`` is empty if it concerns the whole run."""

    subject: str
    message: str


@frozen
class Transferred:
    """Bytes sent so far, of ``total`` (0 if unknown)."""

    subject: str
    done: int
    total: int = 0


@frozen
class Finished:
    """Work on a subject ended. ``seconds`` is wall time; ``detail`` is a digest, a reason, or empty."""

    subject: str
    action: str
    outcome: Outcome
    seconds: float
    detail: str = ""


Event = Started | Step | Log | Warned | Transferred | Finished
Report = Callable[[Event], None]


def unheard(event: Event) -> None:
    """A report that ignores all events."""
    del event


class PartialTransfers:
    """Adds up parts that are transferred in parallel, such as layers, and reports their sum."""

    def __init__(self, report: Report, subject: str) -> None:
        self._report = report
        self._subject = subject
        self._parts: dict[str, tuple[int, int]] = {}

    def __call__(self, part: str, done: int, total: int) -> None:
        """Record that ``done`` of a part's ``total`` bytes have arrived."""
        self._parts[part] = done, total
        sums = [sum(column) for column in zip(*self._parts.values(), strict=True)]
        self._report(Transferred(self._subject, *sums))


def timed(
    report: Report,
    subject: str,
    action: str,
    work: Callable[[], _Value],
    detail_of: Callable[[_Value], str] = lambda _: "",
) -> _Value:
    """What ``work`` returns, after reporting its start and its end.

    The detail of the end is ``detail_of`` the value, or a failure's first line.
    """
    began = time.monotonic()
    report(Started(subject, action))
    outcome, detail = Outcome.FAILED, ""
    try:
        value = work()
        outcome, detail = Outcome.DONE, detail_of(value)
        return value
    except Cancelled:
        outcome = Outcome.CANCELLED
        raise
    except BuildToolsError as error:
        detail = error.fact.partition("\n")[0]
        raise
    finally:
        report(Finished(subject, action, outcome, time.monotonic() - began, detail))
