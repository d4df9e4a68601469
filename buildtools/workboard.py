"""The work in progress of a run, derived from its events: what each subject does, since when, and how far it is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from buildtools.events import Event, Finished, Log, Started, Step, Transferred

# How many lines of a failed image's log are shown below it; plain mode shows all of them.
_TAIL = 40
# How long a transfer must have run before its rate means something.
_RATE_AFTER = 1.0
# A longer estimate is worthless: the transfer has hardly begun.
_LONGEST_GUESS = 10 * 3600.0


@dataclass
class Work:
    """One action on a subject. Times are seconds of the board's clock; ``total`` is 0 if unknown."""

    action: str
    since: float
    step: str = ""
    transferred: int = 0
    total: int = 0
    transfer_since: float = 0.0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))


class Workboard:
    """The work of all subjects. A subject may nest actions, as a push builds first; the innermost one is shown.

    The caller of :meth:`take` holds a lock. Reading needs none: a subject's tuple of work is replaced, never changed in
    place, so a thread that redraws meanwhile sees the state before or after.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.works: dict[str, tuple[Work, ...]] = {}
        self.finished: set[str] = set()

    def take(self, event: Event) -> Work | None:
        """Process an event; returns the work that it ends, if any."""
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

    def lines(self, most: int | None = None) -> list[tuple[str, str, float]]:
        """For each subject in progress, or ``most`` of them: its name, what it does, and the seconds since that began.

        Those with nested actions come first: the others may only wait for them. The time is that of the outermost one.
        """
        now = self.clock()
        subjects = sorted(self.works.items(), key=lambda subject: -len(subject[1]))[:most]
        return [(subject, self._doing(works, now), now - works[0].since) for subject, works in subjects]

    def last_log(self, count: int) -> list[str]:
        """The last log lines of the work that began last."""
        inner = [works[-1] for works in list(self.works.values()) if works[-1].tail]
        return list(max(inner, key=lambda work: work.since).tail)[-count:] if inner else []

    def counts(self) -> tuple[int, int]:
        """How many subjects have finished all their work, and how many have begun some."""
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
    """Wall time for people: ``0.4s``, ``12s``, ``3m05s``."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def size(count: float) -> str:
    """A count of bytes in decimal units: ``512 B``, ``1.5 MB``."""
    if round(count) < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if round(count, 1) < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} GB"
