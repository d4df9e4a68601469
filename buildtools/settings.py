"""The configuration of a project as typed values, each with its origin; ``settings_reader`` reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from buildtools import Refused
from buildtools.frozen import frozen

# Keys that can be set for all images or for one. ``platform`` and ``platforms`` can too, and replace each other.
_FOR_ALL = ("cache_from", "cache_to", "provenance", "sbom")
# Distribution's repository grammar, one path component (no slash):
# https://distribution.github.io/distribution/spec/api/#overview
COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
# The name of the gate that `invoke stage` passes, in ``requires`` and in the record of gates.
GATE = "stage"
# The variable with the password of an encrypted signing key; cosign reads it too.
SIGNING_PASSWORD = "COSIGN_PASSWORD"  # noqa: S105  its name
# https://github.com/distribution/reference/blob/main/reference.go has the grammar.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?")


class MediaTypes(Enum):
    """Which media types an image's parts have: Docker's, which every registry and engine knows, or OCI's."""

    DOCKER = "docker"
    OCI = "oci"


class Provenance(Enum):
    """How much a build's provenance records: nothing, only the sources, or every step."""

    NONE = "none"
    MIN = "min"
    MAX = "max"


@frozen
class Sbom:
    """Whether to list the contents of an image, and the scanner's image; BuildKit's own scanner if none is named."""

    wanted: bool = False
    scanner: str = ""


@frozen
class ImageSettings:
    """The configuration of one image folder, ``[tool.buildtools.image.NAME]``.

    Paths are relative to the project's root, except ``dockerfile``, which is relative to the image folder. ``secrets``
    maps an id to ``path/to/file`` or ``env:NAME``. ``before`` is a command that is run first. ``cache_from`` and
    ``cache_to`` are texts for :func:`~buildtools.build_cache.read_caches`. ``rebuild_after`` is an age in hours after
    which an up-to-date image is rebuilt; 0 means never. ``platform`` is one platform, ``platforms`` several.
    """

    context: str = ""
    dockerfile: str = "Dockerfile"
    target: str = ""
    platform: str = ""
    platforms: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    ssh: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    provenance: Provenance = Provenance.NONE
    sbom: Sbom = Sbom()
    before: str = ""
    rebuild_after: float = 0.0

    @property
    def attestations(self) -> Mapping[str, str]:
        """The attestations that BuildKit is to make, by kind, in the form of ``docker build --attest type=KIND,``."""
        kinds = {}
        if self.provenance is not Provenance.NONE:
            kinds["provenance"] = f"mode={self.provenance.value}"
        if self.sbom.wanted:
            kinds["sbom"] = f"generator={self.sbom.scanner}" if self.sbom.scanner else ""
        return kinds


_DEFAULTS = ImageSettings()


@frozen
class DistributionSettings:
    """The configuration of one distribution, ``[tool.buildtools.distribution.NAME]``.

    ``command`` is run with ``BUILDTOOLS_VERSION`` set. Then either the folder ``root`` is packed, or ``archive``, a
    pattern that must match one finished archive, is taken as it is. ``reproducible`` promises that every build of a
    commit gives the same bytes.
    """

    command: str = ""
    root: str = ""
    archive: str = ""
    reproducible: bool = False


@frozen
class TargetSettings:
    """A place that releases can be promoted to, ``[tool.buildtools.target.NAME]``.

    An empty registry, namespace or place for artifacts means the project's own. The other settings of ``registry`` and
    ``s3_endpoint`` belong to these: where one of them is the project's own, so are they. ``requires`` names the targets
    that a version must have been promoted to before, and ``stage`` if it must have passed :data:`GATE`. A promotion
    moves ``channels`` forward, which are in the target's store.
    """

    registry: str = ""
    namespace: str = ""
    artifacts: str = ""
    registry_plain_http: bool = False
    registry_ca: str = ""
    s3_endpoint: str = ""
    s3_checksums: bool = True
    s3_conditional_writes: bool = True
    requires: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


@frozen
class StageSettings:
    """How a version is tried out before it may be promoted, ``[tool.buildtools.stage]``.

    ``compose`` are the files of the stack, relative to the project's root. ``smoke`` is a command that is run once the
    stack is healthy. ``timeout`` is in seconds and applies twice: until the stack is healthy, and to the command.
    """

    compose: tuple[str, ...] = ("compose.yaml",)
    smoke: str = ""
    timeout: float = 300.0


@frozen
class BuilderSettings:
    """A builder that replaces the engine, ``[tool.buildtools.pool.NAME]``.

    ``platforms`` are those it is to build for; if empty, the builder is asked. ``jobs`` is how many images it builds at
    once; 0 means the general number. ``certificates`` is a folder with ``ca.pem``, ``cert.pem`` and ``key.pem``.
    """

    address: str = ""
    platforms: tuple[str, ...] = ()
    jobs: int = 0
    certificates: str = ""


@frozen
class Layer:
    """One source of settings. ``origin`` names it in messages: ``pyproject.toml``, ``environment``.

    ``lines`` returns the line of each key, counted from 1, if the source has lines.
    """

    origin: str
    values: Any
    lines: Callable[[], Mapping[str, int]] = dict


def place_of(key: str, origins: Mapping[str, Layer]) -> str:
    """Where a key is set, or the nearest table around it: ``pyproject.toml line 12``."""
    while key not in origins and "." in key:
        key = key.rpartition(".")[0]
    layer = origins.get(key, Layer("configuration", {}))
    line = layer.lines().get(key)
    return f"{layer.origin} line {line}" if line else layer.origin


@frozen
class Settings:
    """One project's settings. ``root`` is the folder with ``tasks.py`` and ``pyproject.toml``.

    ``origins`` maps each key that is set to the layer its value comes from. ``errors`` describe the invalid values,
    which were replaced by defaults; only ``check`` continues with them.
    """

    root: Path
    registry: str = ""
    namespace: str = ""
    images: str = "src/docker"
    artifacts: str = ""
    tag_prefix: str = ""
    moving_tags: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    release_branch: str = "main"
    remote: str = "origin"
    jobs: int = 0
    platform: str = ""
    platforms: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    registry_plain_http: bool = False
    registry_ca: str = ""
    s3_endpoint: str = ""
    s3_checksums: bool = True
    s3_conditional_writes: bool = True
    fingerprints_kept: int = 50
    media_types: MediaTypes = MediaTypes.DOCKER
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    provenance: Provenance = Provenance.NONE
    sbom: Sbom = Sbom()
    sign: Mapping[str, str] = field(default_factory=dict)
    verify_key: str = ""
    image: Mapping[str, ImageSettings] = field(default_factory=dict)
    distribution: Mapping[str, DistributionSettings] = field(default_factory=dict)
    builder: str = ""
    builders: tuple[str, ...] = ()
    builder_certificates: str = ""
    pool: Mapping[str, BuilderSettings] = field(default_factory=dict)
    target: Mapping[str, TargetSettings] = field(default_factory=dict)
    stage: StageSettings = StageSettings()
    origins: Mapping[str, Layer] = field(default_factory=dict, repr=False)
    errors: tuple[str, ...] = ()

    def image_settings(self, name: str) -> ImageSettings:
        """The settings of one image folder: its own, then those for all images, then the defaults."""
        own = self.image.get(name, _DEFAULTS)
        general = {key: value for key, value in self._for_all.items() if f"image.{name}.{key}" not in self.origins}
        return replace(own, **general) if general else own

    @cached_property
    def _for_all(self) -> Mapping[str, Any]:
        """The settings for all images that differ from the defaults."""
        return {key: value for key in _FOR_ALL if (value := getattr(self, key)) != getattr(_DEFAULTS, key)}

    @property
    def all_builders(self) -> Mapping[str, BuilderSettings]:
        """The builders of images, by the name that messages use; empty if the engine builds."""
        addresses = (*([self.builder] if self.builder else ()), *self.builders)
        builders = {**{each: BuilderSettings(address=each) for each in addresses}, **self.pool}
        general = self.builder_certificates
        return {name: replace(each, certificates=each.certificates or general) for name, each in builders.items()}

    def of_target(self, name: str) -> Settings:
        """The settings for a target: those of the project with the target's places.

        :raises Refused: if there is no such target, or its place for artifacts is the project's own.
        """
        if name not in self.target:
            others = f", or name another one: {', '.join(self.target)}" if self.target else ""
            raise Refused(
                f"there is no target {name}",
                f"add [tool.buildtools.target.{name}] to pyproject.toml{others}",
            )
        target = self.target[name]
        own = ["channels", *(key for key in ("namespace", "artifacts") if getattr(target, key))]
        own += ("registry", "registry_plain_http", "registry_ca") if target.registry else ()
        own += ("s3_endpoint", "s3_checksums", "s3_conditional_writes") if target.s3_endpoint else ()
        settings = replace(self, **{key: getattr(target, key) for key in own})
        if self.artifacts and (settings.artifacts_url, settings.s3_endpoint) == (self.artifacts_url, self.s3_endpoint):
            raise Refused(
                f"{self.place(f'target.{name}')} has the same artifacts as the project itself",
                f"set artifacts under [tool.buildtools.target.{name}] to another place",
            )
        return settings

    def platforms_of(self, name: str) -> tuple[str, ...]:
        """The platforms that an image is built for; empty means the builder's own."""
        own = self.image_settings(name)
        for level in (own, self):
            if level.platforms or level.platform:
                return level.platforms or (level.platform,)
        return ()

    def place(self, key: str) -> str:
        """Where a key is set, and the key: ``pyproject.toml line 12: image.app.context``."""
        return f"{place_of(key, self.origins)}: {key}"

    @property
    def repository_prefix(self) -> str:
        """``registry/namespace``, the start of every image's repository.

        :raises Refused: if no registry is configured.
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

        :raises Refused: if none is configured.
        """
        if not self.artifacts:
            raise Refused(
                "artifacts is not configured",
                'set artifacts = "s3://BUCKET/PREFIX" under [tool.buildtools] in pyproject.toml, '
                "or INVOKE_BUILDTOOLS_ARTIFACTS",
            )
        return self.artifacts.rstrip("/")


KEYS = tuple(f.name for f in fields(Settings) if f.name not in ("root", "origins", "errors"))


def is_host(text: str) -> bool:
    """Whether this is ``HOST`` or ``HOST:PORT``, the name of a registry."""
    try:
        urlsplit(f"//{text}").port  # noqa: B018  raises for invalid ports and IPv6 addresses
    except ValueError:
        return False
    return HOST.fullmatch(text) is not None
