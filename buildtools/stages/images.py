"""Images, from their folders to the engine and the registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial

from buildtools import BuildToolsError, Conflict, Failures, error_kind
from buildtools.build_cache import cache_tag, read_caches
from buildtools.command import run_command
from buildtools.events import Warned, timed
from buildtools.image.assembly import LocalImage
from buildtools.image.bases import find_bases
from buildtools.image.folder.fingerprint import explain
from buildtools.image.folder.folders import ImageFolder
from buildtools.image.push.routes import PushRequest, foreseen_routes, push, unbuilt_images
from buildtools.image.reference import Reference
from buildtools.image.registry.image_to_push import ImageToPush, PushedImage, PushRoute
from buildtools.image.registry.lookup import ImageLookup, move_tag
from buildtools.image.registry.manifest import CREATED_LABEL, SOURCE_LABEL, VERSION_LABEL, platform_of
from buildtools.image.survey import BuildState, ImageStatus, survey
from buildtools.platform import Platform
from buildtools.stages.engine_store import EngineStore
from buildtools.stages.image_names import place, repository
from buildtools.stages.image_store import ImageStore
from buildtools.stages.planned import Planned
from buildtools.stages.registry_store import RegistryStore, refuse_unknown_platform
from buildtools.stages.tree import check_untracked
from buildtools.task_context import TaskContext

_SECONDS_AN_HOUR = 3600


def run_before(task: TaskContext) -> None:
    """Run the ``before`` commands of the image folders in build order; they may create files in the contexts."""
    if not any(settings.before for settings in task.settings.image.values()):
        return
    version = task.version
    variables = {"BUILDTOOLS_VERSION": version.text, "BUILDTOOLS_REVISION": version.commit}
    # Once for all variants of an image, because they share a context.
    for folder in {folder.image: folder for folder in task.image_folders()}.values():
        if folder.settings.before:
            timed(task.run.report, folder.image, "before", partial(_before, task, folder, variables))
    task.read_image_folders()


def pull_bases(task: TaskContext) -> None:
    """With ``--pull``, fetch every base image again; one that only exists locally stays as it is."""
    if task.run.pull:
        _store(task).refresh(_outside(task.image_folders()))


def survey_images(task: TaskContext, *, complete: bool = False) -> tuple[ImageStatus, ...]:
    """The state of every image folder. With ``complete``, unknown base images are fetched, so that none stays unknown.

    :raises BuildToolsError: if a base image cannot be fetched.
    """
    if task.services.sites:
        learn_platform(task)
    return _store(task).with_places(survey_folders(task, complete=complete))


def statuses_here(task: TaskContext, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
    """The state of each folder as this machine knows it: from its engine, or from what it remembers of builds."""
    return RegistryStore(task).remembered(statuses) if task.services.sites else EngineStore(task).with_places(statuses)


def listed_statuses(task: TaskContext) -> tuple[ImageStatus, ...]:
    """The state of every image folder, with notes for a list."""
    return _store(task).with_notes(survey_images(task))


def complete_survey(task: TaskContext) -> tuple[ImageStatus, ...]:
    """Every image folder with its fingerprint and all base images known; the state is not looked up.

    :raises BuildToolsError: if a base image cannot be fetched.
    """
    learn_platform(task)
    statuses = survey_folders(task, complete=True)
    if errors := [status.base_error for status in statuses if status.base_error]:
        raise Failures(errors).combined("base images are missing", "fix the errors above and run again")
    return statuses


def learn_platform(task: TaskContext) -> None:
    """If the builder does not say for which platform it builds, take that of the version's images in the registry.

    Only the first image is looked at, since a version is one for all. Without it, this machine's platform stands for
    the builder's.
    """
    if task.build_platform is not None or not task.settings.registry:
        return
    names = [each.image for each in task.image_folders() if not task.settings.platforms_of(each.image)]
    # Whoever needs the registry says what is wrong with it.
    with suppress(BuildToolsError, ValueError):
        lookup = ImageLookup(task.services.registry, task.registry_cache)
        image = lookup.read(repository(task, names[0]), task.version.image_tag) if names else None
        if image:
            task.assume_platform(Platform.parse(str(platform_of(image.config))))


def survey_folders(task: TaskContext, *, complete: bool = False) -> tuple[ImageStatus, ...]:
    """Every image folder with its fingerprint; the state is not looked up and unknown."""
    image_folders, store = task.image_folders(), _store(task)
    find = partial(
        find_bases, image_folders, store.engine, task.services.registry_at, task.registry_cache, store.own_names()
    )
    bases = find()
    without_digest = {
        base.reference: base
        for each in bases.values()
        for base in each.values()
        if not (base.digest or base.other_platforms)
    }
    unknown = list(without_digest.values()) if complete else []
    errors = _in_dockerfiles(store.fetch(unknown), image_folders)
    if len(errors) < len(unknown):
        bases = find()
    learn = not task.run.dry_run
    return survey(image_folders, bases, cache=task.run.project_cache, learn=learn, base_errors=errors)


def _in_dockerfiles(
    errors: Mapping[str, BuildToolsError], folders: Iterable[ImageFolder]
) -> dict[str, BuildToolsError]:
    """The errors about base images with the first place that names the image; others, as of the engine, as they are."""
    located = dict(errors)
    for folder in folders if errors else ():
        for base in folder.outside({}):
            error = errors.get(base.image)
            if error and error is located[base.image] and base.image in error.fact:
                fact = f"{folder.where(base)}: {error.fact}"
                located[base.image] = error_kind(error.exit_code)(fact, error.remedy, error.details)
    return located


def bring_in(task: TaskContext, *, registry_names: bool) -> tuple[LocalImage, ...]:
    """Bring every image into the engine; what is in the registry is pulled rather than built.

    Builders without a store of their own bring it into the registry, under its fingerprint.
    """
    store = _store(task)
    store.require(registry_names=registry_names)
    statuses = store.with_stored(survey_images(task, complete=True))
    return store.build(statuses, registry_names=registry_names)


def push_images(task: TaskContext, wait_for_archives: Callable[[], object] | None = None) -> tuple[PushedImage, ...]:
    """Push every image; only those that the registry lacks are looked up in the engine, and built.

    ``wait_for_archives`` is called once all layers are in the registry, before any tag of the version is set. Nothing
    may write into a context meanwhile, because the images would not contain it.

    :raises Refused: if this is a release and a context contains files that no commit has.
    :raises BuildToolsError: if a context changed meanwhile.
    """
    registry = task.services.registry
    statuses_at_start = complete_survey(task)
    check_untracked(task, statuses_at_start, release=wait_for_archives is not None)

    def make(work: Callable[[], object]) -> None:
        work()
        _refuse_changed(task, statuses_at_start)

    store = _store(task)
    request = PushRequest(
        _to_push(task, statuses_at_start),
        task.version,
        _labels(task),
        bases=tuple(map(Reference.parse, _outside(status.folder for status in statuses_at_start))),
        fingerprints_kept=task.settings.fingerprints_kept,
        media_types=task.settings.media_types,
        before_tags=partial(make, wait_for_archives) if wait_for_archives else None,
    )
    with _refusing_guesses(task, statuses_at_start):
        pushed = push(
            store.to_push(request, statuses_at_start),
            store.engine,
            registry,
            task.registry_cache,
            report=task.run.report,
            cancelled=task.run.cancelled,
        )
    _tag_caches(task, statuses_at_start, pushed)
    return tuple(pushed)


def _tag_caches(task: TaskContext, statuses: Sequence[ImageStatus], pushed: Sequence[PushedImage]) -> None:
    """Give each new image with an inline cache the tag that builds look for."""
    new = {image.name: image.digest for image in pushed if image.is_new}
    for folder in (status.folder for status in statuses):
        kinds = {cache.kind for cache in read_caches(folder.settings.cache_to, written=True)}
        if folder.image in new and kinds == {"inline"}:
            tag = cache_tag(folder.platform)
            try:
                move_tag(task.services.registry, repository(task, folder.image), tag, new[folder.image])
            except BuildToolsError as error:
                task.run.report(Warned(folder.name, f"its cache gets no tag: {error.fact}"))


def _outside(image_folders: Iterable[ImageFolder]) -> list[str]:
    """The references of all external base images of these folders."""
    return sorted({base for folder in image_folders for base in folder.bases} - {"scratch"})


def _refuse_changed(task: TaskContext, statuses: Sequence[ImageStatus]) -> None:
    bases = {each.folder.platform: each.bases for each in statuses}
    now = survey(task.read_image_folders(), bases, cache=task.run.project_cache)
    for before, after in zip(statuses, now, strict=True):
        differences = explain(before.fingerprint.inputs, after.fingerprint.inputs)
        if differences:
            raise BuildToolsError(
                f"{before.name} changed while the release was made ({'; '.join(differences)})",
                f"create the files of its context in the command `before` of image.{before.folder.image}, "
                "or list them in .dockerignore",
            )


def local_plan(task: TaskContext) -> tuple[Planned, ...]:
    """What bringing the images into the engine would do."""
    store = _store(task)
    store.require()
    statuses = store.with_stored(survey_images(task))

    def plan_of(status: ImageStatus) -> Planned:
        if status.state is BuildState.UP_TO_DATE and not task.run.no_cache:
            return Planned(status.name, "not change")
        return Planned(status.name, "be pulled" if status.registry_digest else "be built", status.why)

    return tuple(map(plan_of, statuses))


def push_plan(task: TaskContext, *, release: bool = False) -> tuple[Planned, ...]:
    """What pushing the images would do, as a ``release`` or not.

    :raises Refused: if a release would contain files that no commit has.
    """
    learn_platform(task)
    statuses = survey_images(task)
    check_untracked(task, statuses, release=release)
    request = PushRequest(_to_push(task, statuses), task.version, _labels(task))
    with _refusing_guesses(task, statuses):
        routes = foreseen_routes(request, task.services.registry, task.registry_cache)
    return tuple(_planned_push(task, *pair) for pair in zip(statuses, routes, strict=True))


def unbuilt(task: TaskContext, statuses: Sequence[ImageStatus]) -> list[str]:
    """The names of the images that a push would have to build, judged by the registry's tags.

    :raises Conflict: if the version exists with other content.
    """
    request = PushRequest(_to_push(task, statuses), task.version, _labels(task))
    with _refusing_guesses(task, statuses):
        return unbuilt_images(request, task.services.registry, task.registry_cache)


@contextmanager
def _refusing_guesses(task: TaskContext, statuses: Sequence[ImageStatus]) -> Iterator[None]:
    """A context in which a conflict is an outage if it may only come from a guess of the first builder's platform."""
    try:
        yield
    except Conflict:
        if task.services.sites:
            refuse_unknown_platform(task, statuses)
        raise


def _planned_push(task: TaskContext, status: ImageStatus, route: PushRoute | None) -> Planned:
    if route is PushRoute.ALREADY_THERE:
        return Planned(status.name, "not change")
    if route is PushRoute.STAMPED:
        return Planned(status.name, "be stamped, unchanged")
    if status.state is BuildState.UP_TO_DATE and not task.run.no_cache:
        return Planned(status.name, "be pushed")
    return Planned(status.name, "be built and pushed", status.why)


def _before(task: TaskContext, folder: ImageFolder, variables: dict[str, str]) -> None:
    run_command(
        folder.settings.before,
        subject=folder.image,
        folder=task.settings.root,
        environment={**task.run.command_environment, **variables},
        report=task.run.report,
        cancelled=task.run.cancelled,
    )


def _store(task: TaskContext) -> ImageStore:
    return RegistryStore(task) if task.services.sites else EngineStore(task)


def _to_push(task: TaskContext, statuses: Sequence[ImageStatus]) -> tuple[ImageToPush, ...]:
    now = time.time()

    def oldest(status: ImageStatus) -> float:
        hours = status.folder.settings.rebuild_after
        return now if task.run.no_cache or status.remotes else now - hours * _SECONDS_AN_HOUR if hours else 0.0

    return tuple(
        ImageToPush(
            status.name,
            repository(task, status.name),
            status.fingerprint.value,
            parents=tuple(place(task, parent) for parent in status.folder.parents),
            built_since=oldest(status),
            platform=None if status.folder.image == status.name else status.folder.platform,
            attested=frozenset(status.folder.settings.attestations),
            as_built=bool(status.folder.settings.attestations or status.folder.settings.cache_to),
        )
        for status in statuses
    )


def _labels(task: TaskContext) -> dict[str, str]:
    """The labels that every image gets: https://github.com/opencontainers/image-spec/blob/main/annotations.md."""
    labels = {
        VERSION_LABEL: task.version.text,
        "org.opencontainers.image.revision": task.version.commit,
        CREATED_LABEL: rfc3339(task.checkout.committed),
    }
    return {**labels, SOURCE_LABEL: task.checkout.source} if task.checkout.source else labels


def rfc3339(seconds: int) -> str:
    """A time in seconds since 1970 as RFC 3339 text in UTC. https://www.rfc-editor.org/rfc/rfc3339"""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
