"""Tree objects. https://git-scm.com/docs/gitformat-pack and ``fsck-objects``: mode, space, name, null, id."""

from __future__ import annotations

from collections.abc import Iterator

from buildtools.git.errors import DamagedRepository


def entries(content: bytes, hash_size: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Mode, name and id of each entry of a tree, in order.

    :raises DamagedRepository: if the tree is truncated.
    """
    at = 0
    while at < len(content):
        space = content.find(b" ", at)
        null = content.find(b"\0", space)
        end = null + 1 + hash_size
        if space < 0 or null < 0 or end > len(content):
            raise DamagedRepository("a tree object cannot be understood")
        try:
            mode = int(content[at:space], 8)
        except ValueError:
            raise DamagedRepository("a tree object cannot be understood") from None
        yield mode, content[space + 1 : null], content[null + 1 : end]
        at = end
