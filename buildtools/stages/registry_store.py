"""The images of a task in the registry, for builders that push them there and keep none.

An engine keeps images under names, besides those in the registry. A BuildKit daemon keeps none, so an image is up to
date if the registry has its fingerprint, is never pulled, and only has a name in the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.events import Warned
from buildtools.image.assembly import Assembly, LocalImage, assemble
from buildtools.image.bases import BaseImage
from buildtools.image.builders.registry_builder import RegistryBuilder
from buildtools.image.push.routes import PushRequest
from buildtools.image.registry.image_to_push import ImageToPush, PushRoute
from buildtools.image.registry.lookup import StoredImage, find_fingerprints
from buildtools.image.survey import BuildState, ImageStatus, registry_statuses
from buildtools.schedule import awaited
from buildtools.stages.image_names import fingerprint_reference, full_repository, repository
from buildtools.task_context import TaskContext


class RegistryStore:
    """The :class:`~buildtools.stages.image_store.ImageStore` of a task with builders that push what they build."""

    # Builders pull base images from their registries.
    engine = None

    def __init__(self, task: TaskContext) -> None:
        self._task = task

    def require(self, *, registry_names: bool = False) -> None:
        """See the protocol."""
        builders = ", ".join(self._task.services.sites)
        if not self._task.settings.registry:
            raise Refused(
                f"images are built with {builders}, which keeps none, and no registry is configured to push them into",
                'set registry = "HOST:PORT" under [tool.buildtools], or leave builder out to build with the engine',
            )
        if registry_names:
            raise Refused(
                f"images are built with {builders}, which keeps none to tag",
                "`invoke push` gives them their names in the registry",
            )

    def own_names(self) -> tuple[str, ...]:
        """See the protocol."""
        return ()

    def refresh(self, references: Sequence[str]) -> None:
        """See the protocol. Builders ask the registry each time anyway."""

    def fetch(self, bases: Sequence[BaseImage]) -> dict[str, BuildToolsError]:
        """See the protocol. Only its registry knows a base image, and that was already asked."""
        return {
            base.reference: (Unreachable if base.unreachable else BuildToolsError)(
                f"its registry does not tell what {base.reference} is",
                "see that it can be reached from here and has that image; log in with docker login if it asks for it",
            )
            for base in bases
        }

    def with_places(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """See the protocol.

        :raises Refused: if no registry is configured.
        """
        self.require()
        places = {each.name: (repository(self._task, each.name), each.fingerprint.value) for each in statuses}
        try:
            images = find_fingerprints(self._task.services.registry, places, self._task.registry_cache)
        except Unreachable as error:
            self._task.run.report(Warned("", f"{error.fact}; what it has is not known"))
            return statuses
        stored = self._statuses(statuses, {name: image for name, image in images.items() if image})
        of_unknown_platform = _of_unknown_platform(self._task, stored)
        why = ("the first builder does not answer, and it would be built for its platform",)
        return tuple(
            replace(each, state=BuildState.UNKNOWN, why=why)
            if each.name in of_unknown_platform and each.state is not BuildState.UP_TO_DATE
            else each
            for each in stored
        )

    def remembered(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """The state of each folder if the registry had no image: what has changed since the last build from here."""
        return self._statuses(statuses, {})

    def with_notes(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """See the protocol.

        The note says which of several builders should build it; a busy one may be replaced by another.
        """
        if len(self._task.services.sites) < 2:
            return statuses
        pool = self._task.services.pool(self._task.run.jobs)

        def with_note(status: ImageStatus) -> ImageStatus:
            if status.state is BuildState.UP_TO_DATE:
                return status
            folder = status.folder
            dockerfile = folder.dockerfile_path.read_bytes()
            name = pool.preferred(folder.name, str(folder.platform), str(folder.builder), dockerfile)
            return replace(status, why=(*status.why, f"to be built on {name}")) if name else status

        return tuple(map(with_note, statuses))

    def with_stored(self, statuses: tuple[ImageStatus, ...]) -> tuple[ImageStatus, ...]:
        """See the protocol. Images in the registry are already in place."""
        return statuses

    def build(self, statuses: tuple[ImageStatus, ...], *, registry_names: bool) -> tuple[LocalImage, ...]:
        """See the protocol."""
        del registry_names
        return tuple(self._assemble(statuses, [status.name for status in statuses], self._builder()).values())

    def to_push(self, request: PushRequest, statuses: Sequence[ImageStatus]) -> PushRequest:
        """See the protocol."""
        return replace(request, make=partial(self._make, statuses))

    def _make(
        self, statuses: Sequence[ImageStatus], missing: Sequence[ImageToPush], stored: Mapping[str, StoredImage]
    ) -> list[tuple[StoredImage, PushRoute]]:
        """Build what the registry lacks on top of ``stored``; returns the new images, in order of ``missing``."""
        builder = self._builder()
        names = [image.name for image in missing]
        images = self._assemble(self._statuses(statuses, stored, is_final=True), names, builder)

        def found(image_id: str) -> StoredImage:
            image = awaited(lambda: builder.stored(image_id))
            if image is None:
                raise Unreachable(f"{image_id} was lost during the push", "run the same command again")
            return image

        return [(found(images[name].image_id), PushRoute.BUILDER) for name in names]

    def _builder(self) -> RegistryBuilder:
        task, sites = self._task, self._task.services.sites
        pool = task.services.pool(task.run.jobs)
        # A pool of one would only replace that builder's messages by its own.
        site = pool if len(sites) > 1 else next(iter(sites.values()))
        return RegistryBuilder(
            task.services.registry,
            task.registry_cache,
            site.push_build,
            lambda: site.keeps_content,
            pool.place_of,
            task.version.commit,
        )

    def _assemble(
        self, statuses: Sequence[ImageStatus], targets: Sequence[str], builder: RegistryBuilder
    ) -> dict[str, LocalImage]:
        """All images of ``targets``, and the parents they must be built from; see :func:`assemble`."""
        task = self._task
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
        try:
            if len(sites) > 1:
                # Here an interrupt ends the wait for a builder that hangs; a building thread would wait on.
                pool.ask()
                if len(pool.losses) < len(sites):
                    refuse_unknown_platform(task, [each for each in statuses if each.name in targets])
            return assemble(
                statuses,
                targets,
                assembly,
                builder=builder,
                jobs=sum(site.jobs or task.run.jobs for site in sites.values()),
                report=task.run.report,
                cancelled=task.run.cancelled,
            )
        finally:
            for name, loss in pool.losses.items():
                task.run.report(Warned("", f"the builder {name} was lost: {loss}"))

    def _statuses(
        self, statuses: Sequence[ImageStatus], stored: Mapping[str, StoredImage], *, is_final: bool = False
    ) -> tuple[ImageStatus, ...]:
        return registry_statuses(
            statuses,
            stored,
            repository=partial(full_repository, self._task),
            kept_name=partial(fingerprint_reference, self._task),
            cache=self._task.run.project_cache,
            is_final=is_final,
        )


def _of_unknown_platform(task: TaskContext, statuses: Sequence[ImageStatus]) -> list[str]:
    """The names of the images that are for the platform of the first builder, if that did not say what it is."""
    from buildtools.image.builders.pool import reads_build_platform

    if task.build_platform is not None:
        return []
    return [
        each.name
        for each in statuses
        if not task.settings.platforms_of(each.folder.image)
        or reads_build_platform(each.folder.dockerfile_path.read_bytes())
    ]


def refuse_unknown_platform(task: TaskContext, statuses: Sequence[ImageStatus]) -> None:
    """Raise :class:`Unreachable` if images are for the platform of the first builder, which did not say what it is.

    Until it does, or the version's images do, this machine's platform stands for it. Other builders may be of another
    one, and build other images; and what was built for another one seems to have other content.
    """
    if names := _of_unknown_platform(task, statuses):
        first = next(iter(task.services.sites))
        raise Unreachable(
            f"the first builder, {first}, does not answer, and {', '.join(names)} would be built for its platform",
            "give it `platforms` in a table [tool.buildtools.pool.NAME], or run again when it answers",
        )
