"""Credentials for registries, from Docker's own configuration and its helpers.

The format: https://docs.docker.com/reference/cli/docker/login/#credential-stores and, for the helpers' protocol,
https://github.com/docker/docker-credential-helpers#development.
"""

from __future__ import annotations

import base64
import binascii
import json
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Any

from buildtools import BuildToolsError, Refused
from buildtools.frozen import frozen
from buildtools.image.docker.configuration import read_configuration
from buildtools.image.reference import Reference

# The key under which `docker login` stores Docker Hub.
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")
# https://docs.docker.com/reference/cli/docker/#environment-variables
_VARIABLE = "DOCKER_AUTH_CONFIG"
_NOT_FOUND = "credentials not found in native keychain"
# The user name that marks a helper's secret as an identity token.
_IDENTITY_MARK = "<token>"
_HELPER_SECONDS = 60
_LONGEST_SAYING = 500


@frozen
class Credential:
    """The credential for one registry: a user name and password, or one of the two kinds of token.

    An identity token is exchanged for access at the registry's token service; a registry token is sent as it is.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def login(self) -> dict[str, str]:
        """The form for the engine's API: https://docs.docker.com/reference/api/engine/#section/Authentication."""
        if self.identity_token:
            return {"identitytoken": self.identity_token}
        if self.registry_token:
            return {"registrytoken": self.registry_token}
        return {"username": self.username, "password": self.password}


class Credentials:
    """Looks up credentials in ``config.json`` in ``docker_config``, the folder that ``DOCKER_CONFIG`` names.

    Those in ``DOCKER_AUTH_CONFIG`` of ``environment``, which has the form of that file, win. Helpers are found through
    ``PATH`` in ``environment`` and run with it. Thread-safe; each host is looked up once.
    """

    def __init__(self, docker_config: Path, environment: Mapping[str, str]) -> None:
        self._path = docker_config / "config.json"
        self._environment = environment
        self._lock = threading.Lock()
        self._lookups: dict[str, Credential | None] = {}

    @cached_property
    def _document(self) -> Mapping[str, Any]:
        return read_configuration(self._path.parent)

    @cached_property
    def _given(self) -> Mapping[str, Any]:
        """The content of ``DOCKER_AUTH_CONFIG``."""
        try:
            document = json.loads(self._environment.get(_VARIABLE) or "{}")
        except ValueError:
            document = None
        if not isinstance(document, Mapping):
            # Not quoted, because it contains passwords.
            raise Refused(f"{_VARIABLE} is not a JSON object", 'write it as {"auths": {"HOST": {"auth": "…"}}}')
        return document

    def for_host(self, host: str) -> Credential | None:
        """The credential for the registry at ``host`` (``HOST`` or ``HOST:PORT``); None means anonymous access.

        :raises Refused: if the configuration is invalid, or names a helper that is not on the path.
        :raises BuildToolsError: if the helper failed, rather than having no credential.
        """
        with self._lock:
            if host not in self._lookups:
                self._lookups[host] = self._look_up(_HUB_KEY if host in _HUB_HOSTS else host)
            return self._lookups[host]

    def for_image(self, reference: str) -> Credential | None:
        """:meth:`for_host` for the registry of an image."""
        return self.for_host(Reference.parse(reference).registry)

    def _look_up(self, key: str) -> Credential | None:
        given = _entry(self._given.get("auths"), key)
        if isinstance(given, Mapping) and (credential := self._inline(key, given, _VARIABLE)):
            return credential
        document = self._document
        entry = _entry(document.get("auths"), key)
        own_helper = _entry(document.get("credHelpers"), key)
        helper = own_helper or document.get("credsStore")
        # A configuration from another machine may name that one's helper; the docker program takes what is inline then.
        # Beside a store, `docker login` leaves an empty entry; where there is none, nobody has logged in.
        is_needed = not entry if own_helper else entry == {}
        if helper and (is_needed or self._path_of(f"docker-credential-{helper}")):
            credential = self._ask(str(helper), key)
            if credential:
                return credential
        return self._inline(key, entry, self._path) if isinstance(entry, Mapping) else None

    def _path_of(self, program: str) -> str | None:
        return shutil.which(program, path=self._environment.get("PATH", ""))

    @staticmethod
    def _inline(key: str, entry: Mapping[str, Any], place: Path | str) -> Credential | None:
        username, password = str(entry.get("username", "")), str(entry.get("password", ""))
        if entry.get("auth"):
            try:
                login = base64.b64decode(str(entry["auth"]), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                login = ""
            username, colon, password = login.partition(":")
            if not colon:
                raise Refused(
                    f"{place} has an entry for {key} that is not base64 of USER:PASSWORD",
                    f"run docker login {key}",
                )
            password = password.strip("\0")
        credential = Credential(
            username, password, str(entry.get("identitytoken", "")), str(entry.get("registrytoken", ""))
        )
        return None if credential == Credential() else credential

    def _ask(self, helper: str, key: str) -> Credential | None:
        program = f"docker-credential-{helper}"
        path = self._path_of(program)
        if not path:
            raise Refused(
                f"{self._path} names the credential helper {program} for {key}, which is not on the PATH",
                f"install {program}, or take it out of credsStore and credHelpers",
            )
        try:
            answer = subprocess.run(
                [path, "get"],
                input=key.encode(),
                capture_output=True,
                env=dict(self._environment),
                timeout=_HELPER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = f"no answer in {_HELPER_SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
            raise _helper_failed(program, key, reason) from None
        if answer.returncode:
            # Helpers report errors on stdout; stderr may explain them.
            output = " ".join((answer.stdout + b" " + answer.stderr).decode(errors="replace").split())
            if _NOT_FOUND in output:
                return None
            raise _helper_failed(program, key, output[:_LONGEST_SAYING] or f"exit status {answer.returncode}")
        try:
            document = json.loads(answer.stdout)
            username, secret = str(document["Username"]), str(document["Secret"])
        except (ValueError, KeyError, TypeError):
            # The output is not quoted, because it may contain the secret.
            raise _helper_failed(program, key, "an answer that is not JSON with Username and Secret") from None
        if username == _IDENTITY_MARK:
            return Credential(identity_token=secret)
        return Credential(username, secret) if username or secret else None


def _helper_failed(program: str, key: str, output: str) -> BuildToolsError:
    return BuildToolsError(
        f"the credential helper {program} failed for {key}: {output}", f"try: echo {key} | {program} get"
    )


def _entry(table: object, key: str) -> Any:
    """The entry for a registry, in whichever form the table has its URL."""
    if not isinstance(table, Mapping):
        return None
    if key in table:
        return table[key]
    return next((value for name, value in table.items() if _host(name) == _host(key)), None)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0] if "://" in url else url.partition("/")[0]
