"""The image folders of a project, and the order in which they are built.

Folders depend on each other through what their Dockerfiles say: ``FROM sibling``, ``FROM
${REGISTRY}/sibling:${VERSION}``, ``COPY --from=sibling``, ``RUN --mount=from=sibling``.
"""

from __future__ import annotations

import difflib
import heapq
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.frozen import frozen
from buildtools.image.folder.context import Selection, ignored
from buildtools.image.folder.dockerfile import Dockerfile, Needs, parse
from buildtools.image.folder.instructions import ImageMention
from buildtools.settings import COMPONENT, ImageSettings, Settings
from buildtools.version import Version

# Arguments that a build takes without declaring them, none of which decides what is in the image:
# https://docs.docker.com/reference/dockerfile/#predefined-args and #buildkit-built-in-build-args
_PREDEFINED = re.compile(r"(?i:(?:https?|ftp|no|all)_proxy)|BUILDKIT_\w+|SOURCE_DATE_EPOCH")


@frozen
class ImageFolder:
    """A direct child of the images folder, with all that is known of its image without an engine.

    ``parents`` are the siblings it is built from, ``bases`` the images from outside, both in the order of their first
    mention. ``arguments`` are the values of the build arguments that its Dockerfile declares or every build takes.
    ``siblings`` says which places of the Dockerfile mean which parent, ``triggers`` which ``ONBUILD`` instructions the
    parents carry. ``needed`` is what building the configured target takes.
    """

    name: str
    path: Path
    dockerfile: Path
    context: Path
    platform: str
    parents: tuple[str, ...]
    bases: tuple[str, ...]
    settings: ImageSettings
    arguments: Mapping[str, str]
    parsed: Dockerfile
    siblings: Mapping[ImageMention, str]
    triggers: Mapping[str, tuple[str, ...]]
    needed: Needs

    def needs(self, triggers: Mapping[str, Sequence[str]] | None = None) -> Needs:
        """What building the configured target takes, given the ``ONBUILD`` instructions of images from outside."""
        if not triggers:
            return self.needed
        return _needs(self.parsed, self.settings, self.arguments, self.platform, {**triggers, **self.triggers})

    def taken(self, needs: Needs) -> Selection:
        """What a build with these needs may take of the context.

        :raises Refused: the ignore file has a line that is no pattern.
        :raises BuildToolsError: it cannot be read.
        """
        return Selection(ignored(self.context, self.dockerfile), follow=needs.sources)

    def served(self, images: Mapping[str, str]) -> bytes:
        """The Dockerfile to build with: each mention of a parent replaced by the exact image in ``images``.

        A bare ``FROM base`` would otherwise mean whatever the engine holds as ``base:latest``.
        """
        return self.parsed.rewritten({place: images[name] for place, name in self.siblings.items()})


def image_folders(settings: Settings, version: Version | None, only: Sequence[str] = ()) -> tuple[ImageFolder, ...]:
    """The image folders in build order: parents first, otherwise by name; with ``only``, these and their parents.

    :raises Refused: there is no images folder or none in it, a folder without a Dockerfile, an impossible name, an
        unknown name in ``only`` or in the configuration, a Dockerfile that is none, a cycle.
    """
    names = _names(settings)
    _check_known("--only", only, names)
    project = _Project(settings, version, frozenset(names))
    found: dict[str, ImageFolder] = {}
    waiting = list(only or names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _read(name, project)
            waiting += found[name].parents
    made: dict[str, ImageFolder] = {}
    for name in _build_order({name: folder.parents for name, folder in found.items()}):
        made[name] = _with_triggers(found[name], made, project)
    return tuple(made.values())


def build_arguments(settings: Settings, version: Version | None, name: str) -> dict[str, str]:
    """The values of build arguments that every Dockerfile may declare; the configured ones win.

    ``REGISTRY`` is registry and namespace, empty where none is configured; ``REVISION`` is the commit's id.
    """
    return {
        "REGISTRY": settings.repository_prefix if settings.registry else "",
        "VERSION": version.text if version else "",
        "REVISION": version.commit if version else "",
        **settings.args,
        **settings.image_settings(name).args,
    }


@frozen
class _Project:
    settings: Settings
    version: Version | None
    names: frozenset[str]

    def sibling(self, image: str, of: str) -> str:
        """The folder that ``image``, a reference after expansion, means; empty if it comes from outside."""
        above, slash, last = image.rpartition("/")
        name, colon, tag = last.partition(":")
        if name not in self.names or "@" in tag:
            return ""
        if colon and tag not in (self.version.text, self.version.image_tag) if self.version else tag:
            return ""
        if not slash:
            # `FROM redis` in a folder called redis can only mean the image of that name from outside.
            return name if colon or name != of else ""
        prefix = self.settings.repository_prefix if self.settings.registry else ""
        return name if f"{above}/".startswith(f"{prefix}/") else ""


def _names(settings: Settings) -> list[str]:
    root = settings.root / settings.images
    if not root.is_dir():
        raise Refused(
            f"there is no folder {settings.images}",
            f"make one folder per image, {settings.images}/NAME/Dockerfile, "
            'or name another place with images = "…" under [tool.buildtools] in pyproject.toml',
        )
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise Refused(f"{settings.images} holds no image folder", f"make one: {settings.images}/NAME/Dockerfile")
    impossible = [name for name in names if not COMPONENT.fullmatch(name)]
    if impossible:
        raise Refused(
            f"impossible as the name of an image: {', '.join(f'{settings.images}/{name}' for name in impossible)}",
            f"rename it, for example to {', '.join(_possible(name) for name in impossible)}",
        )
    _check_known("[tool.buildtools.image.…]", settings.image, names)
    bare = [name for name in names if not (root / name / settings.image_settings(name).dockerfile).is_file()]
    if bare:
        listed = ", ".join(f"{settings.images}/{name}/{settings.image_settings(name).dockerfile}" for name in bare)
        raise Refused(f"no Dockerfile: {listed}", "write it, or move the folder elsewhere")
    return names


def _possible(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "image"


def _check_known(where: str, given: Iterable[str], names: Sequence[str]) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name.lower(), names, n=1)]
        raise Refused(
            f"{where} names no image folder: {', '.join(unknown)}",
            f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names)}",
        )


def _read(name: str, project: _Project) -> ImageFolder:
    settings = project.settings.image_settings(name)
    folder = project.settings.root / project.settings.images / name
    dockerfile = folder / settings.dockerfile
    context = project.settings.root / settings.context if settings.context else folder
    if not context.is_dir():
        raise Refused(
            f"the context of {name} is no folder: {settings.context}",
            f"correct context under [tool.buildtools.image.{name}]",
        )
    where = f"{project.settings.images}/{name}/{settings.dockerfile}"
    try:
        parsed = parse(dockerfile.read_bytes(), where=where)
    except OSError as error:
        raise BuildToolsError(f"{where} cannot be read ({error.strerror})", "make it readable") from None
    declared = parsed.declared
    given = build_arguments(project.settings, project.version, name)
    arguments = {key: value for key, value in given.items() if key in declared or _PREDEFINED.fullmatch(key)}
    target_platform = settings.platform or _local_platform()
    needed = _needs(parsed, settings, arguments, target_platform, {})
    named = [(base, project.sibling(base.image, name)) for base in needed.bases]
    siblings = {base.reference: sibling for base, sibling in named if sibling}
    outside = [base.image for base, sibling in named if not sibling]
    return ImageFolder(
        name,
        folder,
        dockerfile,
        context,
        target_platform,
        tuple(dict.fromkeys(siblings.values())),
        tuple(dict.fromkeys(outside)),
        settings,
        arguments,
        parsed,
        siblings,
        {},
        needed,
    )


def _with_triggers(folder: ImageFolder, made: Mapping[str, ImageFolder], project: _Project) -> ImageFolder:
    """The folder with what its parents' ``ONBUILD`` instructions add to its needs."""
    triggers = {}
    for base in folder.needed.bases:
        parent = folder.siblings.get(base.reference)
        if parent and made[parent].needed.triggers:
            triggers[base.image] = made[parent].needed.triggers
    if not triggers:
        return folder
    needed = _needs(folder.parsed, folder.settings, folder.arguments, folder.platform, triggers)
    added = [base for base in needed.bases if base.reference.start < 0]
    for base in added:
        if project.sibling(base.image, folder.name):
            place = f"{folder.parsed.where} line {base.reference.line}"
            raise Refused(
                f"{place}: an ONBUILD of its base names the folder {base.image}",
                "take the files from it in the Dockerfile itself",
            )
    bases = tuple(dict.fromkeys((*folder.bases, *(base.image for base in added))))
    return replace(folder, triggers=triggers, needed=needed, bases=bases)


def _needs(
    parsed: Dockerfile,
    settings: ImageSettings,
    arguments: Mapping[str, str],
    target_platform: str,
    triggers: Mapping[str, Sequence[str]],
) -> Needs:
    return parsed.needs(
        arguments, target=settings.target, platform=target_platform, triggers=lambda image: triggers.get(image, ())
    )


def _local_platform() -> str:
    machine = os.uname().machine
    return f"linux/{({'x86_64': 'amd64', 'aarch64': 'arm64'}).get(machine, machine)}"


def _build_order(parents: Mapping[str, Sequence[str]]) -> list[str]:
    waiting = {name: len(above) for name, above in parents.items()}
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, above in parents.items():
        for parent in above:
            children[parent].append(name)
    ready = [name for name, count in waiting.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        name = heapq.heappop(ready)
        del waiting[name]
        order.append(name)
        for child in children[name]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, child)
    if waiting:
        raise _cycle({name: [parent for parent in parents[name] if parent in waiting] for name in waiting})
    return order


def _cycle(parents: Mapping[str, Sequence[str]]) -> Refused:
    """The complaint about folders of which each has a parent among them."""
    path = [min(parents)]
    while (parent := parents[path[-1]][0]) not in path:
        path.append(parent)
    cycle = " -> ".join((*path[path.index(parent) :], parent))
    return Refused(f"image folders are built from each other in a cycle: {cycle}", "take one FROM or --from out")
