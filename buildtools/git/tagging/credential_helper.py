"""Names and passwords for git servers over HTTP, from where git takes them.

First what the URL or ``~/.netrc`` says; after a refusal the credential helpers, then the askpass program.
https://git-scm.com/docs/gitcredentials. Nothing here is ever printed or put on a command line.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import field
from urllib.parse import SplitResult, unquote

from buildtools.frozen import frozen
from buildtools.git.config import Config, boolean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dulwich.config import ConfigDict


@frozen
class Login:
    """One user and what proves it."""

    user: str
    password: str = field(repr=False)


class Credentials:
    """Finds the login for one URL."""

    def __init__(self, config: Config, environment: Mapping[str, str], url: SplitResult) -> None:
        self._environment = environment
        self._url = url
        self._host = url.netloc.rpartition("@")[2]
        self._context = dict(self._configured(config))
        self._askpass = (
            environment.get("GIT_ASKPASS") or config.get("core.askpass") or environment.get("SSH_ASKPASS") or ""
        )
        self._user = unquote(url.username or "") or self._context.get("username", "")

    def _configured(self, config: Config) -> Iterator[tuple[str, str]]:
        from dulwich.credentials import urlmatch_credential_sections

        bare = self._url._replace(netloc=self._host).geturl()
        values = library_config(config)
        self._helpers: list[str] = []
        for section in urlmatch_credential_sections(values, bare):
            for key, value in values.items(section):
                text = value.decode("utf-8", "surrogateescape")
                if key.lower() != b"helper":
                    yield key.lower().decode(), text
                elif text:
                    self._helpers.append(text)
                else:
                    # An empty one takes back all that stand before it.
                    self._helpers.clear()

    def known(self) -> Login | None:
        """What needs no question: the password in the URL, or the one in ``.netrc``."""
        if self._url.password is not None:
            return Login(self._user, unquote(self._url.password))
        import netrc

        try:
            found = netrc.netrc(f"{self._environment.get('HOME', '')}/.netrc").authenticators(self._url.hostname or "")
        except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
            return None
        if not found or (self._user and found[0] != self._user):
            return None
        return Login(found[0], found[2] or "")

    def asked(self) -> Login | None:
        """What a helper or the askpass program answers."""
        for helper in self._helpers:
            answer = self._ask(helper, "get", Login(self._user, ""))
            if answer.get("password"):
                return Login(answer.get("username", self._user), answer["password"])
            if boolean(answer.get("quit", "false")):
                return None
        if not self._askpass:
            return None
        place = f"{self._url.scheme}://{self._host}"
        user = self._user or self._prompted(f"Username for '{place}': ")
        password = user and self._prompted(f"Password for '{self._url.scheme}://{user}@{self._host}': ")
        return Login(user, password) if password else None

    def tell(self, action: str, login: Login) -> None:
        """Tell the helpers that a login was good (``store``) or not (``erase``)."""
        for helper in self._helpers:
            self._ask(helper, action, login)

    def _ask(self, helper: str, action: str, login: Login) -> dict[str, str]:
        fields = {"protocol": self._url.scheme, "host": self._host}
        if boolean(self._context.get("usehttppath", "false")):
            fields["path"] = self._url.path.lstrip("/")
        fields |= {"username": login.user} if login.user else {}
        fields |= {"password": login.password} if login.password else {}
        if any("\n" in value for value in fields.values()):
            # It would be read as further fields.
            return {}
        if helper.startswith("!"):
            command = helper[1:]
        else:
            command = helper if os.path.isabs(helper) else f"git credential-{helper}"
        done = subprocess.run(
            ["sh", "-c", f"{command} {action}"],
            input="".join(f"{key}={value}\n" for key, value in fields.items()) + "\n",
            env=dict(self._environment),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}

    def _prompted(self, prompt: str) -> str:
        try:
            done = subprocess.run(
                [self._askpass, prompt], env=dict(self._environment), stdin=subprocess.DEVNULL, capture_output=True
            )
        except OSError:
            return ""
        return done.stdout.decode("utf-8", "replace").rstrip("\r\n") if done.returncode == 0 else ""


def library_config(config: Config) -> ConfigDict:
    """git's configuration as dulwich wants it."""
    from dulwich.config import ConfigDict

    made = ConfigDict(encoding="utf-8")
    for name in config.names():
        section, _, rest = name.partition(".")
        middle, _, key = rest.rpartition(".")
        place = tuple(part.encode("utf-8", "surrogateescape") for part in (section, middle) if part)
        for value in config.get_all(name):
            made.add(place, key.encode(), value.encode("utf-8", "surrogateescape"))
    return made
