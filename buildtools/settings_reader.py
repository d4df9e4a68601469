"""Read settings from layers: one mapping for each source, the lowest first.

All errors of all layers are reported together, each with its place and key.
"""

from __future__ import annotations

import codecs
import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from buildtools import Refused, error_count
from buildtools.build_cache import place_error, read_caches
from buildtools.platform import Platform
from buildtools.settings import (
    COMPONENT,
    GATE,
    KEYS,
    BuilderSettings,
    DistributionSettings,
    ImageSettings,
    Layer,
    MediaTypes,
    Provenance,
    Sbom,
    Settings,
    StageSettings,
    TargetSettings,
    is_host,
    place_of,
)
from buildtools.toml_lines import lines_of_keys

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# A larger number is a mistake: it exceeds the hours since 1970, and any count of images or processors.
LARGEST_NUMBER = 1_000_000
_TABLES = {
    "image": ImageSettings,
    "distribution": DistributionSettings,
    "target": TargetSettings,
    "pool": BuilderSettings,
}
_MOST_QUOTED = 80
_BUILDER_ADDRESS = re.compile(
    r"unix:///\S+|docker-(?:container|context)://[A-Za-z0-9][A-Za-z0-9_.-]*"
    r"|(?:tcp|ssh)://(?:[^\s/@]+@)?(?:[^\s/@:]+|\[[0-9A-Fa-f:]+\])(?::(?P<port>[1-9][0-9]{0,4}))?/?"
)


def read_pyproject(root: Path) -> Layer:
    """The ``[tool.buildtools]`` table of ``pyproject.toml`` in ``root``; an empty layer if there is none.

    :raises Refused: if the file cannot be read, or is not TOML.
    """
    path = root / "pyproject.toml"
    try:
        data = path.read_bytes()
        text = data.decode()
        document = tomllib.loads(text)
    except FileNotFoundError:
        return Layer("pyproject.toml", {})
    except OSError as error:
        raise Refused(f"pyproject.toml cannot be read ({error.strerror})", "correct it and run again") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise Refused("pyproject.toml begins with a byte order mark", "save it as UTF-8 without one") from None
        raise Refused(f"pyproject.toml is not valid TOML ({error})", "correct it and run again") from None
    tool = document.get("tool", {})
    if not isinstance(tool, dict):
        raise Refused("pyproject.toml: tool must be a table", "correct it and run again")
    prefix = "tool.buildtools."

    def lines() -> dict[str, int]:
        return {key.removeprefix(prefix): line for key, line in lines_of_keys(text).items() if key.startswith(prefix)}

    return Layer("pyproject.toml", tool.get("buildtools", {}), cache(lines))


def merge_layers(root: Path, layers: Iterable[Layer], errors: Sequence[str] = (), *, lenient: bool = False) -> Settings:
    """Settings merged from layers; later layers win key by key.

    Tables (``args``, ``image``, ``distribution``, ``target``, ``pool``) are merged by their own keys. A value of
    ``None`` means "not set here". ``errors`` are those that reading the layers has shown.

    :raises Refused: unless ``lenient``, with all errors at once: unknown keys, wrong types, invalid values.
    """
    errors = [*errors]
    merged: dict[str, Any] = {}
    origins: dict[str, Layer] = {}
    for layer in layers:
        if not isinstance(layer.values, Mapping):
            errors.append(f"{layer.origin}: buildtools must be a table")
            continue
        _merge(merged, layer, origins, errors)
    values = _values(Settings, merged, "", origins, errors, skip=(*_TABLES, GATE))
    for table, kind in _TABLES.items():
        values[table] = _tables(table, kind, merged.get(table, {}), origins, errors)
    values[GATE] = _table(GATE, StageSettings, merged.get(GATE, {}), origins, errors) or StageSettings()
    errors += _value_errors(values, origins)
    if errors and not lenient:
        if len(errors) == 1:
            raise Refused(f"invalid configuration: {errors[0]}", "correct it")
        count, remedy = error_count(errors)
        raise Refused(f"invalid configuration ({count})", remedy, details=errors)
    return Settings(root=root, origins=origins, errors=tuple(errors), **values)


def _merge(merged: dict[str, Any], layer: Layer, origins: dict[str, Layer], errors: list[str]) -> None:
    def descend(into: dict[str, Any], values: Mapping[Any, Any], path: str) -> None:
        for key, value in values.items():
            here = f"{path}{key}"
            if value is None:
                continue
            # YAML allows keys of other types, and JSON allows text that is not valid Unicode.
            if not isinstance(key, str) or not _is_text(key):
                errors.append(f"{layer.origin}: the key {path}{_quoted(key)} must be a string")
            elif isinstance(value, Mapping):
                subtree = into.setdefault(key, {})
                if isinstance(subtree, dict):
                    descend(subtree, value, f"{here}.")
                else:
                    errors.append(f"{place_of(here, {here: layer})}: {here} must not be a table")
                origins.setdefault(here, layer)
            else:
                into[key] = value
                origins[here] = layer

    descend(merged, layer.values, "")


def _values(
    kind: type,
    table: Mapping[str, Any],
    path: str,
    origins: Mapping[str, Layer],
    errors: list[str],
    skip: Iterable[str],
) -> dict[str, Any]:
    members = {f.name: f for f in fields(kind) if kind is not Settings or f.name in KEYS}
    values: dict[str, Any] = {}
    for key, value in table.items():
        here = f"{path}{key}"
        if key not in members:
            errors.append(f"{place_of(here, origins)}: unknown key {here}{_nearest(key, members, path)}")
        elif key not in skip:
            strangers = _strangers(value) if members[key].default_factory is dict else {}
            errors += [
                f"{_where(f'{here}.{name}', origins)} must be a string, not {_quoted(item)}"
                for name, item in strangers.items()
            ]
            if not strangers:
                _convert(members[key], value, partial(_where, here, origins), values, errors)
    return values


def _strangers(value: Any) -> dict[str, Any]:
    """The items of a table that are no strings, such as a version that TOML takes for a number."""
    table = value if isinstance(value, Mapping) else {}
    return {name: item for name, item in table.items() if not isinstance(item, str)}


def _nearest(key: str, candidates: Mapping[str, object], path: str) -> str:
    near = difflib.get_close_matches(key.replace("-", "_"), candidates, n=1)
    return f" (did you mean {path}{near[0]}?)" if near else ""


def _where(key: str, origins: Mapping[str, Layer]) -> str:
    return f"{place_of(key, origins)}: {key}"


def _convert(spec: Field[Any], value: Any, where: Callable[[], str], values: dict[str, Any], errors: list[str]) -> None:
    default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
    expected, convert = _CONVERSIONS[type(default)]
    try:
        values[spec.name] = convert(value)
    except (TypeError, ValueError, OverflowError):
        errors.append(f"{where()} must be {expected}, not {_quoted(value)}")


def _quoted(value: Any) -> str:
    """The value for a message, without a login that it may contain."""
    if isinstance(value, Mapping):
        return f"a table of {', '.join(map(ascii, value))}"
    if isinstance(value, list | tuple):
        stranger = next((item for item in value if not isinstance(item, str)), None)
        return "a list" if stranger is None else f"a list with {_quoted(stranger)}"
    if isinstance(value, str) and "@" in value:
        value = f"…@{value.rpartition('@')[2]}"
    text = repr(value)
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}…"


def _is_text(value: str) -> bool:
    """Whether it can be part of a request, a path or an argument: no NUL and no lone surrogates."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not _is_text(value):
        raise TypeError
    return value


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
    word = _text(value).lower()
    if word not in words:
        raise ValueError
    return words[word]


def _number(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def converted(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        result = convert(value)
        if isinstance(value, float) and result != value:
            raise ValueError
        if not math.isfinite(result) or not 0 <= result <= LARGEST_NUMBER:
            raise ValueError
        return result

    return converted


def _texts(value: Any) -> tuple[str, ...]:
    # An environment variable cannot hold a list, so commas separate its items.
    if isinstance(value, str):
        return tuple(part.strip() for part in _text(value).split(",") if part.strip())
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_text(item) for item in value)


def _text_table(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError
    return {_text(key): _text(item) for key, item in value.items()}


def _provenance(value: Any) -> Provenance:
    if isinstance(value, str) and value in ("min", "max"):
        return Provenance(value)
    return Provenance.MIN if _truth(value) else Provenance.NONE


def _sbom(value: Any) -> Sbom:
    try:
        return Sbom(_truth(value))
    except ValueError:
        # The scanner's name becomes part of a comma-separated text.
        if re.search(r"[,\s\"]", value):
            raise
        return Sbom(wanted=True, scanner=value)


_CONVERSIONS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    str: ("a string", _text),
    bool: ("true or false", _truth),
    int: ("a whole number from 0 to 1000000", _number(int)),
    float: ("a number from 0 to 1000000", _number(float)),
    tuple: ("a list of strings", _texts),
    dict: ("a table of strings", _text_table),
    MediaTypes: ('"docker" or "oci"', MediaTypes),
    Provenance: ('true, false, "min" or "max"', _provenance),
    Sbom: ("true, false or the image of a scanner", _sbom),
}


def _tables(table: str, kind: type, value: Any, origins: Mapping[str, Layer], errors: list[str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        errors.append(f"{_where(table, origins)} must be a table of tables")
        return {}
    tables = {}
    for name, values in value.items():
        if one := _table(f"{table}.{name}", kind, values, origins, errors):
            tables[name] = one
    return tables


def _table(path: str, kind: type, value: Any, origins: Mapping[str, Layer], errors: list[str]) -> Any:
    """The settings in one table; None if it is not a table."""
    if not isinstance(value, Mapping):
        errors.append(f"{_where(path, origins)} must be a table")
        return None
    return kind(**_values(kind, value, f"{path}.", origins, errors, skip=()))


def _place_errors(values: Mapping[str, Any], path: str, origins: Mapping[str, Layer]) -> list[str]:
    """What is wrong with the places for images and archives; ``path`` is the path of their table."""

    def where(key: str) -> str:
        return _where(f"{path}{key}", origins)

    errors = []
    registry = values.get("registry", "")
    if registry and not is_host(registry):
        errors.append(
            f"{where('registry')} must be HOST or HOST:PORT without a scheme or a path, not {_quoted(registry)}"
        )
    elif registry and registry != "localhost" and not re.search(r"[.:]", registry):
        errors.append(
            f"{where('registry')} must have a dot or a port; without, Docker takes it for a user of Docker Hub"
        )
    namespace = values.get("namespace", "")
    if namespace and not all(COMPONENT.fullmatch(part) for part in namespace.split("/")):
        errors.append(f"{where('namespace')} must be lower-case words joined by slashes, not {_quoted(namespace)}")
    artifacts = values.get("artifacts", "")
    if artifacts and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[^\s]*)?", artifacts):
        errors.append(
            f"{where('artifacts')} must be s3://BUCKET or s3://BUCKET/PREFIX, where BUCKET has 3 to 63 lower-case "
            f"letters, digits, dots and hyphens; not {_quoted(artifacts)}"
        )
    return errors


def _value_errors(values: dict[str, Any], origins: Mapping[str, Layer]) -> list[str]:
    """What is wrong with values of the right type; an invalid platform is replaced by the default."""

    def where(key: str) -> str:
        return _where(key, origins)

    errors = _place_errors(values, "", origins)
    errors += [
        f"{where('moving_tags')}: {_quoted(pattern)} must be a tag, which may contain {{major}}, {{minor}} "
        "and {{patch}}"
        for pattern in values.get("moving_tags", ())
        if not _TAG.fullmatch(re.sub(r"\{(?:major|minor|patch)\}", "0", pattern))
    ]
    if general_errors := _platform_errors("", values.get("platform", ""), values.get("platforms", ()), where):
        errors += general_errors
        values |= {"platform": "", "platforms": ()}
    for name, image in [*values.get("image", {}).items()]:
        if own_errors := _platform_errors(f"image.{name}.", image.platform, image.platforms, where):
            errors += own_errors
            values["image"][name] = replace(image, platform="", platforms=())
    errors += _cache_errors(values, where)
    errors += _key_errors(values, where)
    for name, target in values.get("target", {}).items():
        errors += _place_errors(vars(target), f"target.{name}.", origins)
        if unknown := [required for required in target.requires if required not in (*values["target"], GATE)]:
            errors.append(f"{where(f'target.{name}.requires')} names {_quoted(unknown[0])}, which is not a target")
    errors += _builder_errors(values, where)
    for name, distribution in values.get("distribution", {}).items():
        if not COMPONENT.fullmatch(name):
            errors.append(
                f"{where(f'distribution.{name}')}: a distribution's name must be lower-case letters and digits, with "
                "dots, hyphens or underscores in between"
            )
        if bool(distribution.root) == bool(distribution.archive):
            errors.append(f"{where(f'distribution.{name}')} must have either root or archive")
    return errors


def _cache_errors(values: dict[str, Any], where: Callable[[str], str]) -> list[str]:
    """What is wrong with the caches of builds; an invalid one is replaced by the default."""
    tables = {"": values, **{f"image.{name}.": vars(image) for name, image in values.get("image", {}).items()}}
    errors = []
    for path, table in tables.items():
        platforms = table.get("platforms") or (() if table.get("platform") else values.get("platforms", ()))
        for key in ("cache_from", "cache_to"):
            try:
                caches = read_caches(table.get(key, ()), written=key == "cache_to")
            except ValueError as error:
                errors.append(f"{where(f'{path}{key}')}: {error}")
                if path:
                    name = path.split(".")[1]
                    values["image"][name] = replace(values["image"][name], **{key: ()})
                else:
                    values[key] = ()
                continue
            places = [
                place_error(each, several_images=not path, several_platforms=len(platforms) > 1) for each in caches
            ]
            errors += [f"{where(f'{path}{key}')}: {error}" for error in places if error and key == "cache_to"]
    return errors


def builder_address_error(address: str) -> str:
    """What is wrong with the address of a builder, to be said after its key; empty if nothing is."""
    match = _BUILDER_ADDRESS.fullmatch(address)
    if match and int(match["port"] or 1) <= 65535:
        return ""
    kinds = "unix:///PATH, tcp://HOST:PORT, docker-container://NAME or docker-context://NAME"
    return f"must be {kinds}, not {_quoted(address)}"


def _builder_errors(values: Mapping[str, Any], where: Callable[[str], str]) -> list[str]:
    one, several, pool = values.get("builder", ""), values.get("builders", ()), values.get("pool", {})
    addresses = [("builder", one)] if one else []
    addresses += [("builders", each) for each in several]
    addresses += [(f"pool.{name}.address", each.address) for name, each in pool.items()]
    errors = []
    names = set()
    for key, address in addresses:
        if error := builder_address_error(address):
            errors.append(f"{where(key)} {error}")
        elif address in names:
            # It would get the builds of both at once.
            errors.append(f"{where(key)} has {_quoted(address)} twice")
        names.add(address)
    if one and (several or pool):
        errors.append(
            f"{where('builder')} cannot be used together with builders or pool: put that builder into builders"
        )
    for name, each in pool.items():
        errors += _platform_errors(f"pool.{name}.", "", each.platforms, where)
    return errors


def _key_errors(values: Mapping[str, Any], where: Callable[[str], str]) -> list[str]:
    """What is wrong with the keys that sign and verify releases. Values are not quoted: one may be the key itself."""
    sign = values.get("sign", {})
    errors = [f"{where(f'sign.{name}')} is unknown: sign has only the key sign.key" for name in sign if name != "key"]
    sources = {"sign.key": sign.get("key", ""), "verify_key": values.get("verify_key", "")}
    return errors + [
        f"{where(key)} must be the path of a file or env:NAME, not the key itself"
        for key, source in sources.items()
        if "\n" in source or "-----BEGIN" in source
    ]


def _platform_errors(path: str, one: str, several: Iterable[str], where: Callable[[str], str]) -> list[str]:
    """What is wrong with the keys ``platform`` and ``platforms`` of one table."""
    if one and several:
        return [f"{where(f'{path}platforms')} cannot be used together with platform: put that platform into the list"]
    key = where(f"{path}{'platforms' if several else 'platform'}")
    kind = "a list of platforms" if several else "one platform"
    errors = []
    platforms = set()
    for text in several or ((one,) if one else ()):
        try:
            platform = Platform.parse(text)
        except ValueError as error:
            errors.append(f"{key} must be {kind}, such as linux/arm64, not {_quoted(text)} ({error})")
            continue
        if platform in platforms:
            errors.append(f"{key} has {platform} twice")
        platforms.add(platform)
    return errors
