"""How tasks are declared: their options and help are derived from the function's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Any

from invoke.context import Context
from invoke.tasks import task

from buildtools.invocation import process_for_a_run

_ImageTask = Callable[[Context, dict[str, Any]], None]

_HELP = {
    "only": "Image folders to work on, separated by commas; their parents are included.",
    "jobs": "How many images to work on at once (default: three for each processor, up to 16).",
    "dry_run": "Say what would happen, touch nothing.",
    "json": "Print the result as JSON on standard output.",
    "progress": "How to show progress: auto, live, plain or json.",
    "no_cache": "Build without any cache, even what is up to date.",
    "pull": "Ask the registries for newer base images.",
    "allow_dirty": "Go on with uncommitted changes; writes neither a manifest nor a moving tag.",
    "deep": "Read every archive back in full instead of trusting the store's checksum.",
    "junit": "Write a JUnit XML file with a case for each image or archive, even if the run fails.",
    "why": "Explain the state of this one image: every input, and what changed.",
}


def command(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """Declare a task, without the one-letter flags that Invoke guesses, which change meaning as flags are added."""

    def decorate(function: Callable[..., None]) -> Any:
        names = list(inspect.signature(function).parameters)[1:]
        helps = {name: _HELP[name] for name in names if name in _HELP}
        helps |= arguments.pop("help", {})
        return task(auto_shortflags=False, help=helps, **arguments)(process_for_a_run()(function))

    return decorate


# The options of every task about images; Invoke derives options from a signature.
_IMAGE_OPTIONS: dict[str, Any] = {
    "only": "",
    "jobs": "",
    "dry_run": False,
    "no_cache": False,
    "pull": False,
    "json": False,
    "progress": "auto",
    "junit": "",
}


def image_command(help: Mapping[str, str] = MappingProxyType({}), **more: Any) -> Callable[[_ImageTask], Any]:  # noqa: A002  Invoke's name for it
    """Declare a task with the options of all image tasks and ``more``; its function gets them as one dictionary."""
    defaults = {**_IMAGE_OPTIONS, **more}

    def decorate(function: _ImageTask) -> Any:
        @wraps(function)
        def body(context: Context, **options: Any) -> None:
            function(context, {**defaults, **options})

        keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, keyword, default=value) for name, value in defaults.items()]
        signature = inspect.Signature([inspect.Parameter("context", keyword), *parameters])
        body.__signature__ = signature  # type: ignore[attr-defined]  # what inspect.signature, and so Invoke, looks for
        return command(help=dict(help))(body)

    return decorate
