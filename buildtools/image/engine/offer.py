"""What a session offers for builds: files, secrets, an SSH agent, credentials, caches."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from buildtools import Refused
from buildtools.image.builder import BuildRequest
from buildtools.image.engine.buildkit import attachables
from buildtools.image.engine.buildkit.cache_folders import CacheFolders
from buildtools.image.engine.buildkit.filesync import Tree, diff_copy, files, folder
from buildtools.image.engine.buildkit.grpc import Handler
from buildtools.image.engine.buildkit.host import BuildkitHost
from buildtools.image.engine.buildkit.session import Session, open_session

# BuildKit's own limit, https://github.com/moby/buildkit/blob/master/session/secrets/secrets.go
_LARGEST_SECRET = 500 * 1024

# Called with the bytes of the context that were sent, and the total.
Listener = Callable[[int, int], object]


class SessionOffer:
    """Everything that the engine may ask for in one session. ``secrets`` are the values to mask in output."""

    def __init__(
        self,
        request: BuildRequest,
        credentials: attachables.LoginSource,
        environment: Mapping[str, str],
    ) -> None:
        if not request.context.is_dir():
            raise Refused(f"{request.name}: the context {request.context} is not a folder", "correct its context")
        self.secrets = {key: read_secret(key, value, environment) for key, value in request.secrets.items()}
        self.heartbeat = attachables.Heartbeat()
        self.cache_folders = CacheFolders(request.cache_from, request.cache_to)
        self._request = request
        self._credentials = credentials
        self._agent = ssh_agent(request.name, environment) if request.ssh else ""
        self._trees: dict[str, Tree] = {}
        self._dockerfiles: dict[bytes, str] = {}
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []

    @property
    def key(self) -> Hashable:
        """Equal for builds with the same offer, apart from their Dockerfiles; None if it is for one build only.

        A frontend that chooses for itself may use another part of the context for each platform, and a cache folder
        belongs to one build.
        """
        request = self._request
        if request.selection is None or self.cache_folders.handlers():
            return None
        secrets = tuple(sorted(request.secrets.items()))
        return _shared_key(request), tuple(request.selection.follow), secrets, request.ssh

    @contextmanager
    def begin(self, host: BuildkitHost) -> Iterator[Session]:
        """Open a session with this offer."""
        self.heartbeat.begin()
        self._trees = {"context": folder(self._request.context, self._request.selection)}
        self._dockerfiles = {}
        with open_session(host, self._handlers(), shared_key=_shared_key(self._request)) as session:
            yield session

    @contextmanager
    def to(self, listener: Listener, dockerfile: bytes) -> Iterator[str]:
        """Offer a Dockerfile too, and tell ``listener`` what is sent; yields the name of the Dockerfile's tree."""
        with self._lock:
            if dockerfile not in self._dockerfiles:
                # The first has the name that a frontend expects.
                name = f"dockerfile{len(self._dockerfiles) or ''}"
                self._trees[name] = self._files_with(dockerfile)
                self._dockerfiles[dockerfile] = name
            self._listeners.append(listener)
        try:
            yield self._dockerfiles[dockerfile]
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def _files_with(self, dockerfile: bytes) -> Tree:
        # The names are ours: the Dockerfile may be anywhere and have any name.
        virtual = {"Dockerfile": dockerfile}
        path = self._request.dockerfile
        beside = path.with_name(f"{path.name}.dockerignore")
        if beside.exists():
            virtual["Dockerfile.dockerignore"] = read_input(beside, "the ignore file")
        return files(virtual)

    def _handlers(self) -> dict[str, Handler]:
        handlers = {
            "/moby.filesync.v1.FileSync/DiffCopy": diff_copy(self._trees, self._tell),
            **self.heartbeat.handlers(),
            **attachables.auth(self._credentials),
            **self.cache_folders.handlers(),
        }
        if self.secrets:
            handlers |= attachables.secrets(self.secrets)
        if self._agent:
            handlers |= attachables.ssh(self._agent)
        return handlers

    def _tell(self, tree: str, sent: int, total: int) -> None:
        # Builds that have left get no more reports.
        with self._lock:
            for listener in self._listeners if tree == "context" else ():
                listener(sent, total)


def read_input(path: Path, what: str) -> bytes:
    """The bytes of a file that a build needs.

    :raises Refused: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"{what} {path} cannot be read ({error.strerror})", "make it readable") from None


def read_secret(key: str, source: str, environment: Mapping[str, str]) -> bytes:
    """The value of a secret from ``env:NAME`` or from a file.

    :raises Refused: if it does not exist, or is too large.
    """
    if source.startswith("env:"):
        variable = source.removeprefix("env:")
        if variable not in environment:
            raise Refused(f"the secret {key} comes from the variable {variable}, which is not set", "set it")
        value = os.fsencode(environment[variable])
    else:
        value = read_input(Path(source), f"the secret {key} in")
    if len(value) > _LARGEST_SECRET:
        raise Refused(f"the secret {key} has {len(value)} bytes", f"BuildKit takes at most {_LARGEST_SECRET}")
    return value


def ssh_agent(name: str, environment: Mapping[str, str]) -> str:
    """The socket of the SSH agent for a build of the image ``name``.

    :raises Refused: if there is none, or it does not answer.
    """
    agent = environment.get("SSH_AUTH_SOCK", "")
    if not agent:
        raise Refused(f"{name} wants an SSH agent, but SSH_AUTH_SOCK is not set", "start one: eval $(ssh-agent)")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(agent)
    except OSError as error:
        fact = f"{name} wants an SSH agent, but none answers at SSH_AUTH_SOCK={agent} ({error.strerror or error})"
        raise Refused(fact, "start one: eval $(ssh-agent)") from None
    return agent


def _shared_key(request: BuildRequest) -> str:
    # The engine keeps one copy of a tree for each key and compares with that. The Dockerfile is part of the key,
    # because images that share a context choose different parts of it, and may be built at the same time.
    parts = (
        socket.gethostname(),
        str(os.getuid()),
        str(request.context.resolve()),
        str(request.dockerfile.resolve()),
        request.directories,
    )
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
