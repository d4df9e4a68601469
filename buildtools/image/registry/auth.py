"""Authentication to a registry: Basic, or Bearer with a token from the service that the registry names.

https://distribution.github.io/distribution/spec/auth/token/ and RFC 9110, section 11.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from buildtools import BuildToolsError, Refused
from buildtools.frozen import frozen
from buildtools.image.docker.credentials import Credential

_CLIENT = "lockstep-buildtools"
_PARAMETER = re.compile(r'([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,\s*)(basic|bearer)\b", re.IGNORECASE)
# The lifetime of a token in seconds, by the specification, if its service does not say.
_SECONDS = 60
# A token is not used in its last seconds.
_MARGIN = 10


@frozen
class Challenge:
    """One way to authenticate, from a registry's 401 response. ``scheme`` is ``basic`` or ``bearer``."""

    scheme: str
    parameters: Mapping[str, str]


def read_challenges(header: str) -> list[Challenge]:
    """The challenges in a ``WWW-Authenticate`` header that we support."""
    marks = list(_SCHEME.finditer(header))
    if not marks:
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(header)]
    return [
        Challenge(
            mark[1].lower(),
            {
                name.lower(): re.sub(r"\\(.)", r"\1", text) or bare
                for name, text, bare in _PARAMETER.findall(header[mark.end() : end])
            },
        )
        for mark, end in zip(marks, ends, strict=True)
    ]


# (method, url, headers, body) -> (status, body); raises Unreachable.
Ask = Callable[[str, str, Mapping[str, str], bytes], tuple[int, bytes]]


class Authenticator:
    """The ``Authorization`` header for each request to one registry. Thread-safe; caches tokens until they expire."""

    def __init__(
        self, host: str, credential: Callable[[], Credential | None], ask: Ask, *, plain_http: bool = False
    ) -> None:
        self._host = host
        self._plain_http = plain_http
        self._credential = credential
        self._ask = ask
        self._lock = threading.Lock()
        self._scope_locks: dict[str, threading.Lock] = {}
        self._challenge: Challenge | None = None
        self._tokens: dict[str, tuple[str, float]] = {}

    def header(self, scope: str) -> str:
        """The header for a scope; empty if the registry has not asked for one, or there is no login.

        :raises Unreachable: if the token service does not answer.
        :raises BuildToolsError: if the token service refuses.
        """
        challenge = self._challenge
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            credential = self._credential()
            return _basic(credential) if credential and credential.username else ""
        with self._lock:
            lock = self._scope_locks.setdefault(scope, threading.Lock())
        with lock:
            token, end = self._tokens.get(scope, ("", 0.0))
            if time.monotonic() >= end:
                token, lifetime = self._fetch(challenge, scope)
                self._tokens[scope] = (token, time.monotonic() + max(lifetime - _MARGIN, 1))
        return f"Bearer {token}"

    def challenged(self, header: str, scope: str, authorization: str) -> bool:
        """Process a 401 response to a request with the header ``authorization``; returns whether a retry can help."""
        challenges = read_challenges(header)
        if not challenges:
            return False
        # Prefer bearer: a registry that offers both uses tokens for finer permissions.
        self._challenge = next((one for one in challenges if one.scheme == "bearer"), challenges[0])
        if self._challenge.scheme == "bearer":
            with self._lock:
                if authorization == f"Bearer {self._tokens.get(scope, ('', 0.0))[0]}":
                    del self._tokens[scope]
        return self.header(scope) not in ("", authorization)

    def _fetch(self, challenge: Challenge, scope: str) -> tuple[str, float]:
        credential = self._credential() or Credential()
        if credential.registry_token:
            return credential.registry_token, float("inf")
        realm = challenge.parameters.get("realm", "")
        if not realm.startswith(("https://", "http://") if self._plain_http else "https://"):
            raise BuildToolsError(
                f"the registry {self._host} names {realm!r} as its token service, which is not an https address",
                "its administrator must correct that",
            )
        service = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        if credential.identity_token:
            form = [*service, ("client_id", _CLIENT), ("grant_type", "refresh_token"), ("scope", scope)]
            form.append(("refresh_token", credential.identity_token))
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            status, body = self._ask("POST", realm, kind, urlencode(form).encode())
        else:
            query = [*service, *(("scope", one) for one in scope.split())]
            headers = {}
            if credential.username:
                query.append(("account", credential.username))
                headers["Authorization"] = _basic(credential)
            joint = "&" if "?" in realm else "?"
            status, body = self._ask("GET", f"{realm}{joint}{urlencode(query)}", headers, b"")
        if status != 200:
            raise refused(self._host, scope, f"its token service {realm} answers {status}", credential)
        return _read_token(realm, body)


def refused(host: str, scope: str, reason: str, credential: Credential | None) -> Refused:
    """The error for a rejected login or a denied permission."""
    rights = ", ".join(f"{actions} for {name}" for _, name, actions in (one.split(":") for one in scope.split()))
    has_credentials = credential is not None and credential != Credential()
    return Refused(
        f"access to registry {host} denied{f', {rights}' if rights else ''} ({reason})",
        f"log in as a user with that right: `docker login {host}`"
        if has_credentials
        else f"no credentials found; run `docker login {host}`",
    )


def _basic(credential: Credential) -> str:
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()


def _read_token(realm: str, body: bytes) -> tuple[str, float]:
    try:
        document: dict[str, Any] = json.loads(body)
        token = document.get("token") or document["access_token"]
        return str(token), float(document.get("expires_in") or _SECONDS)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Not quoted, because it may contain a token.
        raise BuildToolsError(f"the token service {realm} answers without a token", "ask its administrator") from None


def pull_scope(repository: str) -> str:
    """Permission to read a repository."""
    return scope_of(repository, "pull")


def push_scope(repository: str) -> str:
    """Permission to read and write a repository."""
    return scope_of(repository, "pull,push")


def scope_of(repository: str, actions: str) -> str:
    """Permissions on a repository, as token services spell them.

    https://distribution.github.io/distribution/spec/auth/scope/
    """
    return f"repository:{repository}:{actions}"
