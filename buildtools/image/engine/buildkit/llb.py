"""Where a build's files come from, in BuildKit's low-level language, LLB.

https://github.com/moby/buildkit/blob/master/solver/pb/ops.proto
"""

from __future__ import annotations

import hashlib

from buildtools.image.engine.buildkit.protobuf import bytes_field, map_field, string_field


def offered_tree(name: str, session_id: str) -> bytes:
    """The ``Definition`` of the whole tree of files that a session offers under this name."""
    attributes = {"local.session": session_id, "local.sharedkeyhint": name}
    source = bytes_field(3, string_field(1, f"local://{name}") + map_field(2, attributes))
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    # The last operation only has an input.
    end = bytes_field(1, string_field(1, digest))
    metadata = string_field(1, digest) + bytes_field(
        2, map_field(2, {"llb.customname": f"[internal] load build {name}"})
    )
    return bytes_field(1, source) + bytes_field(1, end) + bytes_field(2, metadata)
