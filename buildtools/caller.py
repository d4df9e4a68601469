"""How we are called: by which program, and by what names somebody's own collection has our tasks.

All our messages say `` `invoke TASK` ``. Here, and nowhere else, that becomes what the reader can type.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import PurePath
from typing import Any

from buildtools.events import Event, Finished, Warned

_COMMAND = re.compile(r"`invoke ([a-z][a-z.-]*)")
# What was written by others is quoted in such lines.
_QUOTATION = re.compile(r'[ >"]*\d* *\| ')


def as_called(message: str) -> str:
    """A message of ours, with commands as they are called here."""
    if "`invoke " not in message:
        return message
    lines = message.split("\n")
    return "\n".join(line if _QUOTATION.match(line) else _COMMAND.sub(_command_here, line) for line in lines)


def event_as_called(event: Event) -> Event:
    """The event, with what it has of our messages :func:`as_called`."""
    match event:
        case Warned():
            return replace(event, message=as_called(event.message))
        case Finished():
            return replace(event, detail=as_called(event.detail))
    return event


def _command_here(match: re.Match[str]) -> str:
    program = PurePath(sys.argv[0]).name
    return f"`{program if program in ('buildtools', 'inv') else 'invoke'} {_task_here(match[1])}"


@cache
def _task_here(name: str) -> str:
    """What a task of ours is called in the collection that the program ``invoke`` has loaded."""
    main, tasks = sys.modules.get("invoke.main"), sys.modules.get("buildtools.tasks")
    # It has none before it has loaded one.
    collection: Any = main and getattr(vars(main)["program"], "collection", None)
    namespace: Any = tasks and vars(tasks)["namespace"]
    if not collection or not namespace or name not in namespace.task_names:
        return name
    # Invoke copies them; equal are those of one name and one function.
    return next((full for full in collection.task_names if collection[full] == namespace[name]), name)
