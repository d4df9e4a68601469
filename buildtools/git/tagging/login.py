"""User names and passwords for git servers over HTTP, from where git looks for them.

First the URL and ``~/.netrc``; after a 401 response the credential helpers, then the askpass program.
https://git-scm.com/docs/gitcredentials. Nothing here is ever printed or put on a command line.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import field
from urllib.parse import SplitResult, unquote

from buildtools.frozen import frozen
from buildtools.git.config import Config, boolean
from buildtools.git.tagging.url_match import context_values


@frozen
class Login:
    """A user name and a password."""

    user: str
    password: str = field(repr=False)


class LoginSources:
    """All sources of a login for one URL."""

    def __init__(self, config: Config, environment: Mapping[str, str], url: SplitResult) -> None:
        self._environment = environment
        self._url = url
        self._host = url.netloc.rpartition("@")[2]
        self._values = context_values(config, url.geturl())
        self._helpers = self._values.get_list("credential.helper")
        self._askpass = (
            environment.get("GIT_ASKPASS") or config.get("core.askpass") or environment.get("SSH_ASKPASS") or ""
        )
        self._user = unquote(url.username or "") or self._values.get("credential.username") or ""

    def from_files(self) -> Login | None:
        """The login in the URL or in ``~/.netrc``; no program is run."""
        if self._url.password is not None:
            return Login(self._user, unquote(self._url.password))
        import netrc

        try:
            entry = netrc.netrc(f"{self._environment.get('HOME', '')}/.netrc").authenticators(self._url.hostname or "")
        except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
            return None
        if not entry or (self._user and entry[0] != self._user):
            return None
        return Login(entry[0], entry[2] or "")

    def from_programs(self) -> Login | None:
        """The login that a credential helper or the askpass program returns."""
        user = self._user
        for helper in self._helpers:
            fields = self._run_helper(helper, "get", Login(user, ""))
            user = fields.get("username", user)
            if fields.get("password"):
                return Login(user, fields["password"])
            if boolean(fields.get("quit", "false")):
                return None
        if not self._askpass:
            return None
        user = user or self._prompt(f"Username for '{self._url.scheme}://{self._host}': ")
        password = user and self._prompt(f"Password for '{self._url.scheme}://{user}@{self._host}': ")
        return Login(user, password) if password else None

    def approve(self, login: Login) -> None:
        """Let the helpers store an accepted login."""
        for helper in self._helpers:
            self._run_helper(helper, "store", login)

    def reject(self, login: Login) -> None:
        """Let the helpers erase a rejected login."""
        for helper in self._helpers:
            self._run_helper(helper, "erase", login)

    def _run_helper(self, helper: str, action: str, login: Login) -> dict[str, str]:
        fields = {"protocol": self._url.scheme, "host": self._host}
        if self._values.bool("credential.usehttppath"):
            fields["path"] = self._url.path.lstrip("/")
        fields |= {"username": login.user} if login.user else {}
        fields |= {"password": login.password} if login.password else {}
        if any("\n" in value for value in fields.values()):
            # The helper would read the rest of the line as more fields.
            return {}
        if helper.startswith("!"):
            command = helper[1:]
        else:
            command = helper if os.path.isabs(helper) else f"git credential-{helper}"
        process = subprocess.run(
            ["sh", "-c", f"{command} {action}"],
            input="".join(f"{key}={value}\n" for key, value in fields.items()) + "\n",
            env=dict(self._environment),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
        lines = process.stdout.splitlines() if process.returncode == 0 else []
        return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}

    def _prompt(self, prompt: str) -> str:
        try:
            process = subprocess.run(
                [self._askpass, prompt], env=dict(self._environment), stdin=subprocess.DEVNULL, capture_output=True
            )
        except OSError:
            return ""
        return process.stdout.decode("utf-8", "replace").rstrip("\r\n") if process.returncode == 0 else ""
