"""Images where builders push them into the registry, which then is all that is asked for them.

An engine has images under names, and what the registry has may come on top. A BuildKit daemon has none, so an image is
up to date where the registry has its fingerprint, is never pulled, and has no name but there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from buildtools import Refused, Unreachable
from buildtools.events import Warned
from buildtools.image.assembly import Assembly, LocalImage, assemble
from buildtools.image.builders.registry_builder import RegistryBuilder
from buildtools.image.folder.fingerprint import recorded_seconds
from buildtools.image.reference import Reference
from buildtools.image.registry.build_records import record_build
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.lookup import StoredImage, find_fingerprints, read_image
from buildtools.image.registry.push import ImageToPush, PushRoute
from buildtools.image.survey import BuildState, ImageStatus, registry_statuses
from buildtools.schedule import awaited
from buildtools.stages.image_names import fingerprint_reference, full_repository, repository
from buildtools.task_context import TaskContext


def placed_statuses(task: TaskContext, statuses: Sequence[ImageStatus]) -> tuple[ImageStatus, ...]:
    """Where every image folder stands in the registry; unknown where that does not answer.

    :raises Refused: no registry is configured.
    """
    refuse_without_registry(task)
    places = {each.name: (repository(task, each.name), each.fingerprint.value) for each in statuses}
    try:
        images = find_fingerprints(task.services.registry, places, _cache(task))
    except Unreachable as error:
        task.run.report(Warned("", f"{error.fact}; what it has is not known"))
        return tuple(statuses)
    return _statuses(task, statuses, {name: image for name, image in images.items() if image})


def with_builder(task: TaskContext, status: ImageStatus) -> ImageStatus:
    """The same, and which one of several builders is to build it; another one will where that has no time."""
    if len(task.services.sites) < 2 or status.state is BuildState.UP_TO_DATE:
        return status
    folder = status.folder
    native, platform = str(folder.builder), str(folder.platform)
    name = task.services.pool(task.run.jobs).preferred(
        folder.name, platform, native, folder.dockerfile_path.read_bytes()
    )
    return replace(status, why=(*status.why, f"to be built on {name}")) if name else status


def refuse_without_registry(task: TaskContext) -> None:
    """Nothing, where there is a registry to push into.

    :raises Refused: none is configured.
    """
    if not task.settings.registry:
        builders = ", ".join(task.services.sites)
        raise Refused(
            f"images are built with {builders}, which keeps none, and no registry is configured to push them into",
            'set registry = "HOST:PORT" under [tool.buildtools], or leave builder out to build with the engine',
        )


def build_into_registry(
    task: TaskContext, statuses: Sequence[ImageStatus], targets: Sequence[str]
) -> dict[str, LocalImage]:
    """Every image of ``targets``, and the parents that one of them must be built from; see :func:`assemble`."""
    assembly = Assembly(
        task.settings.root,
        task.run.project_cache,
        task.run.environment,
        lambda _: (),
        partial(full_repository, task),
        targets if task.run.no_cache else (),
        task.settings.media_types,
        partial(fingerprint_reference, task),
    )
    sites = task.services.sites
    pool = task.services.pool(task.run.jobs)
    # A pool of one would only have its own words for what that one says.
    push_build = pool.push_build if len(sites) > 1 else next(iter(sites.values())).push_build
    try:
        if len(sites) > 1:
            # Here an interrupt ends the wait for one that has stopped; a thread that builds would wait on.
            pool.ask()
        return assemble(
            statuses,
            targets,
            assembly,
            builder=RegistryBuilder(
                task.services.registry,
                _cache(task),
                push_build,
                lambda: all(site.keeps_content for site in sites.values()),
            ),
            jobs=sum(site.jobs or task.run.jobs for site in sites.values()),
            report=task.run.report,
            cancelled=task.run.cancelled,
        )
    finally:
        for name, reason in pool.losses.items():
            task.run.report(Warned("", f"the builder {name} was lost: {reason}"))


def build_missing(
    task: TaskContext,
    statuses: Sequence[ImageStatus],
    missing: Sequence[ImageToPush],
    stored: Mapping[str, StoredImage],
) -> list[tuple[StoredImage, PushRoute]]:
    """Build what the registry lacks on top of what is ``stored``, by name; what then is there, in its order."""
    registry, cache = task.services.registry, _cache(task)
    images = build_into_registry(
        task, _statuses(task, statuses, stored, is_final=True), [image.name for image in missing]
    )

    def read(image: ImageToPush) -> tuple[StoredImage, PushRoute]:
        digest = Reference.parse(images[image.name].image_id).digest
        source = awaited(lambda: read_image(registry, image.repository, digest, cache))
        if source is None:
            raise Unreachable(f"{registry.host}/{image.repository} lost {digest} meanwhile", "run the same again")
        seconds = recorded_seconds(task.run.project_cache, image.name, image.fingerprint)
        record_build(
            registry, image.repository, source.manifest, image.name, image.fingerprint, task.version.commit, seconds
        )
        return source, PushRoute.BUILDER

    return [read(image) for image in missing]


def _statuses(
    task: TaskContext,
    statuses: Sequence[ImageStatus],
    stored: Mapping[str, StoredImage],
    *,
    is_final: bool = False,
) -> tuple[ImageStatus, ...]:
    return registry_statuses(
        statuses,
        stored,
        repository=partial(full_repository, task),
        kept_name=partial(fingerprint_reference, task),
        cache=task.run.project_cache,
        is_final=is_final,
    )


def _cache(task: TaskContext) -> Cache:
    return Cache(task.run.cache, learn=not task.run.dry_run)
