"""Typed settings, each with the origin of its value.

:func:`resolve` takes layers (one mapping per origin, lowest first) and gives one frozen :class:`Settings`. All
complaints, of every layer, come in a single error, each with its file and key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from buildtools import Refused
from buildtools.frozen import frozen

# Distribution's repository grammar, one path component (no slash):
# https://distribution.github.io/distribution/spec/api/#overview
COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@frozen
class ImageSettings:
    """What is configured for one image folder, ``[tool.buildtools.image.NAME]``.

    Paths are relative to the project's root, but ``dockerfile``, which is relative to the image folder.
    ``secrets`` maps an id to ``path/to/file`` or ``env:NAME``. ``before`` is a command that is run first.
    ``rebuild_after`` is an age in hours after which an up-to-date image is built anew; 0 means never.
    """

    context: str = ""
    dockerfile: str = "Dockerfile"
    target: str = ""
    platform: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    ssh: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    cache_from: tuple[str, ...] = ()
    before: str = ""
    rebuild_after: float = 0.0


@frozen
class DistributionSettings:
    """What is configured for one distribution, ``[tool.buildtools.distribution.NAME]``.

    ``command`` is run with ``BUILDTOOLS_VERSION`` set; then either the folder ``root`` is packed or ``archive``, a
    pattern that must match one finished archive, is taken as it is. ``reproducible`` promises that each build of a
    commit gives the same bytes.
    """

    command: str = ""
    root: str = ""
    archive: str = ""
    reproducible: bool = False


@frozen
class Settings:
    """One project's settings. ``root`` is the folder that holds ``tasks.py`` and ``pyproject.toml``."""

    root: Path
    registry: str = ""
    namespace: str = ""
    images: str = "src/docker"
    artifacts: str = ""
    tag_prefix: str = ""
    moving_tags: tuple[str, ...] = ()
    release_branch: str = "main"
    remote: str = "origin"
    jobs: int = 0
    args: Mapping[str, str] = field(default_factory=dict)
    registry_plain_http: bool = False
    registry_ca: str = ""
    s3_endpoint: str = ""
    s3_checksums: bool = True
    s3_conditional_writes: bool = True
    fingerprints_kept: int = 50
    image: Mapping[str, ImageSettings] = field(default_factory=dict)
    distribution: Mapping[str, DistributionSettings] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def image_settings(self, name: str) -> ImageSettings:
        """The settings of one image folder; the defaults where none are configured."""
        return self.image.get(name, ImageSettings())

    @property
    def repository_prefix(self) -> str:
        """``registry/namespace``, what every image's repository starts with.

        :raises Refused: no registry is configured.
        """
        if not self.registry:
            raise Refused(
                "no registry is configured",
                'set registry = "HOST:PORT" under [tool.buildtools] in pyproject.toml, or INVOKE_BUILDTOOLS_REGISTRY',
            )
        return f"{self.registry}/{self.namespace}" if self.namespace else self.registry

    @property
    def artifacts_url(self) -> str:
        """``s3://bucket/prefix`` without a trailing slash.

        :raises Refused: none is configured.
        """
        if not self.artifacts:
            raise Refused(
                "no place for archives is configured",
                'set artifacts = "s3://BUCKET/PREFIX" under [tool.buildtools] in pyproject.toml, '
                "or INVOKE_BUILDTOOLS_ARTIFACTS",
            )
        return self.artifacts.rstrip("/")


@frozen
class Layer:
    """One source of settings. ``origin`` names it to the user, as ``pyproject.toml`` or ``environment``."""

    origin: str
    values: Any


KEYS = tuple(f.name for f in fields(Settings) if f.name not in ("root", "origins"))


def read_pyproject(root: Path) -> Layer:
    """The ``[tool.buildtools]`` table below ``root``; an empty layer where there is none.

    :raises Refused: the file is not TOML.
    """
    path = root / "pyproject.toml"
    try:
        with path.open("rb") as stream:
            document = tomllib.load(stream)
    except FileNotFoundError:
        return Layer("pyproject.toml", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"pyproject.toml is not valid TOML ({error})", "correct it and run again") from None
    return Layer("pyproject.toml", document.get("tool", {}).get("buildtools", {}))


def merge_layers(root: Path, layers: Iterable[Layer]) -> Settings:
    """Settings from layers, the later ones winning key by key.

    Tables (``args``, ``image``, ``distribution``) merge by their own keys. A value of ``None`` means "not set here".

    :raises Refused: with every complaint at once: unknown key, wrong type, bad name.
    """
    complaints: list[str] = []
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        if not isinstance(layer.values, Mapping):
            complaints.append(f"{layer.origin}: [tool.buildtools] must be a table")
            continue
        _merge(merged, layer, origins, complaints)
    values = _typed(Settings, merged, "", origins, complaints, skip=("image", "distribution"))
    for table, kind in (("image", ImageSettings), ("distribution", DistributionSettings)):
        values[table] = _tables(table, kind, merged.get(table, {}), origins, complaints)
    complaints += _bad_values(values, origins)
    if complaints:
        many = "1 complaint" if len(complaints) == 1 else f"{len(complaints)} complaints"
        raise Refused(f"the configuration has {many}", "correct what is named above", details=complaints)
    return Settings(root=root, origins=origins, **values)


def _merge(merged: dict[str, Any], layer: Layer, origins: dict[str, str], complaints: list[str]) -> None:
    def descend(into: dict[str, Any], values: Mapping[str, Any], path: str) -> None:
        for key, value in values.items():
            here = f"{path}{key}"
            if value is None:
                continue
            if isinstance(value, Mapping):
                subtree = into.setdefault(key, {})
                if isinstance(subtree, dict):
                    descend(subtree, value, f"{here}.")
                else:
                    complaints.append(f"{layer.origin}: {here} must not be a table")
                origins.setdefault(here, layer.origin)
            else:
                into[key] = value
                origins[here] = layer.origin

    descend(merged, layer.values, "")


def _typed(
    kind: type,
    table: Mapping[str, Any],
    path: str,
    origins: Mapping[str, str],
    complaints: list[str],
    skip: Iterable[str],
) -> dict[str, Any]:
    members = {f.name: f for f in fields(kind) if kind is not Settings or f.name in KEYS}
    values: dict[str, Any] = {}
    for key, value in table.items():
        here = f"{path}{key}"
        origin = origins.get(here, "configuration")
        if key not in members:
            complaints.append(f"{origin}: unknown key {here}{_nearest(key, members, path)}")
        elif key not in skip:
            _convert(members[key], value, f"{origin}: {here}", values, complaints)
    return values


def _nearest(key: str, candidates: Mapping[str, object], path: str) -> str:
    near = difflib.get_close_matches(key.replace("-", "_"), candidates, n=1)
    return f" (did you mean {path}{near[0]}?)" if near else ""


def _convert(spec: Field[Any], value: Any, where: str, values: dict[str, Any], complaints: list[str]) -> None:
    default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
    expected, convert = _CONVERSIONS[type(default)]
    try:
        values[spec.name] = convert(value)
    except (TypeError, ValueError):
        complaints.append(f"{where} must be {expected}, not {_quoted(value)}")


def _quoted(value: Any) -> str:
    """A value for a complaint, without what may be a login in it."""
    if isinstance(value, Mapping):
        return f"a table of {', '.join(map(str, value))}"
    if isinstance(value, str) and "@" in value:
        return repr(f"…@{value.rpartition('@')[2]}")
    return "a list" if isinstance(value, list | tuple) else repr(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[
        _text(value).lower()
    ]


def _strict(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def converted(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        result = convert(value)
        if isinstance(value, float) and result != value:
            raise ValueError
        if result < 0:
            raise ValueError
        return result

    return converted


def _texts(value: Any) -> tuple[str, ...]:
    # An environment variable has no lists, so there a comma separates.
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_text(item) for item in value)


def _text_table(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError
    return {_text(key): _text(item) for key, item in value.items()}


def _truth_or_error(value: Any) -> bool:
    try:
        return _truth(value)
    except KeyError:
        raise ValueError from None


_CONVERSIONS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    str: ("a text", _text),
    bool: ("true or false", _truth_or_error),
    int: ("a whole number, 0 or more", _strict(int)),
    float: ("a number, 0 or more", _strict(float)),
    tuple: ("a list of texts", _texts),
    dict: ("a table of texts", _text_table),
}


def _tables(table: str, kind: type, value: Any, origins: Mapping[str, str], complaints: list[str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        complaints.append(f"{origins.get(table, 'configuration')}: {table} must be a table of tables")
        return {}
    tables = {}
    for name, values in value.items():
        here = f"{table}.{name}"
        origin = origins.get(here, "configuration")
        if not isinstance(values, Mapping):
            complaints.append(f"{origin}: {here} must be a table")
            continue
        tables[name] = kind(**_typed(kind, values, f"{here}.", origins, complaints, skip=()))
    return tables


def is_host(text: str) -> bool:
    """Whether this is ``HOST`` or ``HOST:PORT``, as a registry is called."""
    try:
        urlsplit(f"//{text}").port  # noqa: B018  tells of ports and IPv6 addresses that are none
    except ValueError:
        return False
    return _HOST.fullmatch(text) is not None


def _bad_values(values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    def where(key: str) -> str:
        return f"{origins.get(key, 'configuration')}: {key}"

    bad = []
    registry = values.get("registry", "")
    if registry and not is_host(registry):
        bad.append(f"{where('registry')} must be HOST or HOST:PORT without a scheme or a path, not {_quoted(registry)}")
    elif registry and registry != "localhost" and not re.search(r"[.:]", registry):
        bad.append(f"{where('registry')} must hold a dot or a port, or all of Docker takes it for a user of Docker Hub")
    namespace = values.get("namespace", "")
    if namespace and not all(COMPONENT.fullmatch(part) for part in namespace.split("/")):
        bad.append(f"{where('namespace')} must be lower-case words joined by slashes, not {namespace!r}")
    artifacts = values.get("artifacts", "")
    if artifacts and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[^\s]*)?", artifacts):
        bad.append(f"{where('artifacts')} must be s3://BUCKET or s3://BUCKET/PREFIX, not {_quoted(artifacts)}")
    bad += [
        f"{where('moving_tags')}: {pattern!r} must be a tag, in which {{major}}, {{minor}} and {{patch}} may stand"
        for pattern in values.get("moving_tags", ())
        if not _TAG.fullmatch(re.sub(r"\{(?:major|minor|patch)\}", "0", pattern))
    ]
    for name, distribution in values.get("distribution", {}).items():
        if not COMPONENT.fullmatch(name):
            bad.append(f"{where(f'distribution.{name}')}: a distribution's name must be lower-case words")
        if bool(distribution.root) == bool(distribution.archive):
            bad.append(f"{where(f'distribution.{name}')} must have either root or archive")
    return bad
