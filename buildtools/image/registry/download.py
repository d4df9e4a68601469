"""One blob on its way from a registry, over as many connections as it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http.client import HTTPResponse

from buildtools import Unreachable
from buildtools.image.http.responses import Response
from buildtools.image.registry.manifest import Damaged, read_object

# So often in a row it may break without getting on.
_BREAKS = 5


class Download:
    """Hands a blob to ``write`` once, in order, whatever is sent again after a break. ``size`` is of what has come.

    :raises Damaged: the digest is of an algorithm that nobody uses.
    """

    def __init__(self, digest: str, write: Callable[[bytes], object]) -> None:
        algorithm = digest.partition(":")[0]
        # https://github.com/opencontainers/image-spec/blob/main/descriptor.md#registered-algorithms
        if algorithm not in ("sha256", "sha512"):
            raise Damaged(f"{digest} is a digest of an unknown algorithm", "push the image anew")
        self.size = 0
        self._write = write
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._surplus = 0

    @property
    def digest(self) -> str:
        """Of what has come."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def complete(self, request: Callable[..., Response], wait: Callable[[int], object]) -> bool:
        """Ask until all of it has come; False where the repository does not have it.

        ``request`` is that of :class:`Transport`, for the blob; ``wait`` waits after so many breaks in a row.

        :raises Unreachable: it broke again and again without getting on.
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
        # What is not the blob's is kept, to be looked at. A registry may send all of a blob whose rest is asked for.
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
    """Whether this is from something before the registry, whose manifests and errors are JSON objects."""
    return response.status in (200, 404) and read_object(response.data) is None
