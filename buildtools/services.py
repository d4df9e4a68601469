"""The services that a run uses: engine, registry and store, each connected on first use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildtools import Failures, Refused, Unreachable, check_at, failures_of
from buildtools.cancellation import Cancellation
from buildtools.settings import SIGNING_PASSWORD, BuilderSettings, Settings

if TYPE_CHECKING:
    from buildtools.archive.object_store.s3_store import S3Store
    from buildtools.archive.store import ArtifactStore
    from buildtools.crypto.keys import PublicKeys, SigningKey
    from buildtools.image.builder import Builder
    from buildtools.image.builders.pool import BuilderPool
    from buildtools.image.builders.sites import BuildSite
    from buildtools.image.docker.credentials import Credentials
    from buildtools.image.engine.client import Engine
    from buildtools.image.registry.client import Registry
    from buildtools.platform import Platform


class Services:
    """Connects to what the settings and the environment name. Must be closed. ``cache`` is the user's cache folder."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        cancelled: Cancellation,
        cache: Path = Path("/nonexistent"),
    ) -> None:
        self._settings = settings
        self._cancelled = cancelled
        self._environment = environment
        self._cache = cache
        self._open = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._registries: dict[tuple[str, bool, str], Registry] = {}
        # One of each service that has several; its own lock, because connecting to it is slow.
        self._stores: dict[tuple[str, bool], S3Store] = {}
        self._store_lock = threading.Lock()
        self._pool: BuilderPool | None = None

    def close(self) -> None:
        """Close every connection."""
        self._open.close()

    def elsewhere(self, settings: Settings) -> Services:
        """The services that other settings name. A registry or an S3 service that both name is connected once."""
        services = Services(settings, self._environment, self._cancelled, self._cache)
        services._registries, services._lock = self._registries, self._lock
        services._stores, services._store_lock = self._stores, self._store_lock
        return services

    @cached_property
    def credentials(self) -> Credentials:
        """The credentials in Docker's configuration; ``DOCKER_CONFIG`` names its folder."""
        from buildtools.image.docker.configuration import configuration_folder
        from buildtools.image.docker.credentials import Credentials

        return Credentials(configuration_folder(self._environment), self._environment)

    @cached_property
    def engine(self) -> Engine:
        """The engine, chosen by variables or with ``docker context use``.

        :raises Unreachable: if it does not answer.
        :raises Refused: if this user may not use it, or the choice is invalid.
        """
        from buildtools.image.docker.configuration import chosen_engine
        from buildtools.image.engine.client import Engine

        return self._open.enter_context(contextlib.closing(Engine.connect(chosen_engine(self._environment))))

    @cached_property
    def builder(self) -> Builder:
        """The builder with the engine."""
        from buildtools.image.engine.engine_builder import EngineBuilder

        return EngineBuilder(self.engine, self.credentials, self._environment)

    @cached_property
    def sites(self) -> Mapping[str, BuildSite]:
        """The builders that push what they build, by the name that messages use; none if the engine builds.

        Each is connected on first use. Without builders in the settings, ``BUILDKIT_HOST`` names one.

        :raises Refused: if ``BUILDKIT_HOST`` is invalid, or certificates are missing or cannot be used.
        """
        if not self.builder_settings:
            return {}
        if errors := failures_of(self.builder_checks()):
            fact = f"builders cannot be used ({len(errors)} errors)"
            raise Failures(errors).combined(fact, "fix the errors above and run again")
        from buildtools.image.builders.sites import BuildSite
        from buildtools.image.registry.cache import Cache

        def site(builder: BuilderSettings) -> BuildSite:
            made = BuildSite(
                builder,
                self._settings.root / builder.certificates if builder.certificates else None,
                self.credentials,
                self._environment,
                registry=lambda: self.registry,
                cache=Cache(self._cache),
                plain_http=self._settings.registry_plain_http,
            )
            return self._open.enter_context(contextlib.closing(made))

        return {name: site(builder) for name, builder in self.builder_settings.items()}

    @cached_property
    def builder_settings(self) -> Mapping[str, BuilderSettings]:
        """The settings of the builders that push what they build, by the name that messages use."""
        builders = self._settings.all_builders
        if not builders and (address := self._environment.get("BUILDKIT_HOST", "")):
            return {address: BuilderSettings(address, certificates=self._settings.builder_certificates)}
        return builders

    def builder_checks(self) -> Iterator[Callable[[], object]]:
        """Checks that raise :class:`Refused` for an invalid ``BUILDKIT_HOST``, and for unusable certificates."""
        from buildtools.image.http.dialing import Certificates

        settings = self._settings
        if not settings.all_builders:
            yield from (partial(_check_address, address) for address in self.builder_settings)
        for name, builder in self.builder_settings.items():
            if builder.certificates and builder.address.startswith("tcp:"):
                key = f"pool.{name}.certificates"
                place = settings.place(key if key in settings.origins else "builder_certificates")
                yield partial(check_at, place, partial(Certificates.read, settings.root / builder.certificates))

    def pool(self, jobs: int) -> BuilderPool:
        """All sites as one builder; a site without a number of its own takes ``jobs`` builds at once."""
        from buildtools.image.builders.pool import BuilderPool

        with self._lock:
            if self._pool is None:
                self._pool = BuilderPool(self.sites, {name: site.jobs or jobs for name, site in self.sites.items()})
            return self._pool

    @cached_property
    def build_platform(self) -> Platform | None:
        """The platform of images that have none configured: that of the first builder, or of the engine.

        None if that one cannot be used. Never that of another one: a version must not depend on which builders answer.
        """
        if not self.sites:
            engine = self.engine_if_any()
            return engine.platform if engine else None
        from buildtools.image.engine.client import UnusableEngine

        with contextlib.suppress(Unreachable, UnusableEngine):
            return next(iter(next(iter(self.sites.values())).platforms), None)
        return None

    @cached_property
    def build_proxies(self) -> Mapping[str, str]:
        """The build arguments that configure proxies for commands in a build, whether or not the engine answers."""
        from buildtools.image.docker.configuration import chosen_engine, proxy_arguments
        from buildtools.image.engine.engine_address import address_of

        return proxy_arguments(self._environment, address_of(chosen_engine(self._environment)))

    def engine_if_any(self) -> Engine | None:
        """The engine, or None if it cannot be used, since images in the registry do not need it. It is tried once."""
        return self._usable_engine

    @cached_property
    def _usable_engine(self) -> Engine | None:
        from buildtools.image.engine.client import UnusableEngine

        try:
            return self.engine
        except (Unreachable, UnusableEngine):
            return None

    def engine_if_installed(self) -> Engine | None:
        """The engine, or None if its socket does not exist: this machine has none.

        :raises Unreachable: if there is one and it does not answer.
        :raises Refused: if this user may not use it, or the choice is invalid.
        """
        from buildtools.image.docker.configuration import chosen_engine
        from buildtools.image.engine.engine_address import address_of

        scheme, _, path = address_of(chosen_engine(self._environment)).partition("://")
        return None if scheme == "unix" and not Path(path).exists() else self.engine

    @cached_property
    def registry(self) -> Registry:
        """The configured registry.

        :raises Refused: if none is configured.
        """
        from buildtools.image.reference import Reference

        host = Reference.parse(f"{self._settings.repository_prefix}/name").registry
        return self.registry_at(host)

    def registry_at(self, host: str) -> Registry:
        """A client for any registry; the configured TLS settings apply only to the configured one."""
        from buildtools.image.registry.client import Registry

        ours = host == self._settings.registry
        plain_http = ours and self._settings.registry_plain_http
        ca = str(self._settings.root / self._settings.registry_ca) if ours and self._settings.registry_ca else ""
        with self._lock:
            if (host, plain_http, ca) not in self._registries:
                registry = Registry(host, self.credentials, plain_http=plain_http, ca=ca, environment=self._environment)
                self._registries[host, plain_http, ca] = self._open.enter_context(contextlib.closing(registry))
                # Otherwise a cancelled run would wait for a registry that does not answer.
                self._cancelled.stops(registry.abort)
            return self._registries[host, plain_http, ca]

    @cached_property
    def signing_key(self) -> SigningKey | None:
        """The key that signs releases; None if none is configured.

        :raises Refused: if it cannot be read, or not with the password in ``COSIGN_PASSWORD``.
        """
        from buildtools.crypto.keys import SigningKey, read_pem

        source, where = self._settings.sign.get("key", ""), self._settings.place("sign.key")
        if not source:
            return None
        pem = read_pem(source, self._settings.root, self._environment, where)
        return SigningKey.read(pem, where, self._environment.get(SIGNING_PASSWORD))

    @cached_property
    def verify_keys(self) -> PublicKeys | None:
        """The keys of which one must have signed a release; None if none are configured.

        :raises Refused: if they cannot be read.
        """
        from buildtools.crypto.keys import PublicKeys, read_pem

        source, where = self._settings.verify_key, self._settings.place("verify_key")
        if not source:
            return None
        return PublicKeys.read(read_pem(source, self._settings.root, self._environment, where), where)

    @cached_property
    def store(self) -> ArtifactStore:
        """The store for archives and manifests.

        :raises Refused: if none is configured, or there are no credentials.
        """
        from buildtools.archive.object_store.s3_store import S3Store

        settings = self._settings
        service = settings.s3_endpoint, settings.s3_checksums
        with self._store_lock:
            if service in self._stores:
                return self._stores[service].elsewhere(
                    settings.artifacts_url, conditional_writes=settings.s3_conditional_writes
                )
            self._stores[service] = S3Store.connect(
                settings.artifacts_url,
                endpoint=settings.s3_endpoint,
                environment=self._environment,
                checksums=settings.s3_checksums,
                conditional_writes=settings.s3_conditional_writes,
            )
            return self._stores[service]


def _check_address(address: str) -> None:
    from buildtools.settings_reader import builder_address_error

    if error := builder_address_error(address):
        raise Refused(f"BUILDKIT_HOST {error}", "correct it")
