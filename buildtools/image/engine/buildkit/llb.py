"""Where a build's files come from, in BuildKit's own language, LLB.

https://github.com/moby/buildkit/blob/master/solver/pb/ops.proto
"""

from __future__ import annotations

import hashlib

from buildtools.image.engine.buildkit.protobuf import blob, table, text


def offered_tree(name: str, session_id: str) -> bytes:
    """The ``Definition`` of a tree of files that a session offers by this name, all of it."""
    attributes = {"local.session": session_id, "local.sharedkeyhint": name}
    source = blob(3, text(1, f"local://{name}") + table(2, attributes))
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    # An operation that is nothing but its input is the end.
    end = blob(1, text(1, digest))
    shown = text(1, digest) + blob(2, table(2, {"llb.customname": f"[internal] load build {name}"}))
    return blob(1, source) + blob(1, end) + blob(2, shown)
