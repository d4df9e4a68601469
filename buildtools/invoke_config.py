"""Settings from ``pyproject.toml`` and from all the places that Invoke looks into, with where each value came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from invoke.context import Context

from buildtools.settings import Layer, Settings, merge_layers, read_pyproject

_ENVIRONMENT_PREFIX = "INVOKE_BUILDTOOLS_"


def read_settings(context: Context, environment: Mapping[str, str]) -> Settings:
    """Settings from ``pyproject.toml``, then Invoke's own levels, the environment in its usual place among them.

    :raises Refused: with every complaint at once.
    """
    # The folder that holds the ``tasks.py`` in use.
    root = Path(vars(context.config).get("_project_prefix") or Path.cwd()).resolve()
    return merge_layers(root, [read_pyproject(root), *_layers(context, environment)])


def _layers(context: Context, environment: Mapping[str, str]) -> Iterator[Layer]:
    # Invoke merges its levels and forgets which file a value came from; its levels are only to be had here.
    levels = vars(context.config)
    for level in ("collection", "system", "user", "project", "env", "runtime", "overrides"):
        if level == "env":
            yield Layer("environment", _in_variables(environment))
        elif (values := levels.get(f"_{level}", {}).get("buildtools")) is not None:
            yield Layer(str(levels.get(f"_{level}_path") or level), values)


def _in_variables(environment: Mapping[str, str]) -> dict[str, str]:
    # Invoke reads only variables of keys that it knows already; here an unknown one is a complaint.
    return {
        name.removeprefix(_ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(_ENVIRONMENT_PREFIX)
    }
