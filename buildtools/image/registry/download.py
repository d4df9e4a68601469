"""The download of one blob from a registry, over as many connections as needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http.client import HTTPResponse

from buildtools import Unreachable
from buildtools.image.http.responses import Response
from buildtools.image.registry.manifest import Damaged, read_object

# How many interruptions in a row without progress are tolerated.
_BREAKS = 5


class Download:
    """Passes a blob to ``write`` once, in order, whatever an interruption repeats. ``size`` is what has arrived.

    :raises Damaged: if the digest has an unknown algorithm.
    """

    def __init__(self, digest: str, write: Callable[[bytes], object]) -> None:
        algorithm = digest.partition(":")[0]
        # https://github.com/opencontainers/image-spec/blob/main/descriptor.md#registered-algorithms
        if algorithm not in ("sha256", "sha512"):
            raise Damaged(f"{digest} is a digest of an unknown algorithm", "push the image again")
        self.size = 0
        self._write = write
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._surplus = 0

    @property
    def digest(self) -> str:
        """The digest of what has arrived."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def complete(self, request: Callable[..., Response], wait: Callable[[int], object]) -> bool:
        """Request the blob until all of it has arrived; returns False if the repository does not have it.

        ``request`` is that of :class:`Transport`, for the blob; ``wait`` waits after the given number of interruptions
        in a row.

        :raises Unreachable: if it was interrupted too often without progress.
        """
        breaks = 0
        while True:
            size = self.size
            range_field = {"Range": f"bytes={size}-"} if size else {}
            try:
                response = request(
                    expected=(200, 206, 404),
                    headers=range_field,
                    attempts=1,
                    is_outage=lambda response: response.status == 404 and lacks_json(response),
                    destination=self._destination,
                )
            except Unreachable:
                breaks = 1 if self.size > size else breaks + 1
                if breaks >= _BREAKS:
                    raise
                wait(breaks)
            else:
                return response.status != 404

    def _destination(self, head: HTTPResponse) -> Callable[[bytes], object] | None:
        # Other content is kept for inspection. A registry may send the whole blob even if only the rest was requested.
        if head.headers.get_content_type() == "text/html":
            return None
        if head.status == 206 and str(head.getheader("Content-Range")).startswith(f"bytes {self.size}-"):
            self._surplus = 0
        elif head.status == 200:
            self._surplus = self.size
        else:
            return None
        return self._take

    def _take(self, block: bytes) -> None:
        rest = block[self._surplus :]
        self._surplus -= len(block) - len(rest)
        if rest:
            self._write(rest)
            self._hash.update(rest)
            self.size += len(rest)


def lacks_json(response: Response) -> bool:
    """Whether this comes from a proxy: the registry's own manifests and errors are JSON objects."""
    return response.status in (200, 404) and read_object(response.data) is None
