"""Bring images into a builder: existing ones are tagged, those in a registry are pulled, the rest is built."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path

from buildtools import BuildToolsError, Cancelled, Failures, Refused, check_at, failures_of, schedule
from buildtools.build_cache import BuildCache, read_caches
from buildtools.events import Finished, Outcome, PartialTransfers, Report, Warned, timed
from buildtools.frozen import frozen
from buildtools.image.bases import is_built_here
from buildtools.image.builder import Builder, BuildRequest
from buildtools.image.folder.contents import Contents
from buildtools.image.folder.fingerprint import record_inputs, recorded_inputs, recorded_seconds
from buildtools.image.folder.folders import ImageFolder
from buildtools.image.generation import PARENTS_LABEL, generation_of, parents_label
from buildtools.image.reference import Reference
from buildtools.image.registry.lookup import fingerprint_tag
from buildtools.image.registry.manifest import FINGERPRINT_LABEL, is_digest
from buildtools.image.survey import BuildState, ImageStatus, changes_since, engine_name
from buildtools.settings import MediaTypes, Provenance

_PROXY_WITH_LOGIN = re.compile(r"(?i:https?|ftp|all)_(?i:proxy)=[^/@]*(?://)?[^/@]*@")


class BuildOutcome(Enum):
    """How an image got the names of this version."""

    BUILT = "built"
    PULLED = "pulled"
    UP_TO_DATE = "up to date"


@frozen
class LocalImage:
    """An image that exists under all of ``references``. ``why`` says why it was not up to date."""

    name: str
    image_id: str
    references: tuple[str, ...]
    outcome: BuildOutcome
    why: tuple[str, ...] = ()


@frozen
class Assembly:
    """How images are brought into one builder.

    ``names`` returns the references to give each image; none for a variant that is known only by its fingerprint.
    ``kept_name`` returns that reference, for a name and a fingerprint. Nobody else moves it, while another run for the
    same version may move the version's. ``repository`` returns the image's repository, ``HOST/REPOSITORY``. ``project``
    is the folder that paths in settings are relative to; ``cache`` is where inputs are recorded. The images in ``anew``
    are always built, without a cache. An engine that keeps manifests writes them with ``media_types``.
    """

    project: Path
    cache: Path
    environment: Mapping[str, str]
    names: Callable[[str], tuple[str, ...]]
    repository: Callable[[str], str]
    anew: Collection[str] = ()
    media_types: MediaTypes = MediaTypes.DOCKER
    kept_name: Callable[[str, str], str] = engine_name


def assemble(
    statuses: Sequence[ImageStatus],
    targets: Collection[str],
    assembly: Assembly,
    *,
    builder: Builder,
    jobs: int,
    report: Report,
    cancelled: threading.Event,
    ready: Callable[[LocalImage], object] = lambda _: None,
) -> dict[str, LocalImage]:
    """Bring in every image of ``targets``, and the parents that one of them must be built from; returns them by name.

    ``ready`` is called with each as soon as it is there, from any thread. A failure is raised only after everything
    that does not depend on it has finished.

    :raises BuildToolsError: if an image could not be built; the message names it, and all that were skipped because of
        it.
    :raises Cancelled: if ``cancelled`` was set and nothing failed.
    """
    by_name = {status.name: status for status in statuses}
    with Contents(assembly.cache) as contents:
        assembler = _Assembler(by_name, assembly, contents, builder, report, cancelled, ready)
        assembler.keep_bases()
        names = assembler.closure(targets)
        assembler.refuse_missing_inputs(names)
        graph = {name: by_name[name].folder.parents for name in by_name if name in names}
        results = schedule.run_graph(graph, assembler.bring_in, jobs=jobs, cancelled=cancelled)
    for name, reason in results.skipped.items():
        report(Finished(name, "build", Outcome.SKIPPED, 0.0, f"{reason} failed" if reason else "cancelled"))
    failed = {name: error for name, error in results.failed.items() if not isinstance(error, Cancelled)}
    skipped = {**results.skipped, **dict.fromkeys(results.failed.keys() - failed, "")}
    if failed:
        raise _together(replace(results, failed=failed, skipped=skipped))
    if skipped:
        raise Cancelled("the builds were cancelled", "run the same command again; images that were built are kept")
    return dict(results.done)


class _Assembler:
    def __init__(
        self,
        statuses: Mapping[str, ImageStatus],
        assembly: Assembly,
        contents: Contents,
        builder: Builder,
        report: Report,
        cancelled: threading.Event,
        ready: Callable[[LocalImage], object],
    ) -> None:
        self._ready = ready
        self._statuses = statuses
        self._assembly = assembly
        self._contents = contents
        self._builder = builder
        self._report = report
        self._cancelled = cancelled
        self._image_ids: dict[str, str] = {}

    def closure(self, targets: Collection[str]) -> set[str]:
        """The targets, and the parents of those that will be built; only a build needs its parents."""
        names: set[str] = set()
        queue = list(targets)
        while queue:
            name = queue.pop()
            if name not in names:
                names.add(name)
                if self._outcome(self._statuses[name]) is BuildOutcome.BUILT:
                    queue += self._statuses[name].folder.parents
        return names

    def refuse_missing_inputs(self, names: Collection[str]) -> None:
        """Check before the first build that all builds have what they need: secrets, an SSH agent, caches.

        :raises Refused: naming everything that is missing.
        """
        errors: list[BuildToolsError] = []
        storing: dict[str, list[str]] = {}
        for name in (each for each in self._statuses if each in names):
            folder = self._statuses[name].folder
            if self._outcome(self._statuses[name]) is BuildOutcome.BUILT:
                errors += self._missing_inputs(name, folder)
                errors += _published_login(self._statuses[name])
                exports = [
                    cache for cache in read_caches(folder.settings.cache_to, written=True) if cache.needs_content
                ]
                for what in [*folder.settings.attestations, *(f"cache_to type={cache.kind}" for cache in exports)]:
                    storing.setdefault(what, []).append(name)
        if storing and not self._builder.keeps_content:
            errors += [_without_content(what, images) for what, images in storing.items()]
        if errors:
            fact = f"builds lack what they need ({len(errors)} errors)"
            raise Failures(errors).combined(fact, "fix the errors above and run again")

    def _missing_inputs(self, name: str, folder: ImageFolder) -> list[Refused]:
        settings = folder.settings
        checks: list[Callable[[], object]] = []
        if settings.secrets or settings.ssh:
            from buildtools.image.engine.offer import read_secret, ssh_agent

            environment = self._assembly.environment
            sources = settings.secrets.items()
            checks += [partial(read_secret, key, self._secret(source), environment) for key, source in sources]
            checks += [partial(ssh_agent, name, environment)] if settings.ssh else []
        for key in ("cache_from", "cache_to"):
            checks += [partial(_check_cache, key, cache) for cache in self._caches(folder, key)]
        absent = [secret for secret in folder.own_needs.secrets if secret not in settings.secrets]
        return [
            *(Refused(f"image.{name}: {error.fact}", error.remedy) for error in failures_of(checks)),
            *(
                Refused(f"image.{name}: its Dockerfile requires the secret {secret}", "name it in the image's secrets")
                for secret in absent
            ),
        ]

    def keep_bases(self) -> None:
        """Give base images whose names our own images will take a second name, under which builds use them."""
        for base in {base for status in self._statuses.values() for base in status.bases.values() if base.kept_name}:
            image = self._builder.image(base.reference)
            if image and not is_built_here(image, base.reference):
                self._builder.tag(image["Id"], base.kept_name)

    def bring_in(self, name: str) -> LocalImage:
        status = self._statuses[name]
        if status.base_error:
            self._report(Finished(name, "build", Outcome.FAILED, 0.0, status.base_error.fact))
            raise status.base_error
        outcome = self._outcome(status)
        names = self._assembly.names(name)
        names_there: Collection[str] = () if outcome is BuildOutcome.BUILT else status.tags
        is_another_replaced = self._warn_of_others(status, [name for name in names if name not in names_there])
        if outcome is BuildOutcome.BUILT:
            image_id, names_there = self._build(status, names), names
        elif outcome is BuildOutcome.PULLED:
            image_id, names_there = self._pull(status), ()
        else:
            image_id = status.image_id
            self._report(Finished(name, "build", Outcome.UP_TO_DATE, 0.0))
        # The name with the fingerprint comes last, because later runs find the image by it.
        kept_name = self._kept_name(name)
        for reference in names:
            if reference not in names_there:
                self._builder.tag(image_id, reference)
        if kept_name not in names_there:
            image_id = self._builder.keep(image_id, kept_name, anew=self._is_anew(status))
        self._image_ids[name] = image_id
        if is_another_replaced and outcome is not BuildOutcome.BUILT:
            self._record(status, recorded_seconds(self._assembly.cache, name, status.fingerprint.value))
        local_image = LocalImage(name, image_id, names or (kept_name,), outcome, status.why)
        self._ready(local_image)
        return local_image

    def _kept_name(self, name: str) -> str:
        return self._assembly.kept_name(name, self._statuses[name].fingerprint.value)

    def _mention(self, name: str) -> str:
        return self._builder.mention(self._image_ids[name], self._kept_name(name))

    def _base_mentions(self, status: ImageStatus) -> dict[str, str]:
        """The names for a Dockerfile of base images, if the builder can name exactly the one in the fingerprint."""
        pairs = [
            (name, base.digest) for name, base in status.bases.items() if is_digest(base.digest) and "@" not in name
        ]
        mentions = {name: self._builder.mention(f"{name}@{digest}", name) for name, digest in pairs}
        return {name: mention for name, mention in mentions.items() if mention != name}

    def _is_anew(self, status: ImageStatus) -> bool:
        """Whether an image with the same fingerprint is not enough, because it may be too old."""
        return status.name in self._assembly.anew or bool(status.folder.settings.rebuild_after or status.remotes)

    def _warn_of_others(self, status: ImageStatus, names: Iterable[str]) -> bool:
        """Warn about names that belong to an image this project did not build last: another project may need them.

        :returns: whether any of the names belongs to another image, whoever built that.
        """
        is_any_of_another = False
        for reference in names:
            image = self._builder.image(reference)
            labels = ((image or {}).get("Config") or {}).get("Labels") or {}
            fingerprint = labels.get(FINGERPRINT_LABEL, "")
            if image is None or fingerprint == status.fingerprint.value:
                continue
            is_any_of_another = True
            if recorded_inputs(self._assembly.cache, status.name, fingerprint) is None:
                was = f"{reference} was another image, {image['Id']}, which this project did not build last"
                self._report(Warned(status.name, f"{was}; the name is moved to this project's"))
        return is_any_of_another

    def _record(self, status: ImageStatus, seconds: float) -> None:
        try:
            record_inputs(self._assembly.cache, status.name, status.fingerprint, seconds)
        except OSError as error:
            self._report(Warned(status.name, f"its inputs could not be recorded ({error})"))

    def _outcome(self, status: ImageStatus) -> BuildOutcome:
        if status.name in self._assembly.anew:
            return BuildOutcome.BUILT
        if status.state is BuildState.UP_TO_DATE:
            return BuildOutcome.UP_TO_DATE
        return BuildOutcome.PULLED if status.registry_digest else BuildOutcome.BUILT

    def _build(self, status: ImageStatus, names: tuple[str, ...]) -> str:
        # Imported late: this is most of the code, and most runs build nothing.
        from buildtools.image.engine.buildkit.failure import BuildFailed

        folder, fingerprint = status.folder, status.fingerprint
        settings = folder.settings
        mentions = self._base_mentions(status) | {parent: self._mention(parent) for parent in folder.parents}
        request = BuildRequest(
            name=folder.name,
            context=folder.context,
            dockerfile=folder.dockerfile_path,
            content=folder.pinned_dockerfile(
                mentions | {name: base.kept_name for name, base in status.bases.items() if base.kept_name}
            ),
            tags=names or (self._kept_name(status.name),),
            args=status.arguments(),
            labels={**settings.labels, FINGERPRINT_LABEL: fingerprint.value, **self._parents_label(folder.parents)},
            target=settings.target,
            platform="" if folder.platform == folder.builder else str(folder.platform),
            secrets={key: self._secret(source) for key, source in settings.secrets.items()},
            ssh=settings.ssh,
            cache_from=self._caches(folder, "cache_from"),
            cache_to=self._caches(folder, "cache_to"),
            attestations=settings.attestations,
            # The engine's cache may be older than the image would then claim to be.
            no_cache=folder.name in self._assembly.anew or bool(settings.rebuild_after),
            directories=fingerprint.directories,
            media_types=self._assembly.media_types,
            selection=status.selection(),
            repository=self._assembly.repository(status.name),
            native=str(folder.builder),
            parents=tuple(mentions.values()),
        )
        began = time.monotonic()
        try:
            image_id = self._builder.build(request, self._report, self._cancelled)
        except BuildFailed as error:
            # If no instruction is to blame, a file may have changed on its way to the engine.
            if not error.line:
                self._refuse_changed(status)
            raise
        seconds = time.monotonic() - began
        self._refuse_changed(status, request.tags)
        self._record(status, seconds)
        return image_id

    def _refuse_changed(self, status: ImageStatus, names: tuple[str, ...] = ()) -> None:
        parents = {parent: self._statuses[parent].fingerprint for parent in status.folder.parents}
        changes = list(changes_since(status, parents, self._contents))
        for parent in status.folder.parents:
            image = self._builder.image(self._mention(parent))
            if image is None or image["Id"] != self._image_ids[parent]:
                changes.append(f"its parent {parent} was built again")
        if changes:
            # Without a name the image is deleted, and with it its label, which may be wrong.
            for reference in names:
                self._builder.untag(reference)
            raise BuildToolsError(
                f"{status.name} changed while it was built ({'; '.join(changes)})",
                "run again while nothing else writes to its files, or list those in .dockerignore",
            )

    def _parents_label(self, parents: Sequence[str]) -> dict[str, str]:
        generations = {}
        for parent in parents:
            image = self._builder.image(self._image_ids[parent])
            if image is None:
                raise BuildToolsError(
                    f"the image of {parent} was removed during the build", "run the same command again"
                )
            generations[parent] = generation_of(image["RootFS"].get("Layers") or ())
        return {PARENTS_LABEL: parents_label(generations)} if parents else {}

    def _caches(self, folder: ImageFolder, key: str) -> tuple[BuildCache, ...]:
        """The caches in an image's setting ``key``."""
        caches = read_caches(getattr(folder.settings, key), written=key == "cache_to")
        repository = self._assembly.repository(folder.name) if any(cache.is_own for cache in caches) else ""
        of_image = (cache.of_image(folder.image, folder.platform, repository) for cache in caches)
        return tuple(
            cache.at(str(self._assembly.project / cache.place)) if cache.kind == "local" else cache
            for cache in of_image
        )

    def _secret(self, source: str) -> str:
        return source if source.startswith("env:") else str(self._assembly.project / source)

    def _pull(self, status: ImageStatus) -> str:
        tag = fingerprint_tag(status.fingerprint.value)
        reference = f"{self._assembly.repository(status.name)}:{tag}@{status.registry_digest}"
        arrival = PartialTransfers(self._report, status.name)
        return timed(self._report, status.name, "pull", lambda: self._builder.pull(reference, arrival), str)


def _check_cache(key: str, cache: BuildCache) -> None:
    if cache.kind == "registry":
        check_at(key, lambda: Reference.parse(cache.place))


def _published_login(status: ImageStatus) -> list[Refused]:
    """The error if the provenance of a build would have the login of a proxy; BuildKit notes all arguments."""
    proxies = [name for name, value in status.arguments().items() if _PROXY_WITH_LOGIN.match(f"{name}={value}")]
    if not proxies or status.folder.settings.provenance is not Provenance.MAX:
        return []
    return [
        Refused(
            f'image.{status.name}: provenance = "max" would publish the login in {proxies[0]}',
            "use a proxy without a login, or provenance = true, which leaves arguments out",
        )
    ]


def _without_content(what: str, names: Sequence[str]) -> Refused:
    return Refused(
        f"{what} (of {', '.join(names)}) needs an engine with containerd's image store, which this one does not use",
        'switch it on with {"features": {"containerd-snapshotter": true}} in '
        "/etc/docker/daemon.json (Docker 24 and newer), "
        + ("or write cache_to type=inline" if what.startswith("cache_to") else f"or unset {what}"),
    )


def _together(results: schedule.Results[LocalImage]) -> BuildToolsError:
    """All failures as one error: each message, then the skipped images."""
    failures = Failures(results.failed.values())
    count = len(results.done) + len(results.failed) + len(results.skipped)
    skipped_names = f"; skipped for that: {', '.join(results.skipped)}" if results.skipped else ""
    fact = f"{len(results.failed)} of {count} images failed: {', '.join(results.failed)}{skipped_names}"
    combine = failures.summarized if results.skipped else failures.combined
    return combine(fact, "fix the errors above and run again; images that were built are kept")
