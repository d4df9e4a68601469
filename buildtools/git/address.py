"""Addresses of repositories, as git reads them: ssh in both spellings, local paths, http(s).

git takes an address apart in its own order, and this module follows it:

1. An address with a scheme is percent-decoded as a whole before anything else. So ``#`` and ``?`` are ordinary
   characters of a path. The scheme is compared in lower case only.
2. An address without a scheme is ``HOST:PATH`` for ssh, unless it has no colon, or a slash before the colon: then it is
   a local path.
3. Brackets protect colons: ``[::1]:PATH``, ``USER@[::1]:PATH``. Without a scheme, a port can only be inside them:
   ``[HOST:PORT]:PATH``. Host names keep their case, because the patterns in ``ssh_config`` are compared with them.
4. ``/~USER`` at the start of an ssh path is passed on without the slash, for the shell at the other end.

https://git-scm.com/docs/git-push#_git_urls; ``parse_connect_url`` in git's ``connect.c``.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

from buildtools.frozen import frozen

_SSH_SCHEMES = ("ssh", "git+ssh", "ssh+git")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_HELPER = re.compile(r"[A-Za-z0-9+.-]*::")
# strtol, which git reads a port with, skips white space and takes a sign.
_PORT = re.compile(r"\s*[+-]?\d+")
_LARGEST_PORT = 65535
_AUTHORITY = re.compile(r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(?:\[[^]]*\]|[^:\[\]]*)(?::\d*)?")


@frozen
class SshAddress:
    """An address for ssh. ``host`` is the argument for the ssh program, including ``USER@``; ``port`` may be empty."""

    host: str
    port: str
    path: str


@frozen
class LocalAddress:
    """A path on this machine, which may be relative."""

    path: str


@frozen
class HttpAddress:
    """An http or https URL, with its user name and password."""

    parts: SplitResult


def parse_address(text: str) -> SshAddress | LocalAddress | HttpAddress:
    """The parsed address of a remote.

    :raises ValueError: with the reason, if it is invalid or needs a remote helper or the git protocol.
    """
    if not text:
        raise ValueError("the path is missing")
    url = _URL.fullmatch(text)
    if _HELPER.match(text):
        raise ValueError("remote helpers are not supported")
    if url and url["scheme"] in ("http", "https"):
        return HttpAddress(_split_url(text))
    if url:
        # A zero byte cannot be in a path, so git leaves %00 as it is.
        rest = unquote(url["rest"].replace("%00", "%2500"), errors="surrogateescape")
        if url["scheme"] == "file":
            return LocalAddress(_split_path(rest, "/")[1])
        if url["scheme"] in _SSH_SCHEMES:
            return _ssh_address(rest, "/")
        raise ValueError(f"the scheme {url['scheme']} is not supported")
    if "://" in text:
        raise ValueError("the scheme is not supported")
    host, colon, _ = text.partition(":")
    return _ssh_address(text, ":") if colon and "/" not in host else LocalAddress(text)


def _split_url(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        is_valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid:
        # Python's own message may quote a password.
        raise ValueError("invalid host or port")
    return parts


def _ssh_address(text: str, separator: str) -> SshAddress:
    host, path = _split_path(text, separator)
    path = path.removeprefix(":") if separator == ":" else path
    path = path[1:] if path[1:2] == "~" else path
    start, end = _brackets(host)
    if end:
        # A port follows the brackets, or is inside them.
        name, port = host[:start] + host[start + 1 : end], _split_port(host[end + 1 :])[1]
        name, port = (name, port) if port else _split_port(name)
    else:
        name, port = _split_port(host)
    if not name or name.startswith("-"):
        raise ValueError("invalid host name")
    if path.startswith("-"):
        raise ValueError("invalid path")
    return SshAddress(name, port, path)


def _split_path(text: str, separator: str) -> tuple[str, str]:
    """The text before the first separator that is not in brackets, and the text from it on."""
    at = text.find(separator, _brackets(text)[1])
    if at < 0:
        raise ValueError("the path is missing")
    return text[:at], text[at:]


def _brackets(text: str) -> tuple[int, int]:
    """Where the brackets around a host open and close; 0 and 0 if there are none."""
    start = text.find("@[") + 1
    end = text.find("]", start + 1) if text.startswith("[", start) else -1
    return (start, end) if end >= 0 else (0, 0)


def _split_port(text: str) -> tuple[str, str]:
    """The text before its first colon and the port after it; the whole text if that is not a port."""
    host, _, port = text.partition(":")
    if not port or (_PORT.fullmatch(port) and 0 <= int(port) <= _LARGEST_PORT):
        return host, port
    return text, ""


def without_login(text: str) -> str:
    """The same address without user name and password, for messages and labels.

    What precedes an ``@`` in a path is not a login: a second build of a Jenkins job runs in ``workspace/job@2``.
    """
    url = _AUTHORITY.match(text)
    if url:
        scheme, authority, rest = url["scheme"], url["authority"], text[url.end() :]
        if scheme == "file":
            return text
        if "@" not in authority and "@" in rest and not _HOST_AND_PORT.fullmatch(authority):
            # A password with a slash in it that should have been percent-encoded.
            return f"{scheme}://{rest.rpartition('@')[2]}"
        return f"{scheme}://{_host_without_user(authority)}{rest}"
    host, colon, _ = text.partition(":")
    if not colon or "/" in host or _HELPER.match(text):
        return text
    start = text.find("@[") + 1
    at = text.find("]:", start) if text.startswith("[", start) else len(host)
    return _host_without_user(text[:at]) + text[at:]


def _host_without_user(host: str) -> str:
    bracket = "[" if host.startswith("[") and "@" in host else ""
    return bracket + host.rpartition("@")[2]
