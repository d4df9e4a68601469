"""A registry, over the OCI distribution protocol, every digest checked on the way out and on the way back.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.parse import urlencode, urlsplit

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.image.docker.credentials import Credential, Credentials
from buildtools.image.http.responses import Response
from buildtools.image.registry.download import Download, lacks_json
from buildtools.image.registry.manifest import (
    ACCEPTED,
    DOCKER_MANIFEST,
    Damaged,
    Descriptor,
    Manifest,
    digest_of,
    is_digest,
)
from buildtools.image.registry.transport import CERTIFICATES, Body, Transport
from buildtools.schedule import REPLICATION_SECONDS, awaited

# A manifest of 4 MiB is the largest that registries must take.
_LARGEST_MANIFEST = 4 * 1024 * 1024
_BLOCK = 256 * 1024
# A blob of so many bytes goes in one request. A larger one goes in two: what a registry was sent it can keep then.
_WHOLE = 8 * 1024 * 1024
_UPLOAD_BREAKS = 5
# A registry reads a blob once more before it confirms it, at so many bytes a second where its store is slow.
_FINISH_SECONDS = 60.0
_FINISH_BYTES_A_SECOND = 16 * 1024 * 1024
# The tag of a manifest that no registry takes.
_PROBE = "lockstep-preflight"
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
        replication_seconds: float = REPLICATION_SECONDS,
    ) -> None:
        self.host = host
        self._replication_seconds = replication_seconds
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
        """Find out whether we may push to a repository, leaving nothing behind.

        An invalid manifest is offered: whoever may not push is refused, whoever may is told that it is invalid. To
        begin an upload and to cancel it would leave a folder in Distribution's store that nothing ever removes.

        :raises Refused: we may not, or nobody may.
        """
        response = self._transport.request(
            "PUT",
            f"/v2/{repository}/manifests/{_PROBE}",
            expected=(200, 201, 202, 400, 404, 405, 406, 415, 422),
            scope=_scope(repository, _PUSH),
            headers={"Content-Type": DOCKER_MANIFEST},
            body=b"{}",
        )
        if response.status in (404, 405):
            raise Refused(
                f"the registry {self.host} does not take pushes to {repository} ({response.status})",
                "create the repository there, or end the registry's read-only mode",
            )
        if response.status < 300:
            self.delete_manifest(repository, digest_of(b"{}"))

    def head_manifest(self, repository: str, target: str) -> Descriptor | None:
        """What a tag or digest points to, without fetching it; None where there is nothing."""
        response = self._transport.request(
            "HEAD",
            f"/v2/{repository}/manifests/{target}",
            expected=(200, 404, 405, 501),
            scope=_scope(repository, _PULL),
            headers={"Accept": ", ".join(ACCEPTED)},
        )
        if response.status == 404:
            return None
        digest, size = response.header("Docker-Content-Digest"), response.header("Content-Length")
        if response.status != 200 or not is_digest(digest) or not size.isdecimal():
            manifest = self.get_manifest(repository, target)
            return Descriptor(manifest.media_type, manifest.digest, len(manifest.body)) if manifest else None
        return Descriptor(_media_type(response), digest, int(size))

    def get_manifest(self, repository: str, target: str) -> Manifest | None:
        """The manifest under a tag or digest; None where there is none.

        :raises Damaged: its bytes are not what its digest says.
        """
        response = self._transport.request(
            "GET",
            f"/v2/{repository}/manifests/{target}",
            expected=(200, 404),
            scope=_scope(repository, _PULL),
            headers={"Accept": ", ".join(ACCEPTED)},
            is_outage=lacks_json,
        )
        if response.status == 404:
            return None
        if len(response.data) > _LARGEST_MANIFEST:
            raise self._wrong(repository, target, f"a manifest of {len(response.data)} bytes")
        manifest = Manifest.received(_media_type(response), response.data)
        digest = target if ":" in target else response.header("Docker-Content-Digest") or manifest.digest
        if manifest.digest != digest:
            raise self._wrong(repository, target, f"bytes whose digest is {manifest.digest}, not {digest}")
        return manifest

    def put_manifest(self, repository: str, target: str, manifest: Manifest) -> str:
        """Store a manifest under a tag (or its own digest), in place of what that tag pointed to; its digest.

        :raises Damaged: the registry says that it stored something else, or has nothing there afterwards.
        """
        response = self._transport.request(
            "PUT",
            f"/v2/{repository}/manifests/{target}",
            expected=(200, 201, 202, 204),
            scope=_scope(repository, _PUSH),
            headers={"Content-Type": manifest.media_type},
            body=manifest.body,
            # Distribution 2.8 says so of one that is right while another job pushes the same.
            is_outage=lambda response: response.status == 400 and b"DIGEST_INVALID" in response.data,
        )
        digest = response.header("Docker-Content-Digest") or manifest.digest
        if response.status != 201:
            # Quay and others answer like that where the specification has 201. Whether it is there is then asked.
            manifest_digest = awaited(lambda: self.head_manifest(repository, target), seconds=self._replication_seconds)
            digest = manifest_digest.digest if manifest_digest else "nothing"
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

        :raises Damaged: the response is not such a list.
        """
        tags: list[str] = []
        url = f"/v2/{repository}/tags/list?n=1000"
        while url:
            answer = self._transport.request("GET", url, expected=(200, 404), scope=_scope(repository, _PULL))
            if answer.status == 404:
                return tags
            try:
                tags += map(str, json.loads(answer.data).get("tags") or ())
            except (ValueError, TypeError, AttributeError, RecursionError):
                raise self._wrong(repository, "tags", "what is not a list of tags") from None
            link, _, relation = answer.header("Link", "").partition(";")
            url = self._transport.resolve(link.strip(" <>")) if "next" in relation else ""
        return tags

    def blob_size(self, repository: str, digest: str) -> int | None:
        """The size of a blob in bytes; None where the repository does not have it.

        Not every registry tells it where it is asked by HEAD; then the blob's first byte is asked for, and where even
        that does not tell, the blob is read.
        """
        url, scope = f"/v2/{repository}/blobs/{digest}", _scope(repository, _PULL)
        response = self._transport.request("HEAD", url, expected=(200, 400, 404, 405, 501), scope=scope)
        size = response.header("Content-Length")
        if response.status == 404 or (response.status == 200 and size.isdecimal()):
            return int(size) if response.status == 200 else None
        response = self._transport.request(
            "GET", url, expected=(200, 206, 404, 416), scope=scope, headers={"Range": "bytes=0-0"}, keep=False
        )
        if response.status == 404:
            return None
        total = response.header("Content-Range").rpartition("/")[2]
        return int(total) if response.status in (206, 416) and total.isdecimal() else response.size

    def get_blob(self, repository: str, digest: str) -> bytes | None:
        """The whole of a small blob; None where the repository does not have it.

        :raises Damaged: its bytes are not what the digest says.
        """
        response = self._transport.request(
            "GET",
            f"/v2/{repository}/blobs/{digest}",
            expected=(200, 404),
            scope=_scope(repository, _PULL),
            is_outage=lambda response: lacks_json(response) if response.status == 404 else _is_empty(response, digest),
        )
        if response.status == 404:
            return None
        if digest_of(response.data) != digest:
            raise self._wrong(repository, digest, f"bytes whose digest is {digest_of(response.data)}")
        return response.data

    def download_blob(self, repository: str, digest: str, write: Callable[[bytes], object]) -> bool:
        """Hand a blob of any size to ``write``, block by block; False where the repository does not have it.

        After a break it goes on where it stopped. Only after the end is it known whether the bytes are right.

        :raises Damaged: they are not what the digest says.
        """
        request = partial(
            self._transport.request, "GET", f"/v2/{repository}/blobs/{digest}", scope=_scope(repository, _PULL)
        )
        download = Download(digest, write)
        is_there = download.complete(request, self._transport.wait)
        if is_there and download.digest != digest:
            raise self._wrong(repository, digest, f"bytes whose digest is {download.digest}")
        return is_there

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Make a blob of another repository one of this repository, without sending it; whether that worked."""
        query = urlencode({"mount": digest, "from": source})
        try:
            answer = self._transport.request(
                "POST",
                f"/v2/{repository}/blobs/uploads/?{query}",
                # Those that do not mount answer in several ways: Harbor 400, others 404 or 405.
                expected=(201, 202, 400, 404, 405),
                scope=f"{_scope(repository, _PUSH)} {_scope(source, _PULL)}",
            )
        except Refused:
            # Who may not read there can still send the blob.
            return False
        if answer.status == 202:
            self._cancel_upload(repository, self._location(answer))
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
                self._finish_upload(
                    repository, location, digest, size - start, lambda: _blocks(source, 0, progress), size
                )
            except Unreachable:
                breaks += 1
                if breaks > _UPLOAD_BREAKS:
                    raise
            else:
                return
            self._transport.wait(breaks)
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
        return self._location(answer)

    def _start_upload(self, repository: str) -> str:
        answer = self._transport.request(
            "POST", f"/v2/{repository}/blobs/uploads/", expected=(202,), scope=_scope(repository, _PUSH)
        )
        return self._location(answer)

    def _location(self, response: Response) -> str:
        location = response.header("Location")
        if not location:
            raise Unreachable(
                f"the registry {self.host} began an upload and does not say where it goes on",
                "a proxy before it may be broken; run the same again",
            )
        return self._transport.resolve(location)

    def _finish_upload(
        self, repository: str, location: str, digest: str, size: int, body: Body, blob_size: int
    ) -> None:
        joint = "&" if urlsplit(location).query else "?"
        answer = self._transport.request(
            "PUT",
            f"{location}{joint}{urlencode({'digest': digest})}",
            expected=(200, 201, 202, 204),
            scope=_scope(repository, _PUSH),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            body=body if size else b"",
            attempts=1,
            seconds=_FINISH_SECONDS + blob_size / _FINISH_BYTES_A_SECOND,
        )
        confirmed_digest = answer.header("Docker-Content-Digest") or digest
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
        with suppress(BuildToolsError):
            self._transport.request(
                "DELETE",
                location,
                expected=(200, 202, 204, 400, 404, 405),
                scope=_scope(repository, "pull,push,delete"),
                attempts=1,
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


def _media_type(response: Response) -> str:
    return response.header("Content-Type").partition(";")[0].strip()


def _is_empty(response: Response, digest: str) -> bool:
    return not response.data and digest != digest_of(b"")


def _scope(repository: str, actions: str) -> str:
    return f"repository:{repository}:{actions}"
