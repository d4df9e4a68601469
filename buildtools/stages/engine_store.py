"""The images of a task in an engine, under names. What the registry has is pulled rather than built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from buildtools import BuildToolsError, Unreachable
from buildtools.events import PartialTransfers, Warned, timed
from buildtools.image.assembly import Assembly, LocalImage, assemble
from buildtools.image.bases import BaseImage
from buildtools.image.engine.client import Engine, EngineError
from buildtools.image.folder.fingerprint import recorded_seconds
from buildtools.image.push.routes import Begin, PushRequest
from buildtools.image.reference import image_name
from buildtools.image.registry.image_to_push import ImageToPush
from buildtools.image.registry.lookup import StoredImage, find_fingerprints
from buildtools.image.survey import BuildState, ImageStatus, engine_statuses
from buildtools.schedule import side_by_side
from buildtools.stages.image_names import full_repository, reference, repository
from buildtools.task_context import TaskContext


class EngineStore:
    """The :class:`~buildtools.stages.image_store.ImageStore` of a task that builds with the engine."""

    def __init__(self, task: TaskContext) -> None:
        self._task = task

    @property
    def engine(self) -> Engine | None:
        """See the protocol."""
        return self._task.services.engine_if_any()

    def require(self, *, registry_names: bool = False) -> None:
        """See the protocol."""
        if registry_names:
            self._task.settings.repository_prefix  # noqa: B018  raises if none is configured
        self._task.services.engine  # noqa: B018  raises if it is unavailable

    def own_names(self) -> set[str]:
        """See the protocol."""
        return {f"{folder.image}:{self._task.version.image_tag}" for folder in self._task.image_folders()}

    def refresh(self, references: Sequence[str]) -> None:
        """See the protocol."""
        for base in references:
            try:
                self._pull(base)
            except Unreachable:
                raise
            except BuildToolsError as error:
                # If it is not in the engine either, only the images built on it fail.
                if self._task.services.engine.inspect(base):
                    self._task.run.report(Warned("", f"{error.fact}; the engine's own is used"))

    def fetch(self, bases: Sequence[BaseImage]) -> dict[str, BuildToolsError]:
        """See the protocol. The engine may know a mirror."""

        def pull(base: BaseImage) -> BuildToolsError | None:
            try:
                self._pull(base.reference)
            except EngineError as error:
                return Unreachable(error.fact, error.remedy) if base.unreachable else error
            except BuildToolsError as error:
                return error
            return None

        errors = side_by_side([partial(pull, base) for base in bases], jobs=self._task.run.jobs)
        return {base.reference: error for base, error in zip(bases, errors, strict=True) if error}

    def with_places(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """See the protocol."""
        engine = self.engine
        return self._statuses(statuses, engine) if engine else statuses

    def with_notes(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """See the protocol. The note says that a name belongs to another image in the engine."""
        named = _named(statuses)

        def with_note(status: ImageStatus) -> ImageStatus:
            name = f"{status.folder.image}:{self._task.version.image_tag}"
            is_named = status.state is not BuildState.UP_TO_DATE or name in status.tags or status.name not in named
            if is_named or not self._task.services.engine.inspect(name):
                return status
            return replace(status, why=(f"the name {name} is another image's; `invoke build` moves it to this one",))

        return tuple(map(with_note, statuses))

    def with_stored(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """See the protocol. This marks what the engine lacks and the registry has."""
        task = self._task
        places = {
            each.name: (repository(task, each.name), each.fingerprint.value)
            for each in statuses
            if each.state is not BuildState.UP_TO_DATE and not each.folder.settings.rebuild_after and not each.remotes
        }
        if not (places and task.settings.registry) or task.run.no_cache:
            return statuses
        try:
            images = find_fingerprints(task.services.registry, places, task.registry_cache)
        except Unreachable as error:
            task.run.report(Warned("", f"{error.fact}; what it has is built again"))
            return statuses
        stored = {name: image for name, image in images.items() if image}
        return self._statuses(statuses, task.services.engine, stored=stored)

    def build(self, statuses: tuple[ImageStatus, ...], *, registry_names: bool) -> tuple[LocalImage, ...]:
        """See the protocol."""
        names = [status.name for status in statuses]
        images = self._assemble(statuses, names, registry_names=registry_names)
        return tuple(images[name] for name in names)

    def to_push(self, request: PushRequest, statuses: Sequence[ImageStatus]) -> PushRequest:
        """See the protocol."""
        return replace(request, provide=partial(self._provide, statuses))

    def _provide(
        self,
        statuses_at_start: Sequence[ImageStatus],
        missing: Sequence[ImageToPush],
        stored: Mapping[str, StoredImage],
        begin: Begin,
    ) -> Sequence[ImageToPush]:
        # Listing an engine's images is slow, and a push of what the registry has does not need it.
        cache, engine = self._task.run.project_cache, self._task.services.engine
        statuses = self._statuses(statuses_at_start, engine, stored=stored, is_final=True)
        by_name = {image.name: image for image in missing}

        def ready(local_image: LocalImage) -> None:
            # A parent may be there only for the build of a child.
            if image := by_name.get(local_image.name):
                begin(replace(image, image_id=local_image.image_id))

        images = self._assemble(statuses, list(by_name), registry_names=True, ready=ready)
        return [
            replace(
                image,
                image_id=images[image.name].image_id,
                build_seconds=recorded_seconds(cache, image.name, image.fingerprint),
            )
            for image in missing
        ]

    def _assemble(
        self,
        statuses: Sequence[ImageStatus],
        targets: Sequence[str],
        *,
        registry_names: bool,
        ready: Callable[[LocalImage], object] = lambda _: None,
    ) -> dict[str, LocalImage]:
        task, named = self._task, _named(statuses)

        def names(name: str) -> tuple[str, ...]:
            if name not in named:
                return ()
            local = f"{image_name(name)}:{task.version.image_tag}"
            return (local, reference(task, name)) if registry_names else (local,)

        assembly = Assembly(
            task.settings.root,
            task.run.project_cache,
            task.run.environment,
            names,
            partial(full_repository, task),
            targets if task.run.no_cache else (),
            task.settings.media_types,
        )
        return assemble(
            statuses,
            targets,
            assembly,
            builder=task.services.builder,
            jobs=task.run.jobs,
            report=task.run.report,
            cancelled=task.run.cancelled,
            ready=ready,
        )

    def _statuses(
        self,
        statuses: Sequence[ImageStatus],
        engine: Engine,
        *,
        stored: Mapping[str, StoredImage] | None = None,
        is_final: bool = False,
    ) -> tuple[ImageStatus, ...]:
        task = self._task
        names = {each.folder.image for each in statuses}
        return engine_statuses(
            statuses,
            engine,
            cache=task.run.project_cache,
            repositories=names | {reference(task, name).rpartition(":")[0] for name in names},
            stored=stored,
            is_final=is_final,
        )

    def _pull(self, reference: str) -> None:
        report = self._task.run.report
        pull = partial(self._task.services.builder.pull, reference, PartialTransfers(report, reference))
        timed(report, reference, "pull", pull)


def _named(statuses: Sequence[ImageStatus]) -> frozenset[str]:
    """For each image the variant that the engine knows by the image's name: its own platform's, else the first one.

    An engine that does not keep indexes has one image for each name.
    """
    first = {status.folder.image: status.name for status in reversed(statuses)}
    own = {each.folder.image: each.name for each in statuses if each.folder.platform == each.folder.builder}
    return frozenset({**first, **own}.values())
