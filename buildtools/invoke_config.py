"""Settings from ``pyproject.toml`` and from every place Invoke reads configuration from, each with its origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from invoke.config import AmbiguousMergeError, Config
from invoke.context import Context

from buildtools import Refused
from buildtools.settings import Layer, Settings
from buildtools.settings_reader import merge_layers, read_pyproject

_ENVIRONMENT_PREFIX = "INVOKE_BUILDTOOLS_"


def read_settings(context: Context, environment: Mapping[str, str], *, lenient: bool = False) -> Settings:
    """Settings from ``pyproject.toml``, then from Invoke's levels in Invoke's order, the environment among them.

    :raises Refused: if ``pyproject.toml`` is not valid TOML; unless ``lenient``, also for all other errors at once.
    """
    # The folder that holds the ``tasks.py`` in use.
    levels = vars(context.config)
    root = Path(levels.get("_project_prefix") or Path.cwd()).resolve()
    errors = []
    # Invoke ignores this, and a release would go where no one meant it to.
    path = levels.get("_runtime_path")
    if path and not levels["_runtime_found"]:
        hint = " (its sandbox is down: open a new shell)" if Path(path).parent.name == ".sandbox" else ""
        errors = [f"{path}, which -f or INVOKE_RUNTIME_CONFIG names, does not exist{hint}"]
    layers = [read_pyproject(root), *_layers(context, environment)]
    return merge_layers(root, [*_default_platform(environment, layers), *layers], errors, lenient=lenient)


def project_context(folder: Path, environment: Mapping[str, str]) -> Context:
    """A context like the one Invoke gives to the tasks of the project in ``folder``.

    :raises Refused: if Invoke cannot use one of its configuration files.
    """
    refuse_invalid_file(folder)
    runtime = environment.get("INVOKE_RUNTIME_CONFIG")
    with refusing_what_invoke_cannot_use("one of its files"):
        config = Config(project_location=folder, runtime_path=Path(runtime) if runtime else None)
        config.load_project(merge=False)
        config.load_runtime()
    return Context(config)


@contextmanager
def refusing_what_invoke_cannot_use(place: str) -> Iterator[None]:
    """A context in which Invoke reads the configuration of a place, and whatever it raises becomes one message.

    :raises Refused: if Invoke fails.
    """
    try:
        yield
    except AmbiguousMergeError:
        reason = "a table stands where Invoke expects a value, or a value where it expects a table"
    except AttributeError:
        # Invoke merges the whole file as a table.
        reason = "it is not a table"
    # No list exists of what YAML, JSON, the file system and Invoke may raise.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())
    else:
        return
    raise Refused(f"Invoke cannot use {place} ({reason})", "correct it and run again")


def refuse_invalid_file(folder: Path) -> None:
    """Raise :class:`Refused` if Invoke cannot use the configuration file in a project's folder. There need not be one.

    Invoke reads that file right after ``tasks.py``, and merges the environment into it when a task starts; errors there
    end in a traceback. It reads the files of the user and the system earlier, before any of our code runs.

    :raises Refused: if the file, or a variable that overrides a value in it, makes Invoke fail.
    """
    path = next((path for kind in ("yaml", "yml", "json") if (path := folder / f"invoke.{kind}").exists()), None)
    if path is None:
        return
    config = Config(project_location=folder)
    with refusing_what_invoke_cannot_use(path.name):
        config.load_project(merge=False)
        # Invoke takes an empty list for an empty table.
        if not isinstance(vars(config)["_project"], dict | None):
            raise TypeError("it is not a table")
        config.merge()
    with refusing_what_invoke_cannot_use(f"a variable INVOKE_… that overrides a value of {path.name}"):
        config.load_shell_env()


def _default_platform(environment: Mapping[str, str], layers: Sequence[Layer]) -> Iterator[Layer]:
    """The variable of the docker program, where no layer says for which platforms images are."""
    platform = environment.get("DOCKER_DEFAULT_PLATFORM")
    tables = [layer.values for layer in layers if isinstance(layer.values, Mapping)]
    if platform and not any(table.get("platform") or table.get("platforms") for table in tables):
        yield Layer("DOCKER_DEFAULT_PLATFORM", {"platform": platform})


def _layers(context: Context, environment: Mapping[str, str]) -> Iterator[Layer]:
    # Invoke merges its levels and forgets which file a value came from, so read its levels themselves.
    levels = vars(context.config)
    for level in ("collection", "system", "user", "project", "env", "runtime", "overrides"):
        if level == "env":
            yield Layer("environment", _in_variables(environment))
        # Invoke reads an empty YAML file as None.
        elif (values := (levels.get(f"_{level}") or {}).get("buildtools")) is not None:
            path = str(levels.get(f"_{level}_path") or level)
            yield Layer(path, values, cache(partial(_lines_of, path)))


def _lines_of(path: str) -> dict[str, int]:
    if not path.endswith((".yaml", ".yml")):
        return {}
    # Invoke's own copy of PyYAML, which has no types.
    yaml: Any = vars(import_module("invoke.util"))["yaml"]
    lines: dict[str, int] = {}

    def descend(node: Any, above: str) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            lines[f"{above}{key.value}"] = key.start_mark.line + 1
            descend(value, f"{above}{key.value}.")

    prefix = "buildtools."
    descend(yaml.compose(Path(path).read_bytes()), "")
    return {key.removeprefix(prefix): line for key, line in lines.items() if key.startswith(prefix)}


def _in_variables(environment: Mapping[str, str]) -> dict[str, str]:
    # Invoke reads only variables of keys that it already knows; here an unknown one is an error.
    return {
        name.removeprefix(_ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(_ENVIRONMENT_PREFIX)
    }
