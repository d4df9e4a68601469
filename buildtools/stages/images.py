"""Images, from their folders to the engine and to the registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from buildtools import BuildToolsError, Unreachable
from buildtools.command import run_command
from buildtools.events import Warned, timed
from buildtools.git.checkout import Checkout
from buildtools.image.assembly import Assembly, LocalImage, assemble
from buildtools.image.bases import BaseImage, find_bases
from buildtools.image.engine.client import Engine
from buildtools.image.folder.fingerprint import explain
from buildtools.image.folder.folders import ImageFolder, image_folders
from buildtools.image.push.images import PushRequest, foreseen_routes, push
from buildtools.image.reference import Reference
from buildtools.image.registry.cache import Cache
from buildtools.image.registry.lookup import find_fingerprints, fingerprint_tag
from buildtools.image.registry.manifest import FINGERPRINT_LABEL, SOURCE_LABEL, VERSION_LABEL
from buildtools.image.registry.push import ImageToPush, PushedImage, PushRoute
from buildtools.image.survey import BuildState, ImageStatus, compared, survey
from buildtools.run import Run
from buildtools.services import Services
from buildtools.stages.planned import Planned
from buildtools.stages.tree import mind_untracked
from buildtools.version import Version

_SECONDS_AN_HOUR = 3600


def folders(run: Run, checkout: Checkout) -> tuple[ImageFolder, ...]:
    """The image folders that the task is about, in build order."""
    return image_folders(run.settings, checkout.version, run.only)


def run_before(run: Run, checkout: Checkout) -> None:
    """Run the ``before`` commands of the image folders, in build order: they may make what the contexts hold."""
    if not any(settings.before for settings in run.settings.image.values()):
        return
    version = checkout.version
    variables = {"BUILDTOOLS_VERSION": version.text, "BUILDTOOLS_REVISION": version.commit}
    for folder in folders(run, checkout):
        if folder.settings.before:
            timed(run.report, folder.name, "before", partial(_before, run, folder, variables))


def pull_bases(run: Run, services: Services, checkout: Checkout) -> None:
    """With ``--pull``, let the engine fetch every base image anew; one that is only local stays as it is."""
    if not run.pull:
        return
    for reference in _outside(folders(run, checkout)):
        try:
            services.engine.pull(reference, services.credentials.for_image(reference))
        except Unreachable:
            raise
        except BuildToolsError as error:
            if services.engine.inspect(reference) is None:
                raise
            run.report(Warned("", f"{error.fact}; the engine's own is used"))


def survey_images(
    run: Run, services: Services, checkout: Checkout, *, complete: bool = False
) -> tuple[ImageStatus, ...]:
    """Where every image folder stands. With ``complete`` unknown base images are fetched, so that none stays unknown.

    :raises BuildToolsError: a base image cannot be had.
    """
    statuses = _survey(run, services, checkout, complete=complete)
    return _compared(run, statuses, engine) if (engine := services.engine_if_any()) else statuses


def _survey(run: Run, services: Services, checkout: Checkout, *, complete: bool) -> tuple[ImageStatus, ...]:
    chosen = folders(run, checkout)
    engine = services.engine_if_any()
    bases = find_bases((base for folder in chosen for base in folder.bases), engine, services.registry_at)
    if complete:
        bases |= _fetched(services, [base.reference for base in bases.values() if not base.digest])
    return survey(chosen, bases, cache=run.project_cache, learn=not run.dry_run)


def _compared(run: Run, statuses: Sequence[ImageStatus], engine: Engine) -> tuple[ImageStatus, ...]:
    return compared(statuses, engine.images(FINGERPRINT_LABEL), cache=run.project_cache)


def bring_in(run: Run, services: Services, checkout: Checkout, *, registry_names: bool) -> tuple[LocalImage, ...]:
    """Bring every image into the engine; what the registry has already is pulled rather than built."""
    if registry_names:
        run.settings.repository_prefix  # noqa: B018  refuses where none is configured
    engine = services.engine
    statuses = survey_images(run, services, checkout, complete=True)
    stored = _to_pull(run, services, statuses)
    images = assemble(
        statuses,
        [status.name for status in statuses],
        _assembly(run, services, checkout, stored, registry_names=registry_names),
        engine=engine,
        credentials=services.credentials,
        jobs=run.jobs,
        report=run.report,
        cancelled=run.cancelled,
    )
    return tuple(images[status.name] for status in statuses)


def push_images(
    run: Run, services: Services, checkout: Checkout, made: Callable[[], object] | None = None
) -> tuple[PushedImage, ...]:
    """Push every image; only what the registry lacks is looked for in the engine, and built.

    ``made`` is called when all layers are in the registry, before a tag of the version is set. What is made meanwhile
    must not write into a context: the images would not have it.

    :raises Refused: what is made is a release, and a context holds what is in no commit.
    :raises BuildToolsError: what was made wrote into a context.
    """
    registry = services.registry
    surveyed = _survey(run, services, checkout, complete=True)
    mind_untracked(run, checkout.version, surveyed, release=made is not None)

    def provide(lacking: Sequence[ImageToPush]) -> Sequence[ImageToPush]:
        # An engine takes its time to list its images, which a push of what the registry has can do without.
        statuses = _compared(run, surveyed, services.engine)
        parents = {name for each in statuses for name in each.folder.parents} - {image.name for image in lacking}
        stored = {} if run.no_cache else _stored(run, services, [each for each in statuses if each.name in parents])
        images = assemble(
            statuses,
            [image.name for image in lacking],
            _assembly(run, services, checkout, stored, registry_names=True),
            engine=services.engine,
            credentials=services.credentials,
            jobs=run.jobs,
            report=run.report,
            cancelled=run.cancelled,
        )
        return [replace(image, image_id=images[image.name].image_id) for image in lacking]

    def make(work: Callable[[], object]) -> None:
        work()
        _refuse_changed(run, checkout, surveyed)

    return tuple(
        push(
            PushRequest(
                _to_push(run, surveyed),
                checkout.version,
                _labels(checkout),
                bases=tuple(map(Reference.parse, _outside(status.folder for status in surveyed))),
                fingerprints_kept=run.settings.fingerprints_kept,
                provide=provide,
                before_tags=partial(make, made) if made else None,
            ),
            services.engine_if_any(),
            registry,
            _cache(run),
            report=run.report,
            cancelled=run.cancelled,
        )
    )


def _outside(chosen: Iterable[ImageFolder]) -> list[str]:
    """The references of the base images from outside that these folders are built on."""
    return sorted({base for folder in chosen for base in folder.bases} - {"scratch"})


def _refuse_changed(run: Run, checkout: Checkout, statuses: Sequence[ImageStatus]) -> None:
    bases = {name: base for each in statuses for name, base in each.bases.items()}
    now = survey(folders(run, checkout), bases, cache=run.project_cache)
    for before, after in zip(statuses, now, strict=True):
        changed = explain(before.fingerprint.inputs, after.fingerprint.inputs)
        if changed:
            raise BuildToolsError(
                f"{before.name} changed while the release was made ({'; '.join(changed)})",
                f"let the command `before` of image.{before.name} make what its context holds, or ignore the rest",
            )


def plan_local(run: Run, services: Services, checkout: Checkout) -> tuple[Planned, ...]:
    """What bringing the images into the engine would do."""
    services.engine  # noqa: B018  without one nothing can be planned
    statuses = survey_images(run, services, checkout)
    stored = _to_pull(run, services, statuses)

    def planned(status: ImageStatus) -> Planned:
        if status.state is BuildState.UP_TO_DATE and not run.no_cache:
            return Planned(status.name, "not change")
        return Planned(status.name, "be pulled" if status.name in stored else "be built", status.why)

    return tuple(map(planned, statuses))


def plan_push(run: Run, services: Services, checkout: Checkout, *, release: bool = False) -> tuple[Planned, ...]:
    """What pushing the images would do, as a ``release`` or without one.

    :raises Refused: a release would hold what is in no commit.
    """
    statuses = survey_images(run, services, checkout)
    mind_untracked(run, checkout.version, statuses, release=release)
    request = PushRequest(_to_push(run, statuses), checkout.version, _labels(checkout))
    routes = foreseen_routes(request, services.registry, _cache(run))
    return tuple(_planned_push(run, *pair) for pair in zip(statuses, routes, strict=True))


def _planned_push(run: Run, status: ImageStatus, route: PushRoute | None) -> Planned:
    if route is PushRoute.ALREADY_THERE:
        return Planned(status.name, "not change")
    if route is PushRoute.STAMPED:
        return Planned(status.name, "be stamped, unchanged")
    if status.state is BuildState.UP_TO_DATE and not run.no_cache:
        return Planned(status.name, "be pushed")
    return Planned(status.name, "be built and pushed", status.why)


def _cache(run: Run) -> Cache:
    return Cache(run.cache, learn=not run.dry_run)


def _before(run: Run, folder: ImageFolder, variables: dict[str, str]) -> None:
    run_command(
        folder.settings.before,
        subject=folder.name,
        folder=run.settings.root,
        environment={**run.environment, **variables},
        report=run.report,
        cancelled=run.cancelled,
    )


def _fetched(services: Services, references: Sequence[str]) -> dict[str, BaseImage]:
    """Base images that neither engine nor registry told of, fetched by the engine, which may know a mirror."""
    for reference in references:
        services.engine.pull(reference, services.credentials.for_image(reference))
    return find_bases(references, services.engine, services.registry_at) if references else {}


def _to_pull(run: Run, services: Services, statuses: Sequence[ImageStatus]) -> dict[str, str]:
    """The references to pull what the engine lacks and the registry has."""
    lacking = [status for status in statuses if status.state is not BuildState.UP_TO_DATE]
    return _stored(run, services, lacking) if run.settings.registry and not run.no_cache else {}


def _stored(run: Run, services: Services, statuses: Sequence[ImageStatus]) -> dict[str, str]:
    """The references under which the registry has what these folders would build."""
    wanted = {
        each.name: (repository(run, each.name), each.fingerprint.value)
        for each in statuses
        if not each.folder.settings.rebuild_after
    }
    try:
        found = find_fingerprints(services.registry, wanted, _cache(run))
    except Unreachable as error:
        run.report(Warned("", f"{error.fact}; what it has is built anew"))
        return {}
    return {
        name: f"{services.registry.host}/{wanted[name][0]}:{fingerprint_tag(wanted[name][1])}"
        for name, image in found.items()
        if image
    }


def _assembly(
    run: Run, services: Services, checkout: Checkout, stored: dict[str, str], *, registry_names: bool
) -> Assembly:
    version = checkout.version

    def names(name: str) -> tuple[str, ...]:
        local = f"{name}:{version.image_tag}"
        return (local, reference(run, version, name)) if registry_names else (local,)

    return Assembly(
        run.settings.root,
        run.project_cache,
        run.environment,
        names,
        stored,
        proxies=services.build_proxies,
        no_cache=run.no_cache,
    )


def _to_push(run: Run, statuses: Sequence[ImageStatus]) -> tuple[ImageToPush, ...]:
    now = time.time()

    def oldest(status: ImageStatus) -> float:
        hours = status.folder.settings.rebuild_after
        return now if run.no_cache else now - hours * _SECONDS_AN_HOUR if hours else 0.0

    return tuple(
        ImageToPush(
            status.name,
            repository(run, status.name),
            status.fingerprint.value,
            parents=tuple(repository(run, parent) for parent in status.folder.parents),
            built_since=oldest(status),
        )
        for status in statuses
    )


def _labels(checkout: Checkout) -> dict[str, str]:
    """What is stamped into every image: https://github.com/opencontainers/image-spec/blob/main/annotations.md."""
    labels = {
        VERSION_LABEL: checkout.version.text,
        "org.opencontainers.image.revision": checkout.version.commit,
        "org.opencontainers.image.created": rfc3339(checkout.committed),
    }
    return {**labels, SOURCE_LABEL: checkout.source} if checkout.source else labels


def repository(run: Run, name: str) -> str:
    """An image's repository in the registry."""
    return f"{run.settings.namespace}/{name}" if run.settings.namespace else name


def reference(run: Run, version: Version, name: str) -> str:
    """An image's reference: in the registry, or in the engine alone where no registry is configured."""
    prefix = f"{run.settings.repository_prefix}/" if run.settings.registry else ""
    return f"{prefix}{name}:{version.image_tag}"


def rfc3339(seconds: int) -> str:
    """A time in seconds since 1970 as https://www.rfc-editor.org/rfc/rfc3339 writes it, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
