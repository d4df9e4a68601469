"""Images from outside that image folders are built on: which exact image each name means today."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from buildtools import BuildToolsError
from buildtools.frozen import frozen
from buildtools.image.engine.client import Engine
from buildtools.image.reference import Reference
from buildtools.image.registry.client import Registry

_JOBS = 8
_NO_IMAGE = "scratch"


@frozen
class BaseImage:
    """A base image. ``digest`` is empty where neither engine nor registry knows it.

    ``triggers`` are its ``ONBUILD`` instructions; None where the engine, which could tell, does not have it.
    """

    reference: str
    digest: str = ""
    triggers: tuple[str, ...] | None = None


def find_bases(
    references: Iterable[str], engine: Engine | None, registry_at: Callable[[str], Registry]
) -> dict[str, BaseImage]:
    """Each base image by its reference: as the engine has it, else as its registry says."""

    def find(reference: str) -> BaseImage:
        if reference == _NO_IMAGE:
            return BaseImage(reference, _NO_IMAGE, ())
        parts = Reference.parse(reference)
        if parts.digest:
            return BaseImage(reference, parts.digest, _in_engine(engine, parts, reference).triggers)
        image = _in_engine(engine, parts, reference)
        return image if image.digest else _in_registry(registry_at, parts, reference) or image

    names = sorted(set(references))
    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        return dict(zip(names, pool.map(find, names), strict=True))


def _in_engine(engine: Engine | None, parts: Reference, reference: str) -> BaseImage:
    image = engine.inspect(reference) if engine else None
    if image is None:
        return BaseImage(reference)
    # An image that came from a registry has the same digest on every machine; its id may differ between stores.
    digests = [Reference.parse(digest) for digest in image.get("RepoDigests") or ()]
    digest = next((each.digest for each in digests if each.name == parts.name), "")
    triggers = (image.get("Config") or {}).get("OnBuild") or ()
    return BaseImage(reference, digest or str(image["Id"]), tuple(triggers))


def _in_registry(registry_at: Callable[[str], Registry], parts: Reference, reference: str) -> BaseImage | None:
    try:
        descriptor = registry_at(parts.registry).head_manifest(parts.repository, parts.target)
    except BuildToolsError:
        # The engine may still get it, by a mirror or a login of its own; the build will tell.
        return None
    return BaseImage(reference, descriptor.digest) if descriptor else None
