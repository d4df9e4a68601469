"""The outside world of one run: engine, registry and store, each connected at its first use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from buildtools import Unreachable
from buildtools.cancellation import Cancellation
from buildtools.settings import Settings

if TYPE_CHECKING:
    from buildtools.archive.store import ArtifactStore
    from buildtools.image.builder import Builder
    from buildtools.image.docker.credentials import Credentials
    from buildtools.image.engine.client import Engine
    from buildtools.image.registry.client import Registry


class Services:
    """Connects what settings and environment name. To be closed."""

    def __init__(self, settings: Settings, environment: Mapping[str, str], cancelled: Cancellation) -> None:
        self._settings = settings
        self._cancelled = cancelled
        self._environment = environment
        self._open = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._registries: dict[str, Registry] = {}

    def close(self) -> None:
        """Close every connection."""
        self._open.close()

    @cached_property
    def credentials(self) -> Credentials:
        """What Docker's configuration holds for registries; ``DOCKER_CONFIG`` names its folder."""
        from buildtools.image.docker.configuration import configuration_folder
        from buildtools.image.docker.credentials import Credentials

        return Credentials(configuration_folder(self._environment), self._environment)

    @cached_property
    def engine(self) -> Engine:
        """The engine, which may be chosen by variables or with ``docker context use``.

        :raises Unreachable: none answers.
        :raises Refused: this user may not use it, or the choice makes no sense.
        """
        from buildtools.image.docker.configuration import chosen_engine
        from buildtools.image.engine.client import Engine

        return self._open.enter_context(contextlib.closing(Engine.connect(chosen_engine(self._environment))))

    @cached_property
    def builder(self) -> Builder:
        """What builds images: the engine."""
        from buildtools.image.engine.engine_builder import EngineBuilder

        return EngineBuilder(self.engine, self.credentials, self._environment)

    @cached_property
    def build_proxies(self) -> Mapping[str, str]:
        """The build arguments that tell commands in a build of proxies, whether or not the engine answers."""
        from buildtools.image.docker.configuration import chosen_engine, proxy_arguments
        from buildtools.image.engine.client import address_of

        return proxy_arguments(self._environment, address_of(chosen_engine(self._environment)))

    def engine_if_any(self) -> Engine | None:
        """The engine, or None where none can be used: what the registry has needs none."""
        from buildtools.image.engine.client import UnusableEngine

        try:
            return self.engine
        except (Unreachable, UnusableEngine):
            return None

    def engine_if_installed(self) -> Engine | None:
        """The engine, or None where its socket does not exist: this machine has none.

        :raises Unreachable: there is one, and it does not answer.
        :raises Refused: this user may not use it, or the choice makes no sense.
        """
        from buildtools.image.docker.configuration import chosen_engine
        from buildtools.image.engine.client import address_of

        scheme, _, path = address_of(chosen_engine(self._environment)).partition("://")
        return None if scheme == "unix" and not Path(path).exists() else self.engine

    @cached_property
    def registry(self) -> Registry:
        """The configured registry.

        :raises Refused: none is configured.
        """
        from buildtools.image.reference import Reference

        host = Reference.parse(f"{self._settings.repository_prefix}/name").registry
        return self.registry_at(host)

    def registry_at(self, host: str) -> Registry:
        """Any registry; the configured one's TLS settings are for that one alone."""
        from buildtools.image.registry.client import Registry

        ours = host == self._settings.registry
        with self._lock:
            if host not in self._registries:
                registry = Registry(
                    host,
                    self.credentials,
                    plain_http=ours and self._settings.registry_plain_http,
                    ca=self._settings.registry_ca if ours else "",
                    environment=self._environment,
                )
                self._registries[host] = self._open.enter_context(contextlib.closing(registry))
                # One that does not answer would otherwise be waited for.
                self._cancelled.stops(registry.abort)
            return self._registries[host]

    @cached_property
    def store(self) -> ArtifactStore:
        """The place for archives and manifests.

        :raises Refused: none is configured, or there are no credentials.
        """
        from buildtools.archive.object_store.s3_store import S3Store

        return S3Store.connect(
            self._settings.artifacts_url,
            endpoint=self._settings.s3_endpoint,
            environment=self._environment,
            checksums=self._settings.s3_checksums,
            conditional_writes=self._settings.s3_conditional_writes,
        )
