"""A client for a registry, with the OCI distribution protocol. Every digest is verified on upload and download.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.parse import urlencode

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.image.docker.credentials import Credential, Credentials
from buildtools.image.http.responses import Response
from buildtools.image.registry.auth import pull_scope, push_scope, scope_of
from buildtools.image.registry.capabilities import Capabilities, read_capabilities
from buildtools.image.registry.download import Download, lacks_json
from buildtools.image.registry.manifest import (
    ACCEPTED,
    DOCKER_MANIFEST,
    Descriptor,
    Manifest,
    digest_of,
    is_digest,
)
from buildtools.image.registry.transport import CERTIFICATES, Transport, reason_of
from buildtools.image.registry.uploads import Uploads, blocks, wrong_answer
from buildtools.schedule import REPLICATION_SECONDS, awaited

# Registries must accept manifests of up to 4 MiB.
_LARGEST_MANIFEST = 4 * 1024 * 1024
# A blob up to this size is sent in one request, a larger one in two, so that the registry can keep what it has
# received.
_WHOLE = 8 * 1024 * 1024
_UPLOAD_BREAKS = 5
# The tag for an invalid manifest, which no registry accepts.
_PROBE = "lockstep-preflight"


class Registry:
    """The registry at ``host`` (``HOST`` or ``HOST:PORT``). Thread-safe; connections are kept alive.

    Every method raises :class:`Unreachable` if the registry does not answer, and :class:`Refused` if it rejects the
    login or denies permission.
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
        """Abort all requests; threads that wait for the registry get :class:`Unreachable`, now and from now on."""
        self._transport.abort()

    @property
    def credential(self) -> Credential | None:
        """The credential for the login; None if there is none."""
        return self._transport.credential

    def ping(self) -> None:
        """Check that this is a registry that grants us access."""
        self._transport.request("GET", "/v2/", expected=(200,))

    def check_push_access(self, repository: str) -> None:
        """Check that we may push to a repository, leaving nothing behind.

        This sends an invalid manifest: without permission it is denied, otherwise it is rejected as invalid. Starting
        and cancelling an upload would leave a folder in Distribution's store that nothing ever removes.

        :raises Refused: if pushing is not allowed.
        """
        response = self._transport.request(
            "PUT",
            f"/v2/{repository}/manifests/{_PROBE}",
            expected=(200, 201, 202, 400, 404, 405, 406, 415, 422),
            scope=push_scope(repository),
            headers={"Content-Type": DOCKER_MANIFEST},
            body=b"{}",
        )
        if response.status in (404, 405):
            raise Refused(
                f"the registry {self.host} does not accept pushes to {repository} ({response.status})",
                "create the repository there, or end the registry's read-only mode",
            )
        if response.status < 300:
            self.delete_manifest(repository, digest_of(b"{}"))

    def capabilities(self, repository: str) -> Capabilities:
        """The registry's optional features; nothing is left behind."""
        tag, blob = "", ""
        # A login that may push need not be allowed to list tags.
        with suppress(Refused):
            tag = next(iter(self.tags(repository)), "")
        manifest = self.get_manifest(repository, tag) if tag else None
        if manifest and manifest.is_index:
            manifest = self.get_manifest(repository, manifest.entries[0].digest) if manifest.entries else None
        if manifest:
            blob = manifest.config.digest
        mount = partial(self.mount_blob, repository, blob, repository)
        return read_capabilities(self._transport, repository, tag, blob, mount)

    def head_manifest(self, repository: str, target: str) -> Descriptor | None:
        """The descriptor that a tag or digest points to, without fetching the content; None if there is none."""
        response = self._transport.request(
            "HEAD",
            f"/v2/{repository}/manifests/{target}",
            expected=(200, 404, 405, 501),
            scope=pull_scope(repository),
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
        """The manifest with a tag or digest; None if there is none.

        :raises Damaged: if its bytes do not match its digest.
        """
        response = self._transport.request(
            "GET",
            f"/v2/{repository}/manifests/{target}",
            expected=(200, 404),
            scope=pull_scope(repository),
            headers={"Accept": ", ".join(ACCEPTED)},
            is_outage=lacks_json,
        )
        if response.status == 404:
            return None
        if len(response.data) > _LARGEST_MANIFEST:
            raise wrong_answer(self.host, repository, target, f"a manifest of {len(response.data)} bytes")
        manifest = Manifest.received(_media_type(response), response.data)
        digest = target if ":" in target else response.header("Docker-Content-Digest") or manifest.digest
        if manifest.digest != digest:
            raise wrong_answer(self.host, repository, target, f"bytes whose digest is {manifest.digest}, not {digest}")
        return manifest

    def put_manifest(self, repository: str, target: str, manifest: Manifest) -> str:
        """Store a manifest under a tag (or its own digest), replacing what the tag pointed to; returns its digest.

        :raises Damaged: if the registry reports another digest, or does not have the manifest afterwards.
        """
        may_be_elsewhere = b'"urls"' in manifest.body and not manifest.is_index
        elsewhere = [url for layer in manifest.layers for url in layer.urls] if may_be_elsewhere else []
        response = self._transport.request(
            "PUT",
            f"/v2/{repository}/manifests/{target}",
            expected=(200, 201, 202, 204, *([500] if elsewhere else [])),
            scope=push_scope(repository),
            headers={"Content-Type": manifest.media_type},
            body=manifest.body,
            # Distribution 2.8 says this of a valid manifest while another job pushes the same.
            is_outage=lambda response: response.status == 400 and b"DIGEST_INVALID" in response.data,
        )
        if response.status == 500:
            # Distribution 2.8 says no more of a URL that it does not allow, which by default is every one.
            raise BuildToolsError(
                f"the registry {self.host} does not take {repository}:{target} ({reason_of(response)}), whose manifest "
                f"says that a layer is at {elsewhere[0]}",
                "allow that address in its configuration (validation.manifests.urls.allow), or use a base image that "
                "has all of its layers",
            )
        digest = response.header("Docker-Content-Digest") or manifest.digest
        if response.status != 201:
            # Quay and others answer like this instead of 201; check whether it is there.
            manifest_digest = awaited(lambda: self.head_manifest(repository, target), seconds=self._replication_seconds)
            digest = manifest_digest.digest if manifest_digest else "nothing"
        if digest != manifest.digest:
            raise wrong_answer(self.host, repository, target, f"that it stored {digest}, not {manifest.digest}")
        return manifest.digest

    def delete_manifest(self, repository: str, digest: str) -> bool:
        """Delete a manifest and every tag that points to it; returns False if the registry does not support that."""
        answer = self._transport.request(
            "DELETE",
            f"/v2/{repository}/manifests/{digest}",
            expected=(200, 202, 204, 404, 405),
            scope=scope_of(repository, "pull,delete"),
        )
        return answer.status != 405

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository, in the registry's order; empty if the repository does not exist.

        :raises Damaged: if the response is not a list of tags.
        """
        tags: list[str] = []
        url = f"/v2/{repository}/tags/list?n=1000"
        while url:
            answer = self._transport.request("GET", url, expected=(200, 404), scope=pull_scope(repository))
            if answer.status == 404:
                return tags
            try:
                tags += map(str, json.loads(answer.data).get("tags") or ())
            except (ValueError, TypeError, AttributeError, RecursionError):
                raise wrong_answer(self.host, repository, "tags", "what is not a list of tags") from None
            link, _, relation = answer.header("Link", "").partition(";")
            following = self._transport.resolve(link.strip(" <>")) if "next" in relation else ""
            # A registry that ignores where to continue would begin again for ever.
            url = following if following != url else ""
        return tags

    def blob_size(self, repository: str, digest: str) -> int | None:
        """The size of a blob in bytes; None if the repository does not have it.

        Not every registry returns it for HEAD. Then the blob's first byte is requested, and if its response has no size
        either, the whole blob.
        """
        url, scope = f"/v2/{repository}/blobs/{digest}", pull_scope(repository)
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
        """The content of a small blob; None if the repository does not have it.

        :raises Damaged: if its bytes do not match the digest.
        """
        response = self._transport.request(
            "GET",
            f"/v2/{repository}/blobs/{digest}",
            expected=(200, 404),
            scope=pull_scope(repository),
            is_outage=lambda response: lacks_json(response) if response.status == 404 else _is_empty(response, digest),
        )
        if response.status == 404:
            return None
        if digest_of(response.data) != digest:
            raise wrong_answer(self.host, repository, digest, f"bytes whose digest is {digest_of(response.data)}")
        return response.data

    def download_blob(self, repository: str, digest: str, write: Callable[[bytes], object]) -> bool:
        """Pass a blob of any size to ``write``, block by block; returns False if the repository does not have it.

        After an interruption it continues where it stopped. Only at the end is it known whether the bytes are right.

        :raises Damaged: if they do not match the digest.
        """
        request = partial(
            self._transport.request, "GET", f"/v2/{repository}/blobs/{digest}", scope=pull_scope(repository)
        )
        download = Download(digest, write)
        is_there = download.complete(request, self._transport.wait)
        if is_there and download.digest != digest:
            raise wrong_answer(self.host, repository, digest, f"bytes whose digest is {download.digest}")
        return is_there

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Mount a blob from another repository, without sending it; returns whether that worked."""
        query = urlencode({"mount": digest, "from": source})
        try:
            answer = self._transport.request(
                "POST",
                f"/v2/{repository}/blobs/uploads/?{query}",
                # Registries that cannot mount answer in several ways: Harbor 400, others 404 or 405.
                expected=(201, 202, 400, 404, 405),
                scope=f"{push_scope(repository)} {pull_scope(source)}",
            )
        except Refused:
            # Without access to the source, the blob can still be uploaded.
            return False
        if answer.status == 202:
            uploads = Uploads(self._transport, repository)
            uploads.cancel(uploads.location(answer))
        return answer.status == 201

    def put_blob(self, repository: str, body: bytes) -> str:
        """Store a small blob; returns its digest."""
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

        After an interruption the registry is asked how much it has, and the upload continues from there; if it cannot
        say, the blob is sent again from the start. ``progress`` is called with the bytes sent so far.

        :raises Unreachable: if the connection broke too often without progress.
        :raises BuildToolsError: if the registry does not accept the bytes as this digest.
        """
        uploads = Uploads(self._transport, repository)
        breaks = 0
        location, start = uploads.begin(), 0
        while True:
            try:
                if start < size and (breaks or size > _WHOLE):
                    location = uploads.send(location, source, start, size, progress)
                    start = size
                uploads.finish(location, digest, size - start, partial(blocks, source, 0, progress), size)
            except Unreachable:
                breaks += 1
                if breaks > _UPLOAD_BREAKS:
                    raise
            else:
                return
            self._transport.wait(breaks)
            state = uploads.state(location)
            if state is None:
                if self.blob_size(repository, digest) == size:
                    return
                location, start = uploads.begin(), 0
            else:
                if state[1] > start:
                    breaks = 0
                location, start = state


def _media_type(response: Response) -> str:
    return response.header("Content-Type").partition(";")[0].strip()


def _is_empty(response: Response, digest: str) -> bool:
    return not response.data and digest != digest_of(b"")
