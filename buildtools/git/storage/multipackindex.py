"""The multi-pack-index, of which only the number of objects is needed: each pack has its own index.

https://git-scm.com/docs/gitformat-pack#_multi_pack_index_midx_files_have_the_following_format
"""

from __future__ import annotations

import struct

from buildtools.git.storage.packs import u32, u64
from buildtools.git.storage.small_file import content

_HEADER = 12
_CHUNK = 12


def summary(folder: str) -> tuple[int, set[str]]:
    """The number of objects in this object folder's multi-pack-index, and the file names of the packs' indexes in it.

    A missing or unknown index gives 0 and an empty set.
    """
    path = f"{folder}/pack/multi-pack-index"
    try:
        data = content(path)
        if not data or data[:5] != b"MIDX\1":
            return 0, set()
        places = {data[at : at + 4]: u64(data, at + 4)[0] for at in range(_HEADER, _HEADER + _CHUNK * data[6], _CHUNK)}
        names = data[places[b"PNAM"] :].split(b"\0", u32(data, 8)[0])[:-1]
        return u32(data, places[b"OIDF"] + 255 * 4)[0], {name.decode() for name in names}
    except (OSError, struct.error, KeyError, IndexError, UnicodeDecodeError):
        return 0, set()
