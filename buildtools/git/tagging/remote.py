"""Push a tag to a remote as git does: over a local path, ssh or http(s).

dulwich speaks the protocol. For ssh and local paths it talks to the program that git would start (``ssh``, or
``git receive-pack``, so that the hooks of that repository run).
"""

from __future__ import annotations

import os
import re

from buildtools import Refused, Unreachable
from buildtools.events import Log, Report
from buildtools.git.address import HttpAddress, LocalAddress, SshAddress, parse_address, without_login
from buildtools.git.repository import Repository
from buildtools.git.tagging.exchange import Decision, ExchangeFailure, RefRejection, exchange
from buildtools.git.tagging.remote_settings import is_allowed, read_remote
from buildtools.git.tagging.ssh import remote_command, ssh_arguments

# Messages of failures that no retry can fix; any other failure to connect may be an outage.
_PERMANENT_FAILURES = ("Permission denied", "Host key verification failed", "certificate verify failed")
# ssh -v and a proxy command may write hundreds of lines; the reason for a failure is in the last ones.
_ERROR_LINES = 20
# The variables that `git rev-parse --local-env-vars` prints.
_LOCAL_VARIABLES = re.compile(
    "GIT_(?:(?:ALTERNATE_)?OBJECT_DIRECTOR(?:Y|IES)|CONFIG(?:_PARAMETERS|_COUNT)?|DIR|(?:IMPLICIT_)?WORK_TREE"
    "|GRAFT_FILE|INDEX_FILE|NO_REPLACE_OBJECTS|REPLACE_REF_BASE|PREFIX|SHALLOW_FILE|COMMON_DIR)"
)


class Rejected(Refused):
    """The remote did not create the ref; the output of its hooks was reported."""


class Remote:
    """One configured remote. ``url`` is for messages: it has no user name and no password.

    :raises Refused: if there is no such remote, or its URL is invalid.
    """

    def __init__(self, repository: Repository, name: str, report: Report) -> None:
        self.name = name
        self._repository = repository
        self._report = report
        self._settings = read_remote(repository.config, name)
        self.url = without_login(self._settings.url)
        try:
            self._address = parse_address(self._settings.url)
        except ValueError as error:
            raise Refused(
                f"cannot push to {self.url}: {error}", f"set {name} to a path, or to an ssh, http or https URL"
            ) from None
        protocol = _protocol(self._address)
        if not is_allowed(protocol, repository.config, repository.environment):
            raise Refused(
                f"cannot push to {self.url}: git is configured not to use {protocol}",
                f"set protocol.{protocol}.allow to always, or correct GIT_ALLOW_PROTOCOL",
            )

    def push(self, decide: Decision) -> bool:
        """Pass the remote's refs (hexadecimal ids by name) to ``decide``, and send the offer that it returns, if any.

        Returns whether something was sent. Exceptions from ``decide`` are passed on.

        :raises Rejected: if the remote did not create the ref.
        :raises Refused: if there is no repository, or no access to it.
        :raises Unreachable: if the connection failed or broke.
        """
        try:
            if isinstance(self._address, HttpAddress):
                return self._push_over_http(self._address, decide)
            return self._push_over_pipe(self._address, decide)
        except RefRejection as rejection:
            raise Rejected(
                f"{self.name} rejected the tag ({rejection}); nothing was tagged",
                f"meet the conditions of {self.url}, then run the same command again",
            ) from None

    def _push_over_pipe(self, address: LocalAddress | SshAddress, decide: Decision) -> bool:
        from dulwich.client import SSHGitClient

        from buildtools.git.tagging.pipe import Pipe

        arguments = self._program(address)
        environment = self._repository.environment
        variables = {name: value for name, value in environment.items() if not _LOCAL_VARIABLES.fullmatch(name)}
        pipe = Pipe(arguments, variables)
        client = SSHGitClient(self.name, vendor=pipe)  # type: ignore[arg-type]  # it has every method that is called
        try:
            return exchange(client, decide, self._settings.push_options, self._report_progress)
        except ExchangeFailure as failure:
            errors = [*pipe.error_lines(), *([str(failure)] if failure.permanent else [])]
            details = [f"  | {line}" for line in errors[-_ERROR_LINES:]]
            if pipe.missing:
                raise Refused(f"{arguments[0]} is not installed, and {self.url} needs it", "install it") from None
            # 255 is a failure of ssh itself, not of the program at the other end: man ssh, EXIT STATUS.
            if failure.after_refs or (pipe.status == 255 and not _is_permanent(" ".join(errors))):
                raise self._unreachable(failure, details) from None
            raise self._no_access(details) from None

    def _program(self, address: LocalAddress | SshAddress) -> list[str]:
        repository, receive_pack = self._repository, self._settings.receive_pack
        if isinstance(address, SshAddress):
            return ssh_arguments(address, receive_pack, repository.config, repository.environment)
        path = os.path.join(repository.work_tree or repository.git_dir, address.path)
        if receive_pack == "git-receive-pack":
            # Through git, because the program itself need not be in the PATH.
            return ["git", "receive-pack", path]
        return ["sh", "-c", remote_command(receive_pack, path)]

    def _push_over_http(self, address: HttpAddress, decide: Decision) -> bool:
        from buildtools.git.tagging.httpclient import AccessDenied, http_client

        repository, settings = self._repository, self._settings
        try:
            with http_client(address.parts, settings, repository.config, repository.environment) as client:
                return exchange(client, decide, settings.push_options, self._report_progress)
        except AccessDenied:
            raise Refused(
                f"access to {self.url} denied: the credentials were not accepted, or none were found",
                "configure a git credential helper (credential.helper), ~/.netrc or GIT_ASKPASS",
            ) from None
        except ExchangeFailure as failure:
            if failure.permanent or _is_permanent(str(failure)):
                raise self._no_access([f"  | {failure}"]) from None
            raise self._unreachable(failure, [f"  | {failure}"]) from None

    def _report_progress(self, text: bytes) -> None:
        for line in re.split(r"[\r\n]+", text.decode("utf-8", "replace")):
            if line.strip():
                self._report(Log(self.name, line.rstrip()))

    def _no_access(self, details: list[str]) -> Refused:
        return Refused(
            f"cannot push to {self.name} ({self.url})",
            "fix the remote's URL, or the access to it",
            details=details,
        )

    def _unreachable(self, failure: ExchangeFailure, details: list[str]) -> Unreachable:
        if failure.after_refs:
            return Unreachable(
                f"the connection to {self.name} ({self.url}) broke; it is unknown whether the tag has arrived",
                "run the same command again to complete the release",
                details=details,
            )
        return Unreachable(
            f"cannot reach {self.name} ({self.url})", "run the same command again when it is up", details=details
        )


def _protocol(address: SshAddress | LocalAddress | HttpAddress) -> str:
    if isinstance(address, HttpAddress):
        return address.parts.scheme
    return "ssh" if isinstance(address, SshAddress) else "file"


def _is_permanent(text: str) -> bool:
    return any(words in text for words in _PERMANENT_FAILURES)
