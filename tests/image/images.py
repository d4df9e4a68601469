"""Images made out of nothing and loaded into an engine: quicker than a build, and every byte is known."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence

from buildtools.image.engine.client import Engine
from buildtools.image.registry.manifest import FINGERPRINT_LABEL

Layer = Mapping[str, bytes]


def layer_tar(files: Layer) -> bytes:
    """The uncompressed bytes of a layer with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def load(engine: Engine, layers: Sequence[Layer], fingerprint: str, **labels: str) -> str:
    """The id of an image of these layers, which the engine now has."""
    tars = [layer_tar(files) for files in layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Labels": {FINGERPRINT_LABEL: fingerprint, **labels}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in tars]},
        "history": [{"created_by": "a test"} for _ in tars],
    }
    entries = {f"{number}/layer.tar": one for number, one in enumerate(tars)}
    entries["config.json"] = json.dumps(config).encode()
    entries["manifest.json"] = json.dumps(
        [{"Config": "config.json", "RepoTags": None, "Layers": [f"{number}/layer.tar" for number in range(len(tars))]}]
    ).encode()
    (said,) = engine.api.load_image(layer_tar(entries))
    # Not every engine calls an image by the digest of its configuration.
    image_id: str = said["stream"].strip().removeprefix("Loaded image ID: ")
    return image_id
