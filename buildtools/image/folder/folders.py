"""The image folders of a project, and the order in which they are built.

Folders depend on each other through their Dockerfiles: ``FROM sibling``, ``FROM ${REGISTRY}/sibling:${VERSION}``,
``COPY --from=sibling``, ``RUN --mount=from=sibling``.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from pathlib import Path

from buildtools import BuildToolsError, Failures, Refused, check_at, failures_of, printable
from buildtools.frozen import frozen
from buildtools.image.folder.context import Selection, ignore_rules
from buildtools.image.folder.dockerfile import Base, Dockerfile, Needs, automatic_arguments, parse
from buildtools.image.folder.instructions import ImageMention
from buildtools.image.reference import Reference, image_name, variant_name
from buildtools.platform import Platform, local_platform
from buildtools.settings import COMPONENT, ImageSettings, Settings
from buildtools.version import Version

# Those that BuildKit reads itself: https://docs.docker.com/reference/dockerfile/#predefined-args
_UNDECLARED_ARGUMENT = re.compile(r"BUILDKIT_\w+|SOURCE_DATE_EPOCH|(?i:https?|ftp|no|all)_(?i:proxy)")


@frozen
class ImageFolder:
    """A direct child of the images folder, with everything that is known about its image without an engine.

    An image for several platforms has one for each of them, with the platform in its ``name``: ``app@linux/arm64``.
    ``parents`` are the siblings it is built from, ``bases`` the external images, both in order of first mention.
    ``platform`` is the image's, ``builder`` the builder's. ``arguments`` are the values of all build arguments,
    including those that only an ``ONBUILD`` of a base image may declare. ``siblings`` maps places in the Dockerfile to
    parents, ``triggers`` has the ``ONBUILD`` instructions of the parents. ``own_needs`` is what building the configured
    target needs.
    """

    name: str
    path: Path
    dockerfile_path: Path
    context: Path
    platform: Platform
    builder: Platform
    parents: tuple[str, ...]
    bases: tuple[str, ...]
    settings: ImageSettings
    arguments: Mapping[str, str] = field(repr=False)
    dockerfile: Dockerfile
    siblings: Mapping[ImageMention, str]
    triggers: Mapping[str, tuple[str, ...]]
    own_needs: Needs

    @property
    def image(self) -> str:
        """The image's name."""
        return image_name(self.name)

    def needs(self, triggers: Mapping[str, Sequence[str]] | None = None) -> Needs:
        """What building the configured target needs, given the ``ONBUILD`` instructions of external images."""
        if not triggers:
            return self.own_needs
        triggers = {**triggers, **self.triggers}
        return _needs(self.dockerfile, self.settings, self.arguments, self.platform, self.builder, triggers)

    def readable_arguments(self, triggers: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Those of ``arguments`` that the Dockerfile or an ``ONBUILD`` declares, or that need not be declared."""
        names = {*self.needs(triggers).arguments, *(argument.name for argument in self.dockerfile.arguments)}
        names |= automatic_arguments(self.builder, self.platform, "").keys()
        return {
            name: value
            for name, value in self.arguments.items()
            if name in names or _UNDECLARED_ARGUMENT.fullmatch(name)
        }

    def outside(self, triggers: Mapping[str, Sequence[str]]) -> tuple[Base, ...]:
        """The external images that a build needs, given the ``ONBUILD`` instructions of those that are known."""
        return tuple(base for base in self.needs(triggers).bases if base.mention not in self.siblings)

    def where(self, base: Base) -> str:
        """The place in the Dockerfile that names a base image, for messages."""
        return f"{self.dockerfile.where} line {base.mention.line}"

    def selection(self, needs: Needs) -> Selection:
        """What a build with these needs may take from the context.

        :raises Refused: if the ignore file has an invalid pattern.
        :raises BuildToolsError: if it cannot be read.
        """
        return Selection(ignore_rules(self.context, self.dockerfile_path), follow=needs.sources)

    def pinned_dockerfile(self, images: Mapping[str, str]) -> bytes:
        """The Dockerfile to build with: references to parents and bases are replaced by the exact images in ``images``.

        Otherwise ``FROM base`` would mean whatever the engine has as ``base:latest``.
        """
        bases = {base.mention: base.image for base in self.own_needs.bases if base.mention.start >= 0}
        places = {**bases, **self.siblings}
        return self.dockerfile.with_images({place: images[name] for place, name in places.items() if name in images})


def image_folders(
    settings: Settings,
    version: Version | None,
    only: Sequence[str] = (),
    *,
    builder: Platform | None = None,
    proxies: Mapping[str, str] | None = None,
) -> tuple[ImageFolder, ...]:
    """The image folders in build order: parents first, otherwise by name; with ``only``, these and their parents.

    ``builder`` is the builder's platform, the default for images without a configured one; by default this machine's.
    ``proxies`` are build arguments for proxies; configured arguments override them.

    :raises Refused: if there is no images folder or none in it, a folder without a Dockerfile, an invalid name, an
        unknown name in ``only`` or in the configuration, an invalid Dockerfile, or a cycle.
    """
    folders, errors = folders_and_errors(settings, version, only, builder=builder, proxies=proxies)
    if errors:
        count = len(errors)
        raise Failures(errors).combined(f"invalid image folders ({count} errors)", "fix the errors above and run again")
    return folders


def folders_and_errors(
    settings: Settings,
    version: Version | None,
    only: Sequence[str] = (),
    *,
    builder: Platform | None = None,
    proxies: Mapping[str, str] | None = None,
) -> tuple[tuple[ImageFolder, ...], list[BuildToolsError]]:
    """The result of :func:`image_folders`, and every error that it raises; an unreadable folder is left out.

    :raises Refused: if there is no images folder or none in it.
    """
    names = _names(settings)
    project = _Project(settings, version, frozenset(names), builder or local_platform(), proxies or {})
    variants = {variant: name for name in names for variant in project.variants(name)}
    unknown = [name for name in settings.image if name not in project.names]
    bare = [name for name in names if not _has_dockerfile(settings, name)]
    errors = failures_of(
        (
            partial(_check_known, "", only, names),
            *(partial(_check_known, f"{settings.place(f'image.{name}')}: ", [name], names) for name in unknown),
            partial(_check_names, settings, names),
            partial(_refuse_bare, settings, bare),
        )
    )
    folders_by_name: dict[str, ImageFolder] = {}
    chosen = frozenset(only) or project.names
    waiting = [variant for variant, name in variants.items() if name in chosen]
    names_before: set[str] = set()
    while waiting:
        variant = waiting.pop()
        name = variants[variant]
        if variant in names_before or not COMPONENT.fullmatch(name) or name in bare:
            continue
        names_before.add(variant)
        errors += failures_of([partial(_read_into, folders_by_name, variant, project)])
        if variant in folders_by_name:
            # With all of their variants, because a version has either all platforms of an image or none.
            waiting += [
                each for parent in folders_by_name[variant].parents for each in project.variants(image_name(parent))
            ]
    parents = {name: tuple(filter(folders_by_name.__contains__, f.parents)) for name, f in folders_by_name.items()}
    folders: dict[str, ImageFolder] = {}
    order, cycles = _build_order(parents)
    errors += cycles
    for name in order:
        folder = folders[name] = folders_by_name[name]
        errors += failures_of(
            [partial(_check_platforms, folder, folders, project), partial(_add_triggers, folders, folder, project)]
        )
        errors += failures_of(
            partial(check_at, folder.where(base), partial(Reference.parse, base.image))
            for base in folders[name].outside({})
        )
    return tuple(folders.values()), errors


def build_arguments(settings: Settings, version: Version | None, name: str) -> dict[str, str]:
    """The values of build arguments that every Dockerfile may declare; configured ones override them.

    ``REGISTRY`` is registry and namespace, ``REVISION`` the commit's id. One without a value here is left out, so that
    the Dockerfile's own default applies.
    """
    ours = {
        "REGISTRY": settings.repository_prefix if settings.registry else "",
        "VERSION": version.text if version else "",
        "REVISION": version.commit if version else "",
    }
    values = {key: value for key, value in ours.items() if value}
    return {**values, **settings.args, **settings.image_settings(name).args}


@frozen
class _Project:
    settings: Settings
    version: Version | None
    names: frozenset[str]
    builder: Platform
    proxies: Mapping[str, str] = field(repr=False)

    def variants(self, name: str) -> dict[str, Platform]:
        """What an image is built for: one variant for each of several platforms, else the image itself."""
        platforms = [Platform.parse(text) for text in self.settings.platforms_of(name)] or [self.builder]
        if len(platforms) == 1:
            return {name: platforms[0]}
        return {variant_name(name, platform): platform for platform in platforms}

    def variant_for(self, name: str, platform: Platform) -> str:
        """The variant of an image for a platform, or its first variant if there is none."""
        variants = self.variants(name)
        return next((variant for variant, each in variants.items() if each == platform), next(iter(variants)))

    def sibling(self, base: Base, of: str) -> str:
        """The folder that a Dockerfile in the folder ``of`` refers to by ``base``; empty if it is an external image.

        A sibling is a bare name, or ``REGISTRY/NAMESPACE/NAME:VERSION``, or ``NAME:VERSION`` with a variable in it.
        With a literal version it is somebody else's image that has the same name.
        """
        name, _, tag = base.image.rpartition("/")[2].partition(":")
        tags = (self.version.text, self.version.image_tag) if self.version else ("",)
        if name not in self.names or (tag not in tags and base.image != name):
            return ""
        prefix = f"{self.settings.repository_prefix}/" if self.settings.registry else "/"
        if base.image == f"{prefix}{name}:{tag}":
            return name
        if base.image == f"{name}:{tag}" and "$" in base.mention.text:
            return name
        # `FROM redis` in a folder called redis can only mean the external image.
        return name if base.image == name != of else ""


def _names(settings: Settings) -> list[str]:
    root = settings.root / settings.images
    if not root.is_dir():
        raise Refused(
            f"{settings.images} {'is not a folder' if root.exists() else 'does not exist'}",
            f"make one folder per image, {settings.images}/NAME/Dockerfile, "
            'or name another folder with images = "…" under [tool.buildtools] in pyproject.toml',
        )
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise Refused(f"{settings.images} has no image folders", f"make one: {settings.images}/NAME/Dockerfile")
    return names


def _check_names(settings: Settings, names: Sequence[str]) -> None:
    impossible = [name for name in names if not COMPONENT.fullmatch(name)]
    if impossible:
        raise Refused(
            f"invalid image name: {', '.join(printable(f'{settings.images}/{name}') for name in impossible)}",
            f"rename it, for example to {', '.join(_possible(name) for name in impossible)}",
        )


def _refuse_bare(settings: Settings, bare: Sequence[str]) -> None:
    if bare:
        paths = ", ".join(f"{settings.images}/{name}/{settings.image_settings(name).dockerfile}" for name in bare)
        raise Refused(f"no Dockerfile: {paths}", "write it, or move the folder elsewhere")


def _read_into(folders: dict[str, ImageFolder], variant: str, project: _Project) -> None:
    folders[variant] = _read(variant, project)


def _has_dockerfile(settings: Settings, name: str) -> bool:
    return (settings.root / settings.images / name / settings.image_settings(name).dockerfile).is_file()


def _possible(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "image"


def _check_known(place: str, references: Iterable[str], names: Sequence[str]) -> None:
    existing = frozenset(names)
    unknown = [name for name in references if name not in existing]
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name.lower(), names, n=1)]
        raise Refused(
            f"{place}unknown image: {', '.join(unknown)}",
            f"did you mean {', '.join(near)}?" if near else f"the images are {', '.join(names)}",
        )


def _read(variant: str, project: _Project) -> ImageFolder:
    name = image_name(variant)
    settings = project.settings.image_settings(name)
    folder = project.settings.root / project.settings.images / name
    path = folder / settings.dockerfile
    context = project.settings.root / settings.context if settings.context else folder
    if not context.is_dir():
        raise Refused(
            f"{project.settings.place(f'image.{name}.context')}: {settings.context} is not a folder",
            "name one that is there, relative to the project's root",
        )
    where = f"{project.settings.images}/{name}/{settings.dockerfile}"
    try:
        dockerfile = parse(path.read_bytes(), where=where)
    except OSError as error:
        raise BuildToolsError(f"{where} cannot be read ({error.strerror})", "make it readable") from None
    platform = project.variants(name)[variant]
    automatic = automatic_arguments(project.builder, platform, settings.target or dockerfile.stages[-1].name)
    # Some engines lose the value of one that is declared again before the first FROM.
    bare_names = {each.name for each in dockerfile.arguments if each.default is None}
    automatic_values = {key: value for key, value in automatic.items() if key in bare_names}
    arguments = {**automatic_values, **project.proxies, **build_arguments(project.settings, project.version, name)}
    own_needs = _needs(dockerfile, settings, arguments, platform, project.builder, {})
    bases = [(base, project.sibling(base, name)) for base in own_needs.bases]
    siblings = {base.mention: project.variant_for(sibling, base.platform) for base, sibling in bases if sibling}
    outside = [base.image for base, sibling in bases if not sibling]
    return ImageFolder(
        variant,
        folder,
        path,
        context,
        platform,
        project.builder,
        tuple(dict.fromkeys(siblings.values())),
        tuple(dict.fromkeys(outside)),
        settings,
        arguments,
        dockerfile,
        siblings,
        {},
        own_needs,
    )


def _add_triggers(folders: dict[str, ImageFolder], folder: ImageFolder, project: _Project) -> None:
    """Add to ``folders`` the folder, with the needs extended by its parents' ``ONBUILD`` instructions."""
    triggers = {}
    for base in folder.own_needs.bases:
        parent = folders.get(folder.siblings.get(base.mention, ""))
        if parent and parent.own_needs.triggers:
            triggers[base.image] = parent.own_needs.triggers
    if not triggers:
        return
    own_needs = folder.needs(triggers)
    trigger_bases = [base for base in own_needs.bases if base.mention.start < 0]
    for base in trigger_bases:
        if project.sibling(base, folder.image):
            raise Refused(
                f"{folder.where(base)}: an ONBUILD of its base names the folder {base.image}",
                "copy from it in the Dockerfile itself",
            )
    bases = tuple(dict.fromkeys((*folder.bases, *(base.image for base in trigger_bases))))
    folders[folder.name] = replace(folder, triggers=triggers, own_needs=own_needs, bases=bases)


def _needs(
    dockerfile: Dockerfile,
    settings: ImageSettings,
    arguments: Mapping[str, str],
    platform: Platform,
    builder: Platform,
    triggers: Mapping[str, Sequence[str]],
) -> Needs:
    return dockerfile.needs(
        arguments,
        target=settings.target,
        platform=platform,
        builder=builder,
        triggers=lambda image: triggers.get(image, ()),
    )


def _check_platforms(folder: ImageFolder, folders_before: Mapping[str, ImageFolder], project: _Project) -> None:
    """Raise :class:`Refused` if a parent has another platform: BuildKit would look for the image in a registry.

    :raises Refused: if a parent is built for another platform than the one it is used for.
    """
    for base in folder.own_needs.bases:
        parent = folders_before.get(folder.siblings.get(base.mention, ""))
        if parent and parent.platform != base.platform:
            platforms = ", ".join(map(str, project.variants(parent.image).values()))
            raise Refused(
                f"{folder.where(base)}: {parent.image} is needed for {base.platform} and built for {platforms}",
                f"set the same platform under [tool.buildtools.image.{folder.image}] and "
                f"[tool.buildtools.image.{parent.image}]",
            )


def _build_order(parents: Mapping[str, Sequence[str]]) -> tuple[list[str], list[BuildToolsError]]:
    """All names, parents first, and an error for each cycle, which is broken at its first member."""
    waiting = {name: len(above) for name, above in parents.items()}
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, above in parents.items():
        for parent in above:
            children[parent].append(name)
    ready = [name for name, count in waiting.items() if not count]
    heapq.heapify(ready)
    order: list[str] = []
    errors: list[BuildToolsError] = []
    while waiting:
        if not ready:
            cycle = _cycle({name: [parent for parent in parents[name] if parent in waiting] for name in waiting})
            path = " -> ".join((*cycle, cycle[0]))
            fact = f"image folders depend on each other in a cycle: {path}"
            errors.append(Refused(fact, "remove one FROM or --from"))
            ready.append(cycle[0])
        name = heapq.heappop(ready)
        del waiting[name]
        order.append(name)
        for child in children[name]:
            if child in waiting:
                waiting[child] -= 1
                if not waiting[child]:
                    heapq.heappush(ready, child)
    return order, errors


def _cycle(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """A cycle among folders, each of which has a parent among them."""
    path = [min(parents)]
    while (parent := parents[path[-1]][0]) not in path:
        path.append(parent)
    return path[path.index(parent) :]
