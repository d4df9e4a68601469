"""git's configuration of a remote to push to."""

from __future__ import annotations

from collections.abc import Mapping

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.git.config import Config, boolean

# https://git-scm.com/docs/git-config#Documentation/git-config.txt-protocolallow
_ALWAYS_ALLOWED = ("http", "https", "ssh")


@frozen
class RemoteSettings:
    """One remote. ``receive_pack`` is the command that receives a push there.

    ``proxy`` is ``None`` if the remote has no proxy setting of its own, and empty if it must be reached without one.
    """

    name: str
    url: str
    receive_pack: str
    push_options: tuple[str, ...]
    proxy: str | None
    proxy_auth_method: str | None


def read_remote(config: Config, name: str) -> RemoteSettings:
    """The remote with this name.

    :raises Refused: if it has no URL, more than one, or settings that are not supported.
    """
    if config.get("push.gpgsign", "") not in ("", "if-asked") and config.bool("push.gpgsign"):
        raise Refused("signed pushes (push.gpgSign) are not supported", "set it to if-asked, or push with git")
    return RemoteSettings(
        name,
        _push_url(config, name),
        config.get(f"remote.{name}.receivepack") or "git-receive-pack",
        tuple(config.get_list("push.pushoption")),
        config.get(f"remote.{name}.proxy"),
        config.get(f"remote.{name}.proxyauthmethod"),
    )


def _push_url(config: Config, name: str) -> str:
    """The only URL to push to, after ``insteadOf``.

    https://git-scm.com/docs/git-config#Documentation/git-config.txt-urlbaseinsteadOf
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


def is_allowed(protocol: str, config: Config, environment: Mapping[str, str]) -> bool:
    """Whether git may push over this protocol (``file``, ``ssh``, ``http`` or ``https``)."""
    protocols = environment.get("GIT_ALLOW_PROTOCOL")
    if protocols is not None:
        return protocol in protocols.split(":")
    default = config.get("protocol.allow") or ("always" if protocol in _ALWAYS_ALLOWED else "user")
    value = (config.get(f"protocol.{protocol}.allow") or default).lower()
    return value == "always" or (
        value == "user" and boolean(environment.get("GIT_PROTOCOL_FROM_USER", "1")) is not False
    )
