"""The capabilities of a registry, tested by requests that leave nothing behind.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md leaves all of these to the registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.image.http.responses import Response
from buildtools.image.registry.auth import pull_scope, scope_of
from buildtools.image.registry.manifest import ACCEPTED, digest_of
from buildtools.image.registry.transport import Transport

# No manifest has this digest, so deleting it deletes nothing.
_NOTHING = digest_of(b"lockstep-preflight")
_ANY = (200, 206, 400, 404, 405, 416, 501)
# As Docker Hub sends it: https://docs.docker.com/docker-hub/usage/pulls/#view-hourly-pull-rate-and-limit
_RATE = re.compile(r"(\d+)(?:;w=(\d+))?")


@frozen
class Capabilities:
    """The capabilities of a registry, for one repository and this login.

    ``mounts`` (blobs), ``ranges`` (parts of blobs) and ``sizes`` (of blobs) can only be tested with a blob; they are
    None if the repository is empty. ``requests_left`` of ``request_limit`` pulls may be made in ``limit_seconds``; a
    limit of 0 means that the registry states none.
    """

    encrypted: bool
    deletes: bool
    mounts: bool | None = None
    ranges: bool | None = None
    sizes: bool | None = None
    requests_left: int = 0
    request_limit: int = 0
    limit_seconds: int = 0


def read_capabilities(
    transport: Transport, repository: str, tag: str, blob: str, mount: Callable[[], bool]
) -> Capabilities:
    """The registry's capabilities; ``tag`` and ``blob`` are of the repository, and empty if it has none.

    ``mount`` mounts the blob from the repository into itself, which changes nothing.

    :raises Unreachable: if the registry does not answer.
    """
    encrypted = urlsplit(transport.resolve("/v2/")).scheme == "https"
    deletes = _deletes(transport, repository)
    if not blob:
        return Capabilities(encrypted, deletes)
    ask = partial(transport.request, scope=pull_scope(repository))
    accept = {"Accept": ", ".join(ACCEPTED)}
    manifest = ask("HEAD", f"/v2/{repository}/manifests/{tag}", expected=_ANY, headers=accept)
    url = f"/v2/{repository}/blobs/{blob}"
    head = ask("HEAD", url, expected=_ANY)
    part = ask("GET", url, expected=_ANY, headers={"Range": "bytes=0-0"}, keep=False)
    limit, seconds = _rate(manifest, "RateLimit-Limit")
    return Capabilities(
        encrypted,
        deletes,
        mount(),
        part.status == 206,
        head.status == 200 and head.header("Content-Length").isdecimal(),
        _rate(manifest, "RateLimit-Remaining")[0],
        limit,
        seconds,
    )


def _deletes(transport: Transport, repository: str) -> bool:
    scope = scope_of(repository, "pull,delete")
    try:
        url = f"/v2/{repository}/manifests/{_NOTHING}"
        return transport.request("DELETE", url, expected=(*_ANY, 202), scope=scope).status in (202, 404)
    except Refused:
        return False


def _rate(response: Response, name: str) -> tuple[int, int]:
    match = _RATE.match(response.header(name))
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)
