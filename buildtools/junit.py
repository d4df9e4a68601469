"""A run as JUnit XML, which every CI system displays: one case for each image or archive, and one for the whole run."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from pathlib import Path

from buildtools import BuildToolsError
from buildtools.events import Event, Finished, Log, Outcome
from buildtools.files import write_atomically

_LOG_LINES = 200
# The characters that XML 1.0 cannot represent: https://www.w3.org/TR/xml/#charsets
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Cases:
    """The test cases of one run of ``task``, collected from its events, which may come from several threads."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._finished: dict[tuple[str, str], Finished] = {}
        self._logs: dict[str, deque[str]] = {}

    def __call__(self, event: Event) -> None:
        """Record an event."""
        with self._lock:
            if isinstance(event, Finished):
                self._finished[event.subject, event.action] = event
            elif isinstance(event, Log):
                self._logs.setdefault(event.subject, deque(maxlen=_LOG_LINES)).append(event.line)

    def write(self, path: Path, error: str = "") -> None:
        """Write the file; ``error`` is the failure of the run, if any.

        :raises BuildToolsError: if it cannot be written.
        """
        from xml.etree import ElementTree

        outcome = Outcome.FAILED if error else Outcome.DONE
        whole = Finished(self._task, "task", outcome, time.monotonic() - self._began, error)
        events = [*self._finished.values(), whole]
        failed = sum(event.outcome is Outcome.FAILED for event in events)
        skipped = sum(event.outcome in (Outcome.SKIPPED, Outcome.CANCELLED) for event in events)
        suite = ElementTree.Element(
            "testsuite",
            name=f"buildtools {self._task}",
            tests=str(len(events)),
            failures=str(failed),
            errors="0",
            skipped=str(skipped),
            time=f"{whole.seconds:.3f}",
        )
        for event in events:
            kind = f"buildtools.{event.action}"
            case = ElementTree.SubElement(
                suite, "testcase", classname=kind, name=_xml(event.subject), time=f"{event.seconds:.3f}"
            )
            if event.outcome is Outcome.FAILED:
                message = _xml(event.detail.rpartition("\n")[2])
                ElementTree.SubElement(case, "failure", message=message).text = _xml(event.detail)
                if lines := self._logs.get(event.subject):
                    ElementTree.SubElement(case, "system-out").text = _xml("\n".join(lines))
            elif event.outcome in (Outcome.SKIPPED, Outcome.CANCELLED):
                ElementTree.SubElement(case, "skipped", message=_xml(event.detail or event.outcome.value))
        try:
            write_atomically(path, ElementTree.tostring(suite, "utf-8", xml_declaration=True) + b"\n")
        except (OSError, ValueError) as failure:
            reason = failure.strerror if isinstance(failure, OSError) else "it names no file"
            raise BuildToolsError(f"cannot write {path} ({reason})", "name another file with --junit") from None


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
