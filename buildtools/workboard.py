"""What is at work in a run, put together from its events: whose turn it is, since when, and how far it has come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from buildtools.events import Event, Finished, Log, Started, Step, Transferred

# How much of a failed image's log is shown below it; all of it is in plain mode.
_TAIL = 40
# A rate is told once bytes have gone for so many seconds: of less it would say nothing.
_RATE_AFTER = 1.0
# Longer than that nobody's guess is worth anything: the transfer has hardly begun.
_LONGEST_GUESS = 10 * 3600.0


@dataclass
class Work:
    """One action on a subject, with times of the board's clock in seconds; ``total`` is 0 where it is not known."""

    action: str
    since: float
    step: str = ""
    transferred: int = 0
    total: int = 0
    transfer_since: float = 0.0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))


class Workboard:
    """The works of all subjects. A subject may do one within another, as a push builds first; the inner one is shown.

    Whoever hands events on holds a lock. To read needs none: the works of a subject are replaced, never changed in
    place, so that a thread which redraws meanwhile sees those of before or those of after.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.works: dict[str, tuple[Work, ...]] = {}
        self.finished: set[str] = set()

    def take(self, event: Event) -> Work | None:
        """Take an event in; the work that it ends, if it ends one."""
        now = self.clock()
        match event:
            case Started(subject, action):
                self.works[subject] = (*self.works.get(subject, ()), Work(action, now))
            case Step(subject, text, number, total):
                work = self._innermost(subject)
                work.step, work.transferred, work.total = f"{f'{number}/{total} ' if total else ''}{text}", 0, 0
            case Log(subject, line):
                self._innermost(subject).tail.append(line)
            case Transferred(subject, done, total):
                work = self._innermost(subject)
                if not work.transferred or done < work.transferred:
                    work.transfer_since = now
                work.transferred, work.total = done, total
            case Finished(subject, action):
                return self._end(subject, action)
        return None

    def lines(self) -> list[tuple[str, str, float]]:
        """For each subject at work: its name, what it does, and the seconds since its outermost work began."""
        now = self.clock()
        return [(subject, self._doing(works, now), now - works[0].since) for subject, works in list(self.works.items())]

    def last_log(self, count: int) -> list[str]:
        """The last lines that the work which began last has written."""
        inner = [works[-1] for works in list(self.works.values()) if works[-1].tail]
        return list(max(inner, key=lambda work: work.since).tail)[-count:] if inner else []

    def counts(self) -> tuple[int, int]:
        """How many subjects have finished all their works, and how many have begun one."""
        return len(self.finished), len(self.finished | set(self.works))

    def _innermost(self, subject: str) -> Work:
        works = self.works.setdefault(subject, (Work("", self.clock()),))
        return works[-1]

    def _end(self, subject: str, action: str) -> Work | None:
        works = self.works.get(subject, ())
        position = next((at for at in reversed(range(len(works))) if works[at].action in (action, "")), len(works))
        if outer := works[:position]:
            self.works[subject] = outer
        else:
            self.works.pop(subject, None)
            self.finished.add(subject)
        return works[position] if position < len(works) else None

    def _doing(self, works: Sequence[Work], now: float) -> str:
        work = works[-1]
        parts = [work.action, work.step, _transfer(work, now)]
        return "  ".join(part for part in parts if part)


def _transfer(work: Work, now: float) -> str:
    if not work.transferred:
        return ""
    text = f"{size(work.transferred)} of {size(work.total)}" if work.total else size(work.transferred)
    seconds = now - work.transfer_since
    if seconds < _RATE_AFTER:
        return text
    rate = work.transferred / seconds
    seconds_left = (work.total - work.transferred) / rate
    left = f", {duration(seconds_left)} left" if 0 < seconds_left < _LONGEST_GUESS else ""
    return f"{text}, {size(rate)}/s{left}"


def duration(seconds: float) -> str:
    """Wall time as people say it: ``0.4s``, ``12s``, ``3m05s``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


def size(count: float) -> str:
    """A count of bytes in decimal units: ``512 B``, ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
