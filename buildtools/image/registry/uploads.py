"""Upload a blob to a registry: start an upload, send its bytes, and finish it with the expected digest.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-a-blob-in-chunks
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import IO
from urllib.parse import urlencode, urlsplit

from buildtools import BuildToolsError, Unreachable
from buildtools.image.http.responses import Response
from buildtools.image.registry.auth import push_scope, scope_of
from buildtools.image.registry.manifest import Damaged
from buildtools.image.registry.transport import Body, Transport

_BLOCK = 256 * 1024
_CONTENT = "application/octet-stream"
# A registry reads a blob once more before it confirms it, at this many bytes a second if its store is slow.
_FINISH_SECONDS = 60.0
_FINISH_BYTES_A_SECOND = 16 * 1024 * 1024


class Uploads:
    """Uploads into one repository. Each continues at the URL in the registry's last response about it."""

    def __init__(self, transport: Transport, repository: str) -> None:
        self._transport = transport
        self._repository = repository

    def begin(self) -> str:
        """Start an upload; returns its URL."""
        answer = self._transport.request(
            "POST",
            f"/v2/{self._repository}/blobs/uploads/",
            expected=(202,),
            scope=push_scope(self._repository),
        )
        return self.location(answer)

    def send(
        self,
        location: str,
        source: Callable[[], IO[bytes]],
        start: int,
        size: int,
        progress: Callable[[int], None],
    ) -> str:
        """Send the bytes from ``start`` up to ``size``; returns the URL to continue at."""
        headers = {"Content-Type": _CONTENT, "Content-Length": str(size - start)}
        if start:
            headers["Content-Range"] = f"{start}-{size - 1}"
        answer = self._transport.request(
            "PATCH",
            location,
            expected=(202, 204),
            scope=push_scope(self._repository),
            headers=headers,
            body=lambda: blocks(source, start, progress),
            attempts=1,
        )
        return self.location(answer)

    def finish(self, location: str, digest: str, size: int, body: Body, blob_size: int) -> None:
        """Finish an upload with its last ``size`` bytes, which makes a blob of ``blob_size`` bytes with this digest.

        :raises Damaged: if the registry confirms another digest.
        """
        joint = "&" if urlsplit(location).query else "?"
        answer = self._transport.request(
            "PUT",
            f"{location}{joint}{urlencode({'digest': digest})}",
            expected=(200, 201, 202, 204),
            scope=push_scope(self._repository),
            headers={"Content-Type": _CONTENT, "Content-Length": str(size)},
            body=body if size else b"",
            attempts=1,
            seconds=_FINISH_SECONDS + blob_size / _FINISH_BYTES_A_SECOND,
        )
        confirmed_digest = answer.header("Docker-Content-Digest") or digest
        if confirmed_digest != digest:
            what = f"that it stored {confirmed_digest}"
            raise wrong_answer(self._transport.host, self._repository, digest, what)

    def state(self, location: str) -> tuple[str, int] | None:
        """The URL and the byte to continue an upload at; None if the registry no longer knows it.

        Distribution up to 2.8 forgets an upload whose connection broke during a request.
        """
        answer = self._transport.request(
            "GET", location, expected=(204, 400, 404, 416), scope=push_scope(self._repository)
        )
        if answer.status != 204:
            return None
        last = answer.header("Range", "").rpartition("-")[2]
        # "0-0" means an empty upload or one of one byte; sending that byte again is rejected, so start again.
        if not last.isdigit() or last == "0":
            return None
        return self._transport.resolve(answer.header("Location", location)), int(last) + 1

    def cancel(self, location: str) -> None:
        """Cancel an upload, if permitted: some registries require the right to delete.

        Otherwise the registry deletes it in time.
        """
        with suppress(BuildToolsError):
            self._transport.request(
                "DELETE",
                location,
                expected=(200, 202, 204, 400, 404, 405),
                scope=scope_of(self._repository, "pull,push,delete"),
                attempts=1,
            )

    def location(self, response: Response) -> str:
        """The URL to continue an upload at, from a response about it.

        :raises Unreachable: if it has none.
        """
        location = response.header("Location")
        if not location:
            raise Unreachable(
                f"the registry {self._transport.host} started an upload but does not say where to continue it",
                "a proxy before it may be broken; run the same command again",
            )
        return self._transport.resolve(location)


def blocks(
    source: Callable[[], IO[bytes]], start: int, progress: Callable[[int], None]
) -> Generator[bytes, None, None]:
    """The bytes of a file from ``start``, as a request body; ``progress`` gets the position after each block."""
    with source() as file:
        file.seek(start)
        while block := file.read(_BLOCK):
            yield block
            start += len(block)
            progress(start)


def wrong_answer(host: str, repository: str, target: str, what: str) -> Damaged:
    """The error for a response that contradicts the request."""
    return Damaged(
        f"the registry {host} answers for {repository} {target} with {what}",
        "its store or a proxy before it is broken; tell its administrator",
    )
