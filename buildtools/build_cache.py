"""Build caches outside the builder, in the syntax of ``docker build --cache-to`` and ``--cache-from``.

https://docs.docker.com/build/cache/backends/ describes each kind. A text is ``type=registry,ref=HOST/NAME:TAG`` or the
like, or a reference alone. ``type=registry`` alone means the tag ``buildcache-PLATFORM`` of the image's own repository.
In a place, ``{name}`` stands for the image and ``{platform}`` for its platform, as in ``linux-arm64``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace

from buildtools.frozen import frozen
from buildtools.platform import Platform

# Placeholders that keep caches apart: a place that several images write to would hold only the last one's cache.
NAME, PLATFORM = "{name}", "{platform}"
# The key that says where the cache is, for each kind and direction (True is a write).
_PLACES = {("registry", True): "ref", ("registry", False): "ref", ("local", True): "dest", ("local", False): "src"}
_EXPORTED = {
    "mode",
    "oci-mediatypes",
    "image-manifest",
    "compression",
    "compression-level",
    "force-compression",
    "ignore-error",
}
_KEYS = {
    ("registry", True): {"ref", "registry.insecure", *_EXPORTED},
    ("registry", False): {"ref", "registry.insecure"},
    ("local", True): {"dest", "tag", *_EXPORTED},
    ("local", False): {"src", "tag", "digest"},
    ("inline", True): set[str](),
}
_MODES = ("min", "max")


@frozen
class BuildCache:
    """One cache: its ``kind``, and its attributes as BuildKit names them.

    ``place_key`` is the attribute with its place.
    """

    kind: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    place_key: str = ""

    @property
    def place(self) -> str:
        """Where it is: a reference or a folder; empty if the kind implies it."""
        return self.attributes.get(self.place_key, "")

    @property
    def is_own(self) -> bool:
        """Whether it is in the image's own repository, under a tag that we choose."""
        return self.kind == "registry" and not self.place

    @property
    def needs_content(self) -> bool:
        """Whether only a builder that keeps content can write it. Any builder can write an inline cache."""
        return self.kind != "inline"

    def at(self, place: str) -> BuildCache:
        """The same kind of cache at another place."""
        return replace(self, attributes={**self.attributes, self.place_key: place})

    def of_image(self, image: str, platform: Platform, repository: str) -> BuildCache:
        """The cache for one image, whose repository is ``HOST/REPOSITORY``."""
        place = self.place.replace(NAME, image).replace(PLATFORM, str(platform).replace("/", "-"))
        if self.is_own:
            place = f"{repository}:{cache_tag(platform)}"
        return self.at(place) if place else self


def cache_tag(platform: Platform) -> str:
    """The default tag of an image's cache for a platform, in the image's own repository."""
    return f"buildcache-{str(platform).replace('/', '-')}"


def read_caches(texts: Iterable[str], *, written: bool) -> tuple[BuildCache, ...]:
    """The caches that these texts describe. Caches to write (``written``) have other keys than caches to read.

    A list from an environment variable was split at every comma, so the texts are first joined again.

    :raises ValueError: if a text does not describe a cache; the message says why.
    """
    caches: list[tuple[str, dict[str, str]]] = []
    for part in filter(None, map(str.strip, ",".join(texts).split(","))):
        key, equals, value = part.partition("=")
        if key == "type" and equals:
            caches.append((value, {}))
        elif not equals:
            caches.append(("registry", {"ref": key}))
        elif not caches:
            raise ValueError(f"{part!r} comes before its type")
        else:
            caches[-1][1][key] = value
    return tuple(_checked(kind, attributes, written=written) for kind, attributes in caches)


def _checked(kind: str, attributes: Mapping[str, str], *, written: bool) -> BuildCache:
    kinds = [each for each, for_writing in _KEYS if for_writing is written]
    if kind not in kinds:
        what = "is read with type=registry" if kind == "inline" else f"is not one of {', '.join(sorted(kinds))}"
        raise ValueError(f"type={kind} {what}")
    keys = _KEYS[kind, written]
    if unknown := sorted(attributes.keys() - keys):
        has = f"there is {', '.join(sorted(keys))}" if keys else "it has none"
        raise ValueError(f"type={kind} has no key {unknown[0]!r} ({has})")
    if attributes.get("mode", "min") not in _MODES:
        raise ValueError(f"mode={attributes['mode']} is neither min nor max")
    place_key = _PLACES.get((kind, written), "")
    if kind == "local" and not attributes.get(place_key):
        raise ValueError(f"type=local needs {place_key}=FOLDER")
    return BuildCache(kind, attributes, place_key)


def place_error(cache: BuildCache, *, several_images: bool, several_platforms: bool) -> str:
    """What is wrong with the place that a cache is written to; empty if only one build writes there."""
    wanted = [word for word, several in ((NAME, several_images), (PLATFORM, several_platforms)) if several]
    if cache.place and (missing := [word for word in wanted if word not in cache.place]):
        return f"{cache.place} would be written by several builds: put {' and '.join(missing)} into it"
    return ""
