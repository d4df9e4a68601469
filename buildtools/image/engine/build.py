"""Build one image with BuildKit, an engine's or a separate daemon, without the docker CLI."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from buildtools import BuildToolsError, Cancelled, Unreachable
from buildtools.build_cache import BuildCache
from buildtools.events import Report, Transferred, Warned, timed
from buildtools.frozen import frozen
from buildtools.image.builder import BuildRequest
from buildtools.image.engine.buildkit.attachables import LoginSource
from buildtools.image.engine.buildkit.control import Export, Solve, SolveCancelled, solve
from buildtools.image.engine.buildkit.failure import BuildFailed, explained
from buildtools.image.engine.buildkit.filesync import refuse_undecodable_names
from buildtools.image.engine.buildkit.grpc import Gone, NotGrpc, Status
from buildtools.image.engine.buildkit.host import BuildkitHost
from buildtools.image.engine.buildkit.llb import offered_tree
from buildtools.image.engine.buildkit.progress import Progress
from buildtools.image.engine.buildkit.session import Session
from buildtools.image.engine.offer import SessionOffer, read_input
from buildtools.image.engine.sessions import Sessions
from buildtools.image.folder.instructions import is_docker_frontend, requested_frontend
from buildtools.settings import MediaTypes

if TYPE_CHECKING:
    from buildtools.image.engine.client import Engine

# The errors of an engine with containerd's store if builds collide at their end: two create one name, or one unpacks
# layers that another has; https://github.com/ddev/ddev/issues/8136. A retry then finds its steps cached.
# And that of a registry on a file system, which rewrites the link to a layer when two pushes to a repository bring the
# same one, such as those of two platforms; for that moment no manifest may name it. Older BuildKits say only "400".
_IN_THE_WAY = re.compile(
    r'image "[^"]+": already exists$|parent snapshot \S+ does not exist: not found$'
    r'|failed to push (?s:.*)blob unknown to registry|failed commit on ref "manifest-\S+": .* 400 Bad Request$'
)
# Each attempt waits for at most one other build, and only a few builds end at once.
_ATTEMPTS = 5


@frozen
class BuiltImage:
    """An image in the engine, under all of ``tags``."""

    name: str
    image_id: str
    tags: tuple[str, ...]


def build(
    engine: Engine,
    request: BuildRequest,
    *,
    credentials: LoginSource,
    environment: Mapping[str, str],
    report: Report,
    cancel: threading.Event,
    sessions: Sessions | None = None,
) -> BuiltImage:
    """Build an image and make sure that the engine has it. Several threads may build at once.

    ``environment`` is where ``env:`` secrets and ``SSH_AUTH_SOCK`` are looked up; ``sessions`` are those of builds at
    the same time, which may be offered the same.

    :raises BuildFailed: if it could not be built.
    :raises Cancelled: if ``cancel`` was set.
    :raises Refused: if the request names something that does not exist.
    :raises Unreachable: if the connection to the engine was lost.
    """

    work = partial(
        build_in_store,
        engine,
        request,
        credentials=credentials,
        environment=environment,
        report=report,
        cancel=cancel,
        sessions=sessions,
    )
    return timed(report, request.name, "build", work, lambda image: image.image_id)


def build_in_store(
    engine: Engine,
    request: BuildRequest,
    *,
    credentials: LoginSource,
    environment: Mapping[str, str],
    report: Report,
    cancel: threading.Event,
    sessions: Sessions | None = None,
) -> BuiltImage:
    """The same as :func:`build`, without reporting the start and the end."""
    attributes = {"name": ",".join(request.tags)} if request.tags else {}
    if not (request.attestations or request.cache_to):
        # A store that keeps content would compress the layers, slowly, and each engine in its own way. A push does that
        # better. But attestations and caches refer to the layers as they are.
        attributes["compression"] = "uncompressed"
    answer = run_build(
        engine,
        request,
        Export("moby", attributes),
        credentials=credentials,
        environment=environment,
        report=report,
        cancel=cancel,
        sessions=sessions,
    )
    return _confirmed_image(engine, request, answer)


def run_build(
    host: BuildkitHost,
    request: BuildRequest,
    export: Export,
    *,
    credentials: LoginSource,
    environment: Mapping[str, str],
    report: Report,
    cancel: threading.Event,
    sessions: Sessions | None = None,
) -> Mapping[str, str]:
    """Build an image with a given exporter; returns the exporter's response. See :func:`build` for the rest."""
    # Only a store with manifests uses this; its default depends on its age. Attestations only exist with OCI's media
    # types. An image with a cache is pushed as it is, and containerd knows layers with Zstandard only by OCI's name.
    oci = "true" if request.attestations or request.cache_to or request.media_types is MediaTypes.OCI else "false"
    export = Export(export.kind, {"oci-mediatypes": oci, **export.attributes})
    return _Build(host, request, export, credentials, environment, report, cancel, sessions or Sessions()).run()


class _Build:
    def __init__(
        self,
        host: BuildkitHost,
        request: BuildRequest,
        export: Export,
        credentials: LoginSource,
        environment: Mapping[str, str],
        report: Report,
        cancel: threading.Event,
        sessions: Sessions,
    ) -> None:
        self.host = host
        self.request = request
        self.export = export
        self.report = report
        self.cancel = cancel
        self.sessions = sessions
        content = request.content
        self.dockerfile = read_input(request.dockerfile, "the Dockerfile") if content is None else content
        self.text = self.dockerfile.decode("utf-8", "replace")
        self.offer = SessionOffer(request, credentials, environment)
        self.progress = Progress(request.name, str(request.dockerfile), report, hidden=self.offer.secrets.values())

    def run(self) -> Mapping[str, str]:
        attributes = self._attributes()
        try:
            return self._solve(attributes)
        except BuildFailed as error:
            syntax = requested_frontend(self.text)
            vertex = self.progress.failed()
            if not (vertex and vertex.name.startswith("resolve image config for") and is_docker_frontend(syntax)):
                raise
            self.report(
                Warned(
                    self.request.name,
                    f"# syntax={syntax} could not be pulled, so the engine's own Dockerfile frontend is used "
                    f"({error.reason})",
                )
            )
        # With "cmdline" set, BuildKit considers the frontend chosen, and ignores # syntax.
        return self._solve({**attributes, "cmdline": syntax})

    def _solve(self, attributes: Mapping[str, str], attempts: int = _ATTEMPTS) -> Mapping[str, str]:
        request = self.request
        self.progress.begin_again()
        try:
            with (
                self.sessions.join(self.host, self.offer) as (session, offer),
                offer.to(self._tell, self.dockerfile) as tree,
            ):
                message = Solve(
                    session.id,
                    {**attributes, **({"dockerfilekey": tree} if tree != "dockerfile" else {})},
                    self.export,
                    self._cache_exports(),
                    inputs={"context": offered_tree("context", session.id)} if request.selection else {},
                )
                try:
                    answer = solve(
                        self.host,
                        message,
                        heard=self.progress.hear,
                        cancel=self.cancel,
                        silence=offer.heartbeat.silence,
                    )
                    self._name_caches()
                    return answer
                except Status as error:
                    if attempts == 1 or not _IN_THE_WAY.search(error.message):
                        raise self._failure(error, session) from None
        except SolveCancelled:
            raise Cancelled(f"{request.name}: the build was cancelled") from None
        except NotGrpc:
            raise self.host.without_buildkit() from None
        except Gone as error:
            raise Unreachable(
                f"{self.host.title} went away while {request.name} was built ({error})",
                "look at its log, then run the same command again",
            ) from None
        return self._solve(attributes, attempts - 1)

    def _name_caches(self) -> None:
        try:
            self.offer.cache_folders.finish()
        except OSError as error:
            raise BuildToolsError(
                f"the cache of {self.request.name} cannot be written to {error.filename} ({error.strerror})",
                "correct it and run again",
            ) from None

    def _failure(self, error: Status, session: Session) -> Exception:
        name, dockerfile = self.request.name, self.request.dockerfile
        ours = session.failure or self._undecodable_name(error)
        if isinstance(ours, BuildToolsError):
            return BuildFailed(name, dockerfile, ours.fact, ours.remedy, exit_code=ours.exit_code)
        if isinstance(ours, (OSError, ValueError)):
            # For example, the SSH agent has ended, or a request of the engine is malformed.
            return BuildFailed(name, dockerfile, f"{error.message} ({ours})")
        return ours or explained(name, dockerfile, self.text, error, self.progress.failed())

    def _undecodable_name(self, error: Status) -> BuildToolsError | None:
        """Which of the names that it was sent the engine cannot read; its own error does not say."""
        if "invalid UTF-8" in error.message:
            try:
                refuse_undecodable_names(self.request.context, self.request.selection)
            except BuildToolsError as named:
                return named
        return None

    def _attributes(self) -> dict[str, str]:
        """The frontend's options; https://docs.docker.com/reference/api/engine/ describes each."""
        request = self.request
        attributes = {"filename": "Dockerfile", "image-resolve-mode": "pull" if request.pull else "default"}
        attributes |= {f"build-arg:{name}": value for name, value in request.args.items()}
        attributes |= {f"label:{name}": value for name, value in request.labels.items()}
        if request.target:
            attributes["target"] = request.target
        if request.platform:
            attributes["platform"] = request.platform
        if request.no_cache:
            attributes["no-cache"] = ""
        if imports := self.offer.cache_folders.imports:
            # The keys have capitals, because they are the fields of the solver's Go type.
            documents = [{"Type": cache.kind, "Attrs": dict(cache.attributes)} for cache in imports]
            attributes["cache-imports"] = json.dumps(documents)
        attributes |= {f"attest:{kind}": value for kind, value in request.attestations.items()}
        return attributes

    def _cache_exports(self) -> list[BuildCache]:
        request = self.request
        inline = [BuildCache("inline")] if request.args.get("BUILDKIT_INLINE_CACHE") == "1" else []
        return [*request.cache_to, *(cache for cache in inline if cache not in request.cache_to)]

    def _tell(self, sent: int, total: int) -> None:
        self.report(Transferred(self.request.name, sent, total))


def _confirmed_image(engine: Engine, request: BuildRequest, answer: Mapping[str, str]) -> BuiltImage:
    """The image, which a store other than containerd's is asked for under every name.

    :raises BuildFailed: if the engine does not have it.
    """
    digest = answer.get("containerimage.digest", "")
    if digest and engine.containerd_store:
        # Its exporter creates the names. To look at an image costs as much as the last step of a small build.
        return BuiltImage(request.name, digest, request.tags)
    image = engine.inspect(digest) if digest else None
    if image is None:
        raise BuildFailed(
            request.name,
            request.dockerfile,
            f"the engine says that it has built {digest or 'an image'}, but has no such image",
            "run the same command again",
        )
    image_id = str(image["Id"])
    for tag in request.tags:
        if tag not in (image.get("RepoTags") or ()):
            engine.tag(image_id, tag)
    return BuiltImage(request.name, image_id, request.tags)
