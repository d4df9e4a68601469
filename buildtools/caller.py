"""How the user calls us: the program's name, and the names of our tasks in the user's own collection.

All our messages say `` `invoke TASK` ``. Only here does that become what the user can type.
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
# Text that others wrote is quoted in lines like these, and stays as it is.
_QUOTATION = re.compile(r'[ >"]*\d* *\| ')


def as_called(message: str) -> str:
    """The message, with commands as the user calls them."""
    if "`invoke " not in message:
        return message
    lines = message.split("\n")
    return "\n".join(line if _QUOTATION.match(line) else _COMMAND.sub(_command_here, line) for line in lines)


def event_as_called(event: Event) -> Event:
    """The event, with our own messages in it rewritten by :func:`as_called`."""
    match event:
        case Warned():
            return replace(event, message=as_called(event.message))
        case Finished():
            return replace(event, detail=as_called(event.detail))
    return event


def _command_here(match: re.Match[str]) -> str:
    called = PurePath(sys.argv[0])
    # As a module: `python -m buildtools`.
    program = called.parent.name if called.name == "__main__.py" else called.name
    return f"`{program if program in ('buildtools', 'inv') else 'invoke'} {_task_here(match[1])}"


@cache
def _task_here(name: str) -> str:
    """The name of our task in the collection that ``invoke`` has loaded."""
    main, tasks = sys.modules.get("invoke.main"), sys.modules.get("buildtools.tasks")
    # It is None until ``invoke`` has loaded one.
    collection: Any = main and getattr(vars(main)["program"], "collection", None)
    namespace: Any = tasks and vars(tasks)["namespace"]
    if not collection or not namespace or name not in namespace.task_names:
        return name
    # Invoke copies tasks; copies with the same name and function are equal.
    return next((full for full in collection.task_names if collection[full] == namespace[name]), name)
