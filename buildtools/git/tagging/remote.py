"""A remote as git would push to it: a folder, ssh or http(s). https://git-scm.com/docs/gitprotocol-pack

dulwich speaks the protocol. The programs at the other end of a pipe are git's own (``ssh``, and ``git receive-pack``
for a folder, so that its hooks run).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.events import Log, Report
from buildtools.frozen import frozen
from buildtools.git.checkout import without_login
from buildtools.git.config import Config
from buildtools.git.repository import Repository
from buildtools.git.tagging.credential_helper import Credentials, Login

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dulwich.client import GitClient
    from dulwich.objects import ObjectID, ShaFile
    from dulwich.pack import UnpackedObject
    from dulwich.refs import Ref

_SCP = re.compile(r"(?P<host>\[[^]/]+\]|[^:/\[][^:/]*):(?P<path>.*)", re.DOTALL)
_STATUS = re.compile(r"unexpected http resp (\d+)")
# What no retry will change; anything else that a connection fails with may be an outage.
_HOPELESS = ("Permission denied", "Host key verification failed", "certificate verify failed")
_TAIL = 20
# As `git rev-parse --local-env-vars` has them.
_OF_ONE_REPOSITORY = re.compile(
    "GIT_(?:(?:ALTERNATE_)?OBJECT_DIRECTOR(?:Y|IES)|CONFIG(?:_PARAMETERS|_COUNT)?|DIR|(?:IMPLICIT_)?WORK_TREE"
    "|GRAFT_FILE|INDEX_FILE|NO_REPLACE_OBJECTS|REPLACE_REF_BASE|PREFIX|SHALLOW_FILE|COMMON_DIR)"
)

Refs = Mapping[bytes, bytes]
Decide = Callable[[Refs], "Offer | None"]


@frozen
class Offer:
    """One object to send, and the ref that is to be made for it."""

    ref: Ref
    object: ShaFile


class Rejected(Refused):
    """The remote took the connection but not the ref; what its hooks said was reported."""


class Remote:
    """One configured remote. ``url`` is what is shown: without user name and password.

    :raises Refused: it is not configured, or in a way that cannot be pushed to.
    """

    def __init__(self, repository: Repository, name: str, report: Report) -> None:
        self.name = name
        self._repository = repository
        self._report = report
        url = _push_url(repository.config, name)
        self.url = without_login(url)
        self._open = self._opener(url)

    def push(self, decide: Decide) -> bool:
        """Show ``decide`` the remote's refs (id as hexadecimal by name) and send what it offers, if anything.

        Returns whether something was sent. What ``decide`` raises comes through. It may be asked twice: without and
        with a login.

        :raises Rejected: the remote did not make the ref.
        :raises Refused: there is no repository, or no access to it.
        :raises Unreachable: no connection, or it broke.
        """
        return self._open(decide)

    def _opener(self, url: str) -> Callable[[Decide], bool]:
        if "://" in url:
            try:
                parts, port = urlsplit(url), urlsplit(url).port
            except ValueError:
                raise self._no_place() from None
            if parts.scheme in ("http", "https"):
                return lambda decide: self._over_http(parts, decide)
            if parts.scheme in ("ssh", "git+ssh", "ssh+git"):
                path = unquote(parts.path)
                path = path[1:] if path.startswith("/~") else path
                user = f"{unquote(parts.username)}@" if parts.username else ""
                return lambda decide: self._over_ssh(user + (parts.hostname or ""), port, path, decide)
            if parts.scheme == "file":
                return lambda decide: self._over_pipe(unquote(parts.path), decide)
        elif "::" not in url:
            found = _SCP.fullmatch(url)
            if found:
                return lambda decide: self._over_ssh(found["host"].strip("[]"), None, found["path"], decide)
            place = os.path.join(self._repository.work_tree or self._repository.git_dir, url)
            return lambda decide: self._over_pipe(place, decide)
        raise self._no_place()

    def _over_pipe(self, path: str, decide: Decide) -> bool:
        return self._through(["git", "receive-pack", path], _without_repository(self._repository.environment), decide)

    def _over_ssh(self, host: str, port: int | None, path: str, decide: Decide) -> bool:
        if host.startswith("-") or path.startswith("-") or not host:
            raise self._no_place()
        environment = self._repository.environment
        command = environment.get("GIT_SSH_COMMAND") or self._repository.config.get("core.sshcommand")
        program = ["sh", "-c", f'{command} "$@"', command] if command else [environment.get("GIT_SSH") or "ssh"]
        quoted = path.replace("'", "'\\''")
        where = ["-p", str(port), host] if port else [host]
        return self._through([*program, *where, f"git-receive-pack '{quoted}'"], environment, decide)

    def _through(self, arguments: list[str], environment: Mapping[str, str], decide: Decide) -> bool:
        from dulwich.client import SSHGitClient

        from buildtools.git.tagging.pipe import Pipe

        pipe = Pipe(arguments, environment)
        try:
            return self._exchange(SSHGitClient(self.name, vendor=pipe), decide)  # type: ignore[arg-type]  # it has all that is called
        except _Broken as broken:
            said = pipe.said()
            details = [f"  | {line}" for line in said[-_TAIL:]]
            if pipe.missing:
                raise Refused(f"{arguments[0]} is not installed, and {self.url} needs it", "install it") from None
            # ssh ends with 255 where it is ssh that failed, and not the program at the other end.
            if broken.connected or (pipe.status == 255 and not _is_hopeless(" ".join(said))):
                raise self._unreachable(broken, details) from None
            raise self._no_access(details) from None

    def _over_http(self, parts: SplitResult, decide: Decide) -> bool:
        from dulwich.client import HTTPUnauthorized

        from buildtools.git.tagging.httpclient import http_client

        config, environment = self._repository.config, self._repository.environment
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

        def attempt(login: Login | None) -> bool:
            try:
                with http_client(bare, login, config, environment) as client:
                    return self._exchange(client, decide)
            except (NotImplementedError, ValueError) as error:
                # A setting of http.* that dulwich does not know what to do with.
                raise _Broken(str(error), connected=False, refused=True) from error

        credentials = Credentials(config, environment, parts)
        try:
            try:
                return attempt(credentials.known())
            except HTTPUnauthorized:
                login = credentials.asked()
                if login is None:
                    raise
            try:
                sent = attempt(login)
            except HTTPUnauthorized:
                credentials.tell("erase", login)
                raise
            credentials.tell("store", login)
            return sent
        except HTTPUnauthorized:
            raise Refused(
                f"{self.url} does not accept the login, or there is none",
                "configure a git credential helper (credential.helper), ~/.netrc or GIT_ASKPASS",
            ) from None
        except _Broken as broken:
            status = _STATUS.search(str(broken))
            refused = status is not None and int(status[1]) < 500 and int(status[1]) != 429
            if broken.refused or refused or _is_hopeless(str(broken)):
                raise self._no_access([f"  | {broken}"]) from None
            raise self._unreachable(broken, [f"  | {broken}"]) from None

    def _exchange(self, client: GitClient, decide: Decide) -> bool:
        from dulwich.client import HTTPProxyUnauthorized, HTTPUnauthorized
        from dulwich.errors import GitProtocolError, NotGitRepository, SendPackError
        from dulwich.pack import pack_objects_to_data

        offers: list[Offer] = []
        connected = False

        def update(refs: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
            nonlocal connected
            connected = True
            offers.extend(offer for offer in [decide(dict[bytes, bytes](refs.items()))] if offer)
            return {offer.ref: offer.object.id for offer in offers}

        def pack(*_: object, **__: object) -> tuple[int, Iterator[UnpackedObject]]:
            return pack_objects_to_data([offer.object for offer in offers])

        try:
            result = client.send_pack(b"", update, pack, progress=self._listen)
        except SendPackError as error:
            raise self._rejected(b" ".join(error.args).decode("utf-8", "replace")) from None
        except (NotGitRepository, NotImplementedError) as error:
            raise _Broken(
                "it is no git repository, or not served for pushing", connected=False, refused=True
            ) from error
        except (HTTPUnauthorized, BuildToolsError):
            raise
        except HTTPProxyUnauthorized as error:
            raise _Broken("the proxy asks for a login", connected=False, refused=True) from error
        except (GitProtocolError, OSError) as error:
            raise _Broken(str(error), connected=connected) from error
        except (ValueError, AssertionError, LookupError) as error:
            raise _Broken("it answers with what is not git's protocol", connected=False, refused=True) from error
        if not offers:
            return False
        status = result.ref_status or {}
        if offers[0].ref not in status:
            raise _Broken("it did not report what became of the tag", connected=True)
        reason = status[offers[0].ref]
        if reason is not None:
            raise self._rejected(reason)
        return True

    def _listen(self, said: bytes) -> None:
        for line in re.split(r"[\r\n]+", said.decode("utf-8", "replace")):
            if line.strip():
                self._report(Log(self.name, line.rstrip()))

    def _rejected(self, reason: str) -> Rejected:
        return Rejected(
            f"{self.name} rejected the push ({reason}); nothing was tagged",
            f"correct what {self.url} demands, then run the same command again",
        )

    def _no_place(self) -> Refused:
        return Refused(
            f"{self.url} is no place to push to", f"give {self.name} a path, or an ssh, http or https URL to push to"
        )

    def _no_access(self, details: list[str]) -> Refused:
        return Refused(
            f"{self.name} ({self.url}) cannot be pushed to",
            "correct the remote's URL or the access to it",
            details=details,
        )

    def _unreachable(self, broken: _Broken, details: list[str]) -> Unreachable:
        if broken.connected:
            return Unreachable(
                f"the connection to {self.name} ({self.url}) broke, so whether the tag has arrived is not known",
                "run the same command again; it finishes what was begun",
                details=details,
            )
        return Unreachable(
            f"{self.name} ({self.url}) cannot be reached", "run the same command again when it answers", details=details
        )


def _is_hopeless(said: str) -> bool:
    return any(words in said for words in _HOPELESS)


class _Broken(Exception):
    """The conversation ended early. ``connected``: after the remote's refs had come; ``refused``: a retry is no use."""

    def __init__(self, text: str, *, connected: bool, refused: bool = False) -> None:
        super().__init__(text)
        self.connected = connected
        self.refused = refused


def _push_url(config: Config, name: str) -> str:
    """The one URL, after ``insteadOf``. https://git-scm.com/docs/git-config#Documentation/git-config.txt-urlbaseinsteadOf

    :raises Refused: there is none, or several.
    """
    push_urls = config.get_all(f"remote.{name}.pushurl")
    urls = push_urls or config.get_all(f"remote.{name}.url")
    if not urls:
        raise Refused(
            f"there is no remote named {name!r}",
            f"add it with `git remote add {name} URL`, name another with --remote, or tag here only with --no-push",
        )
    if len(urls) > 1:
        raise Refused(f"the remote {name} has {len(urls)} URLs to push to", "name a remote with one URL by --remote")
    url = urls[0]
    keys = ["insteadof"] if push_urls else ["pushinsteadof", "insteadof"]
    for key in keys:
        rules = [
            (start, base[4 : -len(key) - 1])
            for base in config.names()
            if base.startswith("url.") and base.endswith(f".{key}")
            for start in config.get_all(base)
            if url.startswith(start)
        ]
        if rules:
            start, base = max(rules, key=lambda rule: len(rule[0]))
            return base + url[len(start) :]
    return url


def _without_repository(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for git in another repository."""
    return {name: value for name, value in environment.items() if not _OF_ONE_REPOSITORY.fullmatch(name)}
