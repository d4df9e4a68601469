"""Parsers for responses of an engine's API: https://docs.docker.com/reference/api/engine/.

There may be a proxy between us and the engine, or something else at its address. So each response is checked here, at
once, as far as it is used later; an unexpected one raises ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from buildtools.frozen import frozen
from buildtools.platform import Platform


@frozen
class EngineImage:
    """An image in the engine's list. ``tags`` are full references; ``id`` is ``sha256:...``.

    ``created`` is when it was built, in seconds since 1970.
    """

    id: str
    tags: tuple[str, ...]
    labels: Mapping[str, str]
    created: int


def image_list(data: bytes) -> list[EngineImage]:
    """The response of ``GET /images/json``.

    :raises ValueError: if it is something else.
    """
    return [
        EngineImage(
            _text(entry, "Id"),
            _tags(entry),
            {key: str(value) for key, value in _object(entry, "Labels").items()},
            created if isinstance(created := entry.get("Created"), int) else 0,
        )
        for entry in map(_as_object, _as_list(_document(data)))
    ]


def image_details(data: bytes) -> dict[str, Any]:
    """The response of ``GET /images/NAME/json``, with ``Id``, names, ``Config`` and ``RootFS`` checked.

    :raises ValueError: if it is something else.
    """
    image = _as_object(_document(data))
    _text(image, "Id")
    image["RepoTags"] = list(_tags(image))
    _texts(image, "RepoDigests")
    _texts(_object(image, "Config"), "OnBuild")
    _texts(_object(image, "RootFS"), "Layers")
    return image


def configuration(document: Callable[[str], bytes], manifest_digest: str) -> dict[str, Any]:
    """What :func:`image_details` has of an image's configuration, by what ``document`` returns for a digest.

    :raises ValueError: if one of the documents is something else.
    """
    manifest = _as_object(_document(document(manifest_digest)))
    config = _as_object(_document(document(_text(_object(manifest, "config"), "digest"))))
    return {
        "Architecture": _text(config, "architecture"),
        "Os": _text(config, "os"),
        "Config": _object(config, "config"),
        "RootFS": {"Type": "layers", "Layers": _texts(_object(config, "rootfs"), "diff_ids")},
    }


def _tags(image: Mapping[str, Any]) -> tuple[str, ...]:
    """An image's names with a tag. Engines with containerd's store list a digest that it was pulled by, too."""
    return tuple(tag for tag in _texts(image, "RepoTags") if "@" not in tag and tag != "<none>:<none>")


def engine_platform(data: bytes) -> Platform:
    """The engine's own platform, from the response of ``GET /version``.

    :raises ValueError: if it is something else.
    """
    program = _as_object(_document(data))
    return Platform.parse(f"{_text(program, 'Os')}/{_text(program, 'Arch')}")


def driver_status(data: bytes) -> list[Any]:
    """The name-value pairs of the storage driver, from the response of ``GET /info``.

    :raises ValueError: if it is something else.
    """
    return _as_list(_as_object(_document(data)).get("DriverStatus") or [])


def failure_reason(status: int, data: bytes) -> str:
    """The reason in an error response; its first line if it is not JSON."""
    try:
        return _text(_as_object(_document(data)), "message")
    except ValueError:
        line = data.decode("utf-8", "replace").strip().partition("\n")[0].strip()
        # A proxy sends a page for a browser.
        return str(status) if not line or line.startswith("<") else line[:_LONGEST_REASON]


# Only a server that is not an engine sends more; the rest would not help.
_LONGEST_REASON = 300


def _document(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _object(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object in a document; empty if it is null or missing, as Go writes it."""
    return _as_object(document.get(key) or {})


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string")
    return value


def _texts(document: Mapping[str, Any], key: str) -> list[str]:
    values = _as_list(document.get(key) or [])
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is not a list of strings")
    return values
