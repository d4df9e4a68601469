"""Pushes a tag to a remote as git does: over a local path, ssh or http(s). https://git-scm.com/docs/gitprotocol-pack

dulwich speaks the protocol. For ssh and local paths it talks to the program that git would start (``ssh``, or
``git receive-pack``, so that the hooks of that repository run).
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
from buildtools.git.tagging.login import Login, LoginSources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dulwich.client import GitClient
    from dulwich.objects import ObjectID, ShaFile
    from dulwich.pack import UnpackedObject
    from dulwich.refs import Ref

_SCP = re.compile(r"(?P<host>\[[^]/]+\]|[^:/\[][^:/]*):(?P<path>.*)", re.DOTALL)
_STATUS = re.compile(r"unexpected http resp (\d+)")
# Messages of failures that no retry changes; any other failure to connect may be an outage.
_PERMANENT_FAILURES = ("Permission denied", "Host key verification failed", "certificate verify failed")
# ssh -v and a proxy command may write hundreds of lines; the reason for a failure is in the last ones.
_ERROR_LINES = 20
# The variables that `git rev-parse --local-env-vars` prints.
_LOCAL_VARIABLES = re.compile(
    "GIT_(?:(?:ALTERNATE_)?OBJECT_DIRECTOR(?:Y|IES)|CONFIG(?:_PARAMETERS|_COUNT)?|DIR|(?:IMPLICIT_)?WORK_TREE"
    "|GRAFT_FILE|INDEX_FILE|NO_REPLACE_OBJECTS|REPLACE_REF_BASE|PREFIX|SHALLOW_FILE|COMMON_DIR)"
)

RemoteRefs = Mapping[bytes, bytes]
Decision = Callable[[RemoteRefs], "Offer | None"]


@frozen
class Offer:
    """One object to send, and the ref to create for it."""

    ref: Ref
    object: ShaFile


class Rejected(Refused):
    """The remote did not create the ref; the output of its hooks has been reported."""


class Remote:
    """One configured remote. ``url`` is for messages: it has no user name and no password.

    :raises Refused: there is no such remote, or its URL is invalid.
    """

    def __init__(self, repository: Repository, name: str, report: Report) -> None:
        self.name = name
        self._repository = repository
        self._report = report
        url = _push_url(repository.config, name)
        self.url = without_login(url)
        self._open = self._opener(url)

    def push(self, decide: Decision) -> bool:
        """Pass the remote's refs (hexadecimal ids by name) to ``decide``, and send the offer that it returns, if any.

        Returns whether something was sent. ``decide`` may be called twice, without and with a login; its exceptions
        are passed on.

        :raises Rejected: the remote did not create the ref.
        :raises Refused: there is no repository, or no access to it.
        :raises Unreachable: the connection failed or broke.
        """
        return self._open(decide)

    def _opener(self, url: str) -> Callable[[Decision], bool]:
        if "://" in url:
            try:
                parts, port = urlsplit(url), urlsplit(url).port
            except ValueError:
                raise self._invalid_url() from None
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
            scp = _SCP.fullmatch(url)
            if scp:
                return lambda decide: self._over_ssh(scp["host"].strip("[]"), None, scp["path"], decide)
            path = os.path.join(self._repository.work_tree or self._repository.git_dir, url)
            return lambda decide: self._over_pipe(path, decide)
        raise self._invalid_url()

    def _over_pipe(self, path: str, decide: Decision) -> bool:
        return self._through(["git", "receive-pack", path], _without_repository(self._repository.environment), decide)

    def _over_ssh(self, host: str, port: int | None, path: str, decide: Decision) -> bool:
        if host.startswith("-") or path.startswith("-") or not host:
            raise self._invalid_url()
        environment = self._repository.environment
        command = environment.get("GIT_SSH_COMMAND") or self._repository.config.get("core.sshcommand")
        program = ["sh", "-c", f'{command} "$@"', command] if command else [environment.get("GIT_SSH") or "ssh"]
        shell_path = path.replace("'", "'\\''")
        destination = ["-p", str(port), host] if port else [host]
        return self._through([*program, *destination, f"git-receive-pack '{shell_path}'"], environment, decide)

    def _through(self, arguments: list[str], environment: Mapping[str, str], decide: Decision) -> bool:
        from dulwich.client import SSHGitClient

        from buildtools.git.tagging.pipe import Pipe

        pipe = Pipe(arguments, environment)
        try:
            return self._exchange(SSHGitClient(self.name, vendor=pipe), decide)  # type: ignore[arg-type]  # it has every method that is called
        except _ExchangeFailure as failure:
            errors = pipe.error_lines()
            details = [f"  | {line}" for line in errors[-_ERROR_LINES:]]
            if pipe.missing:
                raise Refused(f"{arguments[0]} is not installed, and {self.url} needs it", "install it") from None
            # 255 is a failure of ssh itself, not of the program at the other end: man ssh, EXIT STATUS.
            if failure.after_refs or (pipe.status == 255 and not _is_permanent(" ".join(errors))):
                raise self._unreachable(failure, details) from None
            raise self._no_access(details) from None

    def _over_http(self, parts: SplitResult, decide: Decision) -> bool:
        from dulwich.client import HTTPUnauthorized

        from buildtools.git.tagging.httpclient import http_client

        config, environment = self._repository.config, self._repository.environment
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

        def attempt(login: Login | None) -> bool:
            try:
                with http_client(bare, login, config, environment) as client:
                    return self._exchange(client, decide)
            except (NotImplementedError, ValueError) as error:
                # A value of http.* that dulwich does not support.
                raise _ExchangeFailure(str(error), after_refs=False, permanent=True) from error

        logins = LoginSources(config, environment, parts)
        try:
            try:
                return attempt(logins.from_files())
            except HTTPUnauthorized:
                login = logins.from_programs()
                if login is None:
                    raise
            try:
                success = attempt(login)
            except HTTPUnauthorized:
                logins.reject(login)
                raise
            logins.approve(login)
            return success
        except HTTPUnauthorized:
            raise Refused(
                f"access to {self.url} denied: the credentials were not accepted, or none were found",
                "configure a git credential helper (credential.helper), ~/.netrc or GIT_ASKPASS",
            ) from None
        except _ExchangeFailure as failure:
            status = _STATUS.search(str(failure))
            status_is_permanent = status is not None and int(status[1]) < 500 and int(status[1]) != 429
            if failure.permanent or status_is_permanent or _is_permanent(str(failure)):
                raise self._no_access([f"  | {failure}"]) from None
            raise self._unreachable(failure, [f"  | {failure}"]) from None

    def _exchange(self, client: GitClient, decide: Decision) -> bool:
        from dulwich.client import HTTPProxyUnauthorized, HTTPUnauthorized
        from dulwich.errors import GitProtocolError, NotGitRepository, SendPackError
        from dulwich.pack import pack_objects_to_data

        offers: list[Offer] = []
        has_refs = False

        def update(refs: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
            nonlocal has_refs
            has_refs = True
            offers.extend(offer for offer in [decide(dict[bytes, bytes](refs.items()))] if offer)
            return {offer.ref: offer.object.id for offer in offers}

        def pack(*_: object, **__: object) -> tuple[int, Iterator[UnpackedObject]]:
            return pack_objects_to_data([offer.object for offer in offers])

        try:
            result = client.send_pack(b"", update, pack, progress=self._report_progress)
        except SendPackError as error:
            raise self._rejection(b" ".join(error.args).decode("utf-8", "replace")) from None
        except (NotGitRepository, NotImplementedError) as error:
            raise _ExchangeFailure(
                "not a git repository, or not open for pushing", after_refs=False, permanent=True
            ) from error
        except (HTTPUnauthorized, BuildToolsError):
            raise
        except HTTPProxyUnauthorized as error:
            raise _ExchangeFailure("the proxy requires a login", after_refs=False, permanent=True) from error
        except (GitProtocolError, OSError) as error:
            raise _ExchangeFailure(str(error), after_refs=has_refs) from error
        except (ValueError, AssertionError, LookupError) as error:
            raise _ExchangeFailure("the response is not in git's protocol", after_refs=False, permanent=True) from error
        if not offers:
            return False
        status = result.ref_status or {}
        if offers[0].ref not in status:
            raise _ExchangeFailure("the response does not report on the tag", after_refs=True)
        reason = status[offers[0].ref]
        if reason is not None:
            raise self._rejection(reason)
        return True

    def _report_progress(self, text: bytes) -> None:
        for line in re.split(r"[\r\n]+", text.decode("utf-8", "replace")):
            if line.strip():
                self._report(Log(self.name, line.rstrip()))

    def _rejection(self, reason: str) -> Rejected:
        return Rejected(
            f"{self.name} rejected the tag ({reason}); nothing was tagged",
            f"meet the conditions of {self.url}, then run the same command again",
        )

    def _invalid_url(self) -> Refused:
        return Refused(
            f"cannot push to {self.url}: unsupported or invalid address",
            f"set {self.name} to a path, or to an ssh, http or https URL",
        )

    def _no_access(self, details: list[str]) -> Refused:
        return Refused(
            f"cannot push to {self.name} ({self.url})",
            "fix the remote's URL, or the access to it",
            details=details,
        )

    def _unreachable(self, failure: _ExchangeFailure, details: list[str]) -> Unreachable:
        if failure.after_refs:
            return Unreachable(
                f"the connection to {self.name} ({self.url}) broke; it is unknown whether the tag has arrived",
                "run the same command again to complete the release",
                details=details,
            )
        return Unreachable(
            f"cannot reach {self.name} ({self.url})", "run the same command again when it is up", details=details
        )


def _is_permanent(text: str) -> bool:
    return any(words in text for words in _PERMANENT_FAILURES)


class _ExchangeFailure(Exception):
    """The exchange ended early. ``after_refs``: the remote had sent its refs; ``permanent``: a retry cannot help."""

    def __init__(self, text: str, *, after_refs: bool, permanent: bool = False) -> None:
        super().__init__(text)
        self.after_refs = after_refs
        self.permanent = permanent


def _push_url(config: Config, name: str) -> str:
    """The only URL to push to, after ``insteadOf``. https://git-scm.com/docs/git-config#Documentation/git-config.txt-urlbaseinsteadOf

    :raises Refused: there is no such URL, or more than one.
    """
    push_urls = config.get_all(f"remote.{name}.pushurl")
    urls = push_urls or config.get_all(f"remote.{name}.url")
    if not urls:
        raise Refused(
            f"there is no remote named {name!r}",
            f"add it with `git remote add {name} URL`, name another with --remote, or push nothing with --no-push",
        )
    if len(urls) > 1:
        raise Refused(
            f"the remote {name} has {len(urls)} URLs to push to", "name a remote that has one URL with --remote"
        )
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
    """The environment for git in another repository: without the variables that name this one."""
    return {name: value for name, value in environment.items() if not _LOCAL_VARIABLES.fullmatch(name)}
