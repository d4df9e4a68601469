"""Which values of ``http.<url>.*`` and ``credential.<url>.*`` apply to a URL.

Scheme, host and port must be equal; a ``*`` in the pattern stands for one label of the host name. The path of the
pattern must be the URL's or one of its parents. A user name in the pattern must be the URL's. The longest host wins,
then the longest path, then a user name. https://git-scm.com/docs/git-config#Documentation/git-config.txt-httplturlgt
"""

from __future__ import annotations

import re

from buildtools.frozen import frozen
from buildtools.git.config import Config

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^@/?#:]*)(?::[^@/?#]*)?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._*-]+)(?::(?P<port>\d*))?(?P<path>/[^?#]*)?(?P<rest>[?#].*)?",
    re.DOTALL,
)
_PARTIAL_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:(?P<user>[^@/:]*)(?::[^@/]*)?@)?(?P<host>[^/]*)(?:/+(?P<path>.*))?",
    re.DOTALL,
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_LARGEST_PORT = 65535
# RFC 3986, 2.3: the characters that mean the same with and without an escape.
_ESCAPE = re.compile(r"%(?P<code>[0-9A-Fa-f]{2})|(?P<other>[^A-Za-z0-9._~!$&'()*+,;=:@/?#%\[\]-])")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")

# How well a pattern fits: the lengths of host and path, and whether the user matches. All are zero without a URL.
Rank = tuple[int, int, bool]


@frozen
class MatchUrl:
    """A URL in the canonical spelling used for comparison. ``user`` is ``None`` if there is none."""

    scheme: str
    user: str | None
    host: str
    port: str
    path: str


def normalize(text: str) -> MatchUrl | None:
    """The URL in its canonical spelling; ``None`` if it is not a complete URL."""
    url = _URL.fullmatch(text)
    path = _without_dots(_escape(url["path"] or "/")) if url else None
    if url is None or path is None:
        return None
    scheme = url["scheme"].lower()
    port = (url["port"] or "").lstrip("0")
    if port and int(port) > _LARGEST_PORT:
        return None
    port = "" if port == _DEFAULT_PORTS.get(scheme) else port
    user = None if url["user"] is None else _escape(url["user"])
    return MatchUrl(scheme, user, url["host"].lower(), port, path + _escape(url["rest"] or ""))


def rank(url: MatchUrl, pattern: MatchUrl) -> Rank | None:
    """How well the pattern matches; ``None`` if it does not."""
    same_user = pattern.user is not None and pattern.user == url.user
    if pattern.user is not None and not same_user:
        return None
    if (url.scheme, url.port) != (pattern.scheme, pattern.port):
        return None
    labels, wildcards = url.host.removesuffix(".").split("."), pattern.host.removesuffix(".").split(".")
    if len(labels) != len(wildcards) or any(w not in ("*", label) for label, w in zip(labels, wildcards, strict=True)):
        return None
    parent = pattern.path.removesuffix("/")
    if url.path != parent and not url.path.startswith(f"{parent}/"):
        return None
    return len(pattern.host), len(parent) + 1, same_user


def matching_values(config: Config, section: str, text: str) -> Config:
    """The values of a section that apply to a URL, as ``SECTION.KEY``.

    A value is left out if a better match for its key comes before it: a later ``http.key`` does not replace
    ``http.<url>.key``.
    """
    url = normalize(text)
    values = Config()
    ranks: dict[str, Rank] = {}
    for name, value in config.items():
        first, _, rest = name.partition(".")
        if first != section:
            continue
        pattern_text, dot, key = rest.rpartition(".")
        fit: Rank | None = (0, 0, False)
        if dot:
            pattern = normalize(pattern_text)
            fit = rank(url, pattern) if url and pattern else None
        if fit is not None and fit >= ranks.get(key, (0, 0, False)):
            ranks[key] = fit
            values.add(f"{section}.{key}", value)
    return values


def context_values(config: Config, text: str) -> Config:
    """All values of ``credential.*`` that apply to a URL. Patterns may omit scheme, host or path.

    https://git-scm.com/docs/gitcredentials#_credential_contexts
    """
    url = normalize(text)
    values = Config()
    for name, value in config.items():
        section, _, rest = name.partition(".")
        pattern_text, dot, key = rest.rpartition(".")
        if section != "credential":
            continue
        pattern = normalize(pattern_text)
        if not dot or (url and pattern and rank(url, pattern)) or (not pattern and _fits_partially(text, pattern_text)):
            values.add(f"credential.{key}", value)
    return values


def _fits_partially(text: str, pattern_text: str) -> bool:
    url, pattern = _PARTIAL_URL.fullmatch(text), _PARTIAL_URL.fullmatch(pattern_text)
    assert url
    assert pattern
    return all(not part or part == url[name] for name, part in pattern.groupdict().items())


def _escape(text: str) -> str:
    def normal(match: re.Match[str]) -> str:
        if match["other"]:
            return "".join(f"%{octet:02X}" for octet in match["other"].encode("utf-8", "surrogateescape"))
        char = chr(int(match["code"], 16))
        return char if _UNRESERVED.match(char) else match[0].upper()

    return _ESCAPE.sub(normal, text)


def _without_dots(path: str) -> str | None:
    """The path without ``.`` and ``..``; ``None`` if it leads above the root."""
    segments: list[str] = []
    parts = path.split("/")[1:]
    for part in parts:
        if part == "..":
            if not segments:
                return None
            segments.pop()
        elif part != ".":
            segments.append(part)
    end = "/" if parts[-1] in (".", "..") and segments else ""
    return "/" + "/".join(segments) + end
