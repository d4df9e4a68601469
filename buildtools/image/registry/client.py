"""A registry, over the OCI distribution protocol, every digest checked on the way out and on the way back.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.parse import urlencode, urlsplit

from buildtools import Refused, Unreachable
from buildtools.image.docker.credentials import Credential, Credentials
from buildtools.image.http.responses import Response
from buildtools.image.registry.manifest import ACCEPTED, Damaged, Descriptor, Manifest, digest_of
from buildtools.image.registry.transport import CERTIFICATES, Body, Transport

# A manifest of 4 MiB is the largest that registries must take.
_LARGEST_MANIFEST = 4 * 1024 * 1024
_BLOCK = 256 * 1024
# A blob of so many bytes goes in one request. A larger one goes in two: what a registry was sent it can keep then.
_WHOLE = 8 * 1024 * 1024
_UPLOAD_BREAKS = 5
_PULL = "pull"
_PUSH = "pull,push"


class Registry:
    """The registry at ``host`` (``HOST`` or ``HOST:PORT``). Safe for threads; connections are kept alive.

    :class:`Unreachable` is raised by every method when the registry does not answer, :class:`Refused` when it declines
    the login or the right.
    """

    def __init__(
        self,
        host: str,
        credentials: Credentials | None = None,
        *,
        plain_http: bool = False,
        ca: str = "",
        certificates: Path = CERTIFICATES,
        environment: Mapping[str, str] = MappingProxyType({}),
        pause: float = 0.25,
    ) -> None:
        self.host = host
        self._transport = Transport(
            host,
            credentials,
            plain_http=plain_http,
            ca=ca,
            certificates=certificates,
            environment=environment,
            pause=pause,
        )

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def abort(self) -> None:
        """End what is under way; threads that wait for the registry get :class:`Unreachable`, now and from now on."""
        self._transport.abort()

    @property
    def credential(self) -> Credential | None:
        """What we log in with; None for nothing."""
        return self._transport.credential

    def ping(self) -> None:
        """Ask whether this is a registry that lets us in."""
        self._transport.request("GET", "/v2/", expected=(200,))

    def check_push_access(self, repository: str) -> None:
        """Find out whether we may push to a repository, leaving nothing behind."""
        self._cancel_upload(repository, self._start_upload(repository))

    def head_manifest(self, repository: str, target: str) -> Descriptor | None:
        """What a tag or digest points to, without fetching it; None where there is nothing."""
        answer = self._manifest("HEAD", repository, target)
        if answer.status == 404:
            return None
        digest = answer.header("Docker-Content-Digest", "")
        if not digest:
            manifest = self.get_manifest(repository, target)
            return Descriptor(manifest.media_type, manifest.digest, len(manifest.body)) if manifest else None
        kind = answer.header("Content-Type", "").partition(";")[0]
        return Descriptor(kind, digest, int(answer.header("Content-Length", "0")))

    def get_manifest(self, repository: str, target: str) -> Manifest | None:
        """The manifest under a tag or digest; None where there is none.

        :raises Damaged: its bytes are not what its digest says.
        """
        answer = self._manifest("GET", repository, target)
        if answer.status == 404:
            return None
        if len(answer.data) > _LARGEST_MANIFEST:
            raise self._wrong(repository, target, f"a manifest of {len(answer.data)} bytes")
        manifest = Manifest(answer.header("Content-Type", "").partition(";")[0], answer.data)
        promised = target if ":" in target else answer.header("Docker-Content-Digest", manifest.digest)
        if manifest.digest != promised:
            raise self._wrong(repository, target, f"bytes whose digest is {manifest.digest}, not {promised}")
        return manifest

    def put_manifest(self, repository: str, target: str, manifest: Manifest) -> str:
        """Store a manifest under a tag (or its own digest), in place of what that tag pointed to; its digest."""
        answer = self._transport.request(
            "PUT",
            f"/v2/{repository}/manifests/{target}",
            expected=(201,),
            scope=_scope(repository, _PUSH),
            headers={"Content-Type": manifest.media_type},
            body=manifest.body,
        )
        digest = answer.header("Docker-Content-Digest", manifest.digest)
        if digest != manifest.digest:
            raise self._wrong(repository, target, f"that it stored {digest}, not {manifest.digest}")
        return manifest.digest

    def delete_manifest(self, repository: str, digest: str) -> bool:
        """Delete a manifest and every tag that points to it; False where the registry does not delete."""
        answer = self._transport.request(
            "DELETE",
            f"/v2/{repository}/manifests/{digest}",
            expected=(202, 404, 405),
            scope=_scope(repository, "pull,delete"),
        )
        return answer.status in (202, 404)

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository, in the registry's order; none for a repository that does not exist.

        :raises Damaged: the answer is no such list.
        """
        tags: list[str] = []
        url = f"/v2/{repository}/tags/list?n=1000"
        while url:
            answer = self._transport.request("GET", url, expected=(200, 404), scope=_scope(repository, _PULL))
            if answer.status == 404:
                return tags
            try:
                tags += map(str, json.loads(answer.data).get("tags") or ())
            except (ValueError, TypeError, AttributeError):
                raise self._wrong(repository, "tags", "what is no list of tags") from None
            link, _, relation = answer.header("Link", "").partition(";")
            url = self._transport.resolve(link.strip(" <>")) if "next" in relation else ""
        return tags

    def blob_size(self, repository: str, digest: str) -> int | None:
        """The size of a blob in bytes; None where the repository does not have it."""
        answer = self._transport.request(
            "HEAD", f"/v2/{repository}/blobs/{digest}", expected=(200, 404), scope=_scope(repository, _PULL)
        )
        return int(answer.header("Content-Length", "0")) if answer.status == 200 else None

    def get_blob(self, repository: str, digest: str) -> bytes | None:
        """The whole of a small blob; None where the repository does not have it.

        :raises Damaged: its bytes are not what the digest says.
        """
        answer = self._transport.request(
            "GET", f"/v2/{repository}/blobs/{digest}", expected=(200, 404), scope=_scope(repository, _PULL)
        )
        if answer.status == 404:
            return None
        if digest_of(answer.data) != digest:
            raise self._wrong(repository, digest, f"bytes whose digest is {digest_of(answer.data)}")
        return answer.data

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Make a blob of another repository one of this repository, without sending it; whether that worked."""
        query = urlencode({"mount": digest, "from": source})
        try:
            answer = self._transport.request(
                "POST",
                f"/v2/{repository}/blobs/uploads/?{query}",
                expected=(201, 202),
                scope=f"{_scope(repository, _PUSH)} {_scope(source, _PULL)}",
            )
        except Refused:
            # Who may not read there can still send the blob.
            return False
        if answer.status == 202:
            self._cancel_upload(repository, self._transport.resolve(answer.header("Location")))
        return answer.status == 201

    def put_blob(self, repository: str, body: bytes) -> str:
        """Store a small blob; its digest."""
        digest = digest_of(body)
        self.upload_blob(repository, digest, len(body), lambda: io.BytesIO(body))
        return digest

    def upload_blob(
        self,
        repository: str,
        digest: str,
        size: int,
        source: Callable[[], IO[bytes]],
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Store a blob from a seekable file of ``size`` bytes, which ``source`` opens.

        After a break the registry is asked how much it has, and the upload goes on from there; where it cannot say, the
        blob is sent anew. ``progress`` is told how many bytes are sent.

        :raises Unreachable: the connection broke too often without getting on.
        :raises BuildToolsError: the registry does not accept the bytes as this digest.
        """
        breaks = 0
        location, start = self._start_upload(repository), 0
        while True:
            try:
                if start < size and (breaks or size > _WHOLE):
                    location = self._send_part(repository, location, source, start, size, progress)
                    start = size
                self._finish_upload(repository, location, digest, size - start, lambda: _blocks(source, 0, progress))
            except Unreachable:
                breaks += 1
                if breaks > _UPLOAD_BREAKS:
                    raise
            else:
                return
            time.sleep(self._transport.backoff(breaks))
            state = self._upload_state(repository, location)
            if state is None:
                if self.blob_size(repository, digest) == size:
                    return
                location, start = self._start_upload(repository), 0
            else:
                if state[1] > start:
                    breaks = 0
                location, start = state

    def _send_part(
        self,
        repository: str,
        location: str,
        source: Callable[[], IO[bytes]],
        start: int,
        size: int,
        progress: Callable[[int], None],
    ) -> str:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size - start)}
        if start:
            headers["Content-Range"] = f"{start}-{size - 1}"
        answer = self._transport.request(
            "PATCH",
            location,
            expected=(202, 204),
            scope=_scope(repository, _PUSH),
            headers=headers,
            body=lambda: _blocks(source, start, progress),
            attempts=1,
        )
        return self._transport.resolve(answer.header("Location"))

    def _start_upload(self, repository: str) -> str:
        answer = self._transport.request(
            "POST", f"/v2/{repository}/blobs/uploads/", expected=(202,), scope=_scope(repository, _PUSH)
        )
        return self._transport.resolve(answer.header("Location"))

    def _finish_upload(self, repository: str, location: str, digest: str, size: int, body: Body) -> None:
        joint = "&" if urlsplit(location).query else "?"
        answer = self._transport.request(
            "PUT",
            f"{location}{joint}{urlencode({'digest': digest})}",
            expected=(201, 204),
            scope=_scope(repository, _PUSH),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            body=body if size else b"",
            attempts=1,
        )
        confirmed_digest = answer.header("Docker-Content-Digest", digest)
        if confirmed_digest != digest:
            raise self._wrong(repository, digest, f"that it stored {confirmed_digest}")

    def _upload_state(self, repository: str, location: str) -> tuple[str, int] | None:
        """Where to go on with an upload, and from which byte; None where the registry does not know it any more.

        Distribution up to 2.8 forgets an upload whose connection broke inside a request.
        """
        answer = self._transport.request(
            "GET", location, expected=(204, 400, 404, 416), scope=_scope(repository, _PUSH)
        )
        if answer.status != 204:
            return None
        last = answer.header("Range", "").rpartition("-")[2]
        # "0-0" is said of an empty upload and of one that holds a byte; sending that byte again is refused, so anew.
        if not last.isdigit() or last == "0":
            return None
        return self._transport.resolve(answer.header("Location", location)), int(last) + 1

    def _cancel_upload(self, repository: str, location: str) -> None:
        # Some want the right to delete for this. An upload that stays is thrown away by the registry in time.
        with suppress(Refused):
            self._transport.request(
                "DELETE",
                location,
                expected=(200, 202, 204, 400, 404, 405),
                scope=_scope(repository, "pull,push,delete"),
            )

    def _manifest(self, method: str, repository: str, target: str) -> Response:
        return self._transport.request(
            method,
            f"/v2/{repository}/manifests/{target}",
            expected=(200, 404),
            scope=_scope(repository, _PULL),
            headers={"Accept": ", ".join(ACCEPTED)},
        )

    def _wrong(self, repository: str, target: str, what: str) -> Damaged:
        return Damaged(
            f"the registry {self.host} answers for {repository} {target} with {what}",
            "its store or a proxy before it is broken; tell its administrator",
        )


def _blocks(
    source: Callable[[], IO[bytes]], start: int, progress: Callable[[int], None]
) -> Generator[bytes, None, None]:
    with source() as file:
        file.seek(start)
        while block := file.read(_BLOCK):
            yield block
            start += len(block)
            progress(start)


def _scope(repository: str, actions: str) -> str:
    return f"repository:{repository}:{actions}"
