"""The engine's own push, which raises the errors in its response and can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from buildtools import BuildToolsError
from buildtools.image.docker.credentials import Credential
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.registry.client import Registry
from buildtools.image.registry.manifest import DOCKER_CONFIG, Descriptor, Manifest, digest_of, encode


def short_id(diff_id: str) -> str:
    """The engine's name for a layer in its reports of a push."""
    return diff_id.removeprefix("sha256:")[:12]


@contextmanager
def temporary_name(engine: Engine, image_id: str, reference: str) -> Iterator[None]:
    """Give an image another name for a while. If it has no other name, it keeps this one, or it would be deleted."""
    engine.tag(image_id, reference)
    try:
        yield
    finally:
        image = engine.inspect(image_id)
        if image and [tag for tag in image.get("RepoTags") or () if tag != reference]:
            engine.untag(reference)


def push_by_engine(
    engine: Engine,
    name: str,
    tag: str,
    credential: Credential | None,
    may_send: Callable[[str, int], bool],
    layer_sent: Callable[[str, int, int], object],
) -> bool:
    """Let the engine push ``name:tag``.

    ``may_send`` is called with a layer's short id and its size in bytes, before much of that layer was sent; if it
    returns False, the push is stopped and returns False. ``layer_sent`` is called with a layer's id, the bytes sent,
    and the total.

    :raises EngineError: if it failed, with the engine's reason.
    """
    login = credential.login if credential else {}
    with engine.errors():
        lines = engine.api.push(name, tag, stream=True, decode=True, auth_config=login)
        try:
            for line in lines:
                # After the first line of the response, an error is only another line; the status was already 200.
                if "error" in line:
                    raise _failure(f"{name}:{tag}", str(line["error"]))
                if line.get("status") == "Pushing":
                    progress = line.get("progressDetail") or {}
                    layer, size = line.get("id", ""), progress.get("total") or 0
                    if not may_send(layer, size):
                        return False
                    layer_sent(layer, progress.get("current") or 0, size)
        finally:
            lines.close()
    return True


def _failure(reference: str, reason: str) -> EngineError:
    if "missing content" in reason:
        # A pull fetches neither attestations nor layers whose files are there.
        return EngineError(
            f"the engine has pulled only parts of the image for {reference}, so it cannot push it",
            "push it where it was built, or build it here with --no-cache",
        )
    return EngineError(
        f"the engine cannot push {reference} ({reason})", f"check that you may push to {reference.rpartition(':')[0]}"
    )


def make_known(
    engine: Engine, registry: Registry, repository: str, image_id: str, layers: Mapping[str, Descriptor]
) -> None:
    """Teach an engine the digests of an image's lowest layers in a repository, so that it can push on top of them.

    ``layers`` are these layers, by the digests of their uncompressed bytes. An engine learns the digests when it pulls
    an image that it does not have. So it pulls one of only these layers, which is then deleted.

    :raises EngineError: if it cannot pull.
    """
    image = engine.inspect(image_id) or {}
    config = encode(
        {
            "architecture": image.get("Architecture", ""),
            "os": image.get("Os", ""),
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": list(layers)},
        }
    )
    registry.put_blob(repository, config)
    manifest = Manifest.make(Descriptor(DOCKER_CONFIG, digest_of(config), len(config)), list(layers.values()))
    registry.put_manifest(repository, manifest.digest, manifest)
    reference = f"{registry.host}/{repository}@{manifest.digest}"
    try:
        engine.pull(reference, registry.credential)
        engine.untag(reference)
    finally:
        # Without permission to delete, it stays until the registry's garbage collection; it is very small.
        with suppress(BuildToolsError):
            registry.delete_manifest(repository, manifest.digest)
