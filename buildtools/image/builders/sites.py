"""Builders that push into a registry: what is at an address, and how to use it.

====================================  ==================================================================================
address                               what is there
====================================  ==================================================================================
``unix:///PATH``, ``tcp://HOST:PORT``  a BuildKit daemon or a Docker engine, whichever answers
``docker-container://NAME``           a BuildKit daemon in a container of the engine that Docker's variables choose
``docker-context://NAME``             the engine of one of Docker's contexts
====================================  ==================================================================================

An engine with containerd's image store builds and pushes like a daemon. BuildKit in an engine with the classic store
has no exporter that pushes, so we upload what it has built.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from buildtools import Refused, Unreachable
from buildtools.events import Report, Warned
from buildtools.image.builder import BuildRequest
from buildtools.image.docker.configuration import chosen_engine
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.build import run_build
from buildtools.image.engine.buildkit.control import Export
from buildtools.image.engine.buildkit.daemon import Daemon, platforms_of
from buildtools.image.engine.buildkit.failure import BuildFailed
from buildtools.image.engine.buildkit.host import BuildkitHost
from buildtools.image.engine.client import Engine, UnusableEngine
from buildtools.image.engine.sessions import Sessions
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import is_digest
from buildtools.platform import Platform
from buildtools.settings import BuilderSettings

_CONTEXT = "docker-context://"
# The error of BuildKit in an engine with the classic store for a build that is to be pushed.
_NO_EXPORTER = 'exporter "image" could not be found'


class BuildSite:
    """A daemon or an engine at an address, connected on first use; it may be shared between threads.

    ``environment`` has the variables for secrets and the SSH agent, and chooses the engine that containers are in.
    """

    def __init__(
        self,
        settings: BuilderSettings,
        certificates: Path | None,
        credentials: Credentials,
        environment: Mapping[str, str],
        *,
        registry: Callable[[], Registry],
        cache: Cache,
        plain_http: bool = False,
    ) -> None:
        self.address = settings.address
        self.jobs = settings.jobs
        self._own_platforms = tuple(map(Platform.parse, settings.platforms))
        self._certificates = certificates
        self._credentials = credentials
        self._environment = environment
        self._registry = registry
        self._cache = cache
        self._plain_http = plain_http
        self._lock = threading.Lock()
        self._sessions = Sessions()
        self._engines: list[Engine] = []

    def close(self) -> None:
        """Close every connection."""
        for engine in self._engines:
            engine.close()

    @property
    def host(self) -> BuildkitHost:
        """The engine or daemon at the address.

        :raises Unreachable: if there is no answer.
        :raises Refused: if the address is invalid, or what answers is not BuildKit.
        """
        with self._lock:
            return self._host

    @cached_property
    def _host(self) -> BuildkitHost:
        if self.address.startswith(_CONTEXT):
            name = self.address.removeprefix(_CONTEXT)
            # The certificates of DOCKER_HOST are not for a context.
            kept = {
                key: value for key, value in self._environment.items() if key == "DOCKER_CONFIG" or key[:7] != "DOCKER_"
            }
            try:
                return self._engine({**kept, "DOCKER_CONTEXT": name})
            except Refused as error:
                remedy = f"see `docker context ls`, and correct the builder {self.address}"
                raise Refused(error.fact, remedy) from None
        if self.address.startswith("ssh:"):
            return self._engine(self._engine_variables())
        daemon = Daemon.at(self.address, self._certificates, lambda: self._engine_of_containers)
        try:
            daemon.platforms  # noqa: B018  asked now, to fail at once if it does not answer
        except Refused as error:
            if self.address.startswith("docker-container:"):
                raise
            try:
                return self._engine(self._engine_variables())
            except (Unreachable, UnusableEngine):
                raise error from None
        # Engines since 29.2 answer like a daemon, and are used like one as long as they can push.
        return daemon

    def _engine_variables(self) -> dict[str, str]:
        variables = {key: value for key, value in self._environment.items() if not key.startswith("DOCKER_")}
        if self._certificates:
            variables |= {"DOCKER_CERT_PATH": str(self._certificates), "DOCKER_TLS_VERIFY": "1"}
        return {**variables, "DOCKER_HOST": self.address}

    @cached_property
    def _engine_of_containers(self) -> Engine:
        return self._engine(self._environment)

    def _engine(self, variables: Mapping[str, str]) -> Engine:
        engine = Engine.connect(chosen_engine(variables))
        self._engines.append(engine)
        return engine

    @cached_property
    def platforms(self) -> tuple[Platform, ...]:
        """See the protocol. The configured ones need no answer."""
        if self._own_platforms:
            return self._own_platforms
        host = self.host
        return host.platforms if isinstance(host, Daemon) else platforms_of(host)

    @property
    def keeps_content(self) -> bool:
        """See the protocol. Every builder can that pushes by itself."""
        return not isinstance(self.host, Engine) or self.host.containerd_store

    def _without(self, platform: str) -> str:
        architecture = platform.split("/")[1]
        return (
            f"{self.host.title} says that it can run programs of {', '.join(map(str, self.platforms))}, not of "
            f"{platform}: add a builder of that platform to builders, or let it emulate one "
            f"(docker run --privileged --rm tonistiigi/binfmt --install {architecture}, then restart it)"
        )

    def push_build(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        """Build an image and push it into the request's repository, without a tag; returns its digest.

        :raises BuildFailed: if it could not be built or pushed.
        :raises Cancelled: if ``cancelled`` was set.
        :raises Refused: if the request names something that does not exist.
        :raises Unreachable: if there is no answer, or the connection was lost.
        """
        try:
            if self.keeps_content:
                return self._push_itself(request, report, cancelled)
        except BuildFailed as error:
            platform = request.platform or request.native
            if error.is_of_another_platform and platform not in map(str, self.platforms):
                report(Warned(request.name, self._without(platform)))
            if _NO_EXPORTER not in error.reason:
                raise
            with self._lock:
                self.__dict__["_host"] = self._engine(self._engine_variables())
        engine = self.host
        assert isinstance(engine, Engine)
        from buildtools.image.builders.store_push import push_from_store

        return push_from_store(
            engine,
            self._registry(),
            self._cache,
            request,
            credentials=self._credentials,
            environment=self._environment,
            report=report,
            cancelled=cancelled,
        )

    def _push_itself(self, request: BuildRequest, report: Report, cancelled: threading.Event) -> str:
        export = Export(
            "image",
            {
                "name": request.repository,
                "push": "true",
                "push-by-digest": "true",
                "name-canonical": "true",
                # An engine would keep it in its store, where nobody needs it.
                "store": "false",
                **({"registry.insecure": "true"} if self._plain_http else {}),
            },
        )
        answer = run_build(
            self.host,
            request,
            export,
            credentials=self._credentials,
            environment=self._environment,
            report=report,
            cancel=cancelled,
            sessions=self._sessions,
        )
        digest = answer.get("containerimage.digest", "")
        if not is_digest(digest):
            raise BuildFailed(request.name, request.dockerfile, f"{self.host.title} does not say what it has pushed")
        return digest
