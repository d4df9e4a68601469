"""Check that everything a release needs is in place and works; each finding says what to do about it."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from buildtools import BuildToolsError, Failures, Refused, error_kind
from buildtools.compose import installed_compose
from buildtools.frozen import frozen
from buildtools.image.builders.sites import BuildSite
from buildtools.image.engine.client import Engine, EngineError, import_library
from buildtools.image.registry.capabilities import Capabilities
from buildtools.schedule import side_by_side
from buildtools.stages.signatures import check_keys
from buildtools.task_context import TaskContext

_FREE_SHARE_WARNED_OF = 0.1
_FREE_SHARE_NEEDED = 0.01
# Dates of certificates, tokens and signatures are compared with clocks; S3 tolerates 15 minutes.
_SECONDS_OFF = 5
_DANGLING_WARNED_OF = 50
_DEAD_WARNED_OF = 50
_IDLE = ("created", "exited", "dead")
_JOBS = 8


class Health(Enum):
    """The result of one check."""

    WELL = "ok"
    WARNING = "warning"
    FAILED = "failed"


@frozen
class Diagnosis:
    """One finding and what to do about it. ``exit_code`` is that of a task that would fail because of it."""

    subject: str
    health: Health
    fact: str
    remedy: str = ""
    exit_code: int = 0


@frozen
class Examination:
    """All findings."""

    diagnoses: tuple[Diagnosis, ...]

    def error(self) -> BuildToolsError | None:
        """One error for everything that failed, with the exit code of the gravest; None if nothing failed."""
        failed = [each for each in self.diagnoses if each.health is Health.FAILED]
        if not failed:
            return None
        errors = [error_kind(each.exit_code)(each.fact) for each in failed]
        subjects = ", ".join(dict.fromkeys(each.subject for each in failed))
        summary = Failures(errors).summarized(f"not well: {subjects}", "do what is said above")
        # The details are already shown as findings.
        return type(summary)(summary.fact, summary.remedy)


def examine(task: TaskContext) -> Examination:
    """Run all checks in parallel; a failure is a finding.

    Nothing is changed, except that the check of access to the store leaves an object there, unless the run is dry.
    """
    examinations: tuple[tuple[str, Callable[[TaskContext], Iterator[Diagnosis]]], ...] = (
        ("buildtools", _tool),
        ("configuration", _configuration),
        ("git", _git),
        *([("builders", _builders)] if task.services.builder_settings else [("engine", _engine)]),
        ("disk", _disks),
        ("registry", _registry),
        ("store", _store),
        ("signing", _keys),
        ("compose", _compose),
    )
    import_library()
    rows = side_by_side([partial(_diagnoses, task, *each) for each in examinations], jobs=_JOBS)
    return Examination(tuple(diagnosis for row in rows for diagnosis in row))


def _diagnoses(
    task: TaskContext, subject: str, examination: Callable[[TaskContext], Iterator[Diagnosis]]
) -> list[Diagnosis]:
    diagnoses: list[Diagnosis] = []
    try:
        diagnoses.extend(examination(task))
    except BuildToolsError as error:
        fact = "; ".join((*error.details, error.fact))
        diagnoses.append(Diagnosis(subject, Health.FAILED, fact, error.remedy, error.exit_code))
    return diagnoses


def _tool(task: TaskContext) -> Iterator[Diagnosis]:
    del task
    fact = f"{version('lockstep-buildtools')}, Python {platform.python_version()}, {platform.platform()}"
    yield Diagnosis("buildtools", Health.WELL, fact)


def _configuration(task: TaskContext) -> Iterator[Diagnosis]:
    for error in task.settings.errors:
        yield Diagnosis("configuration", Health.FAILED, error, "correct it", Refused.exit_code)
    if not task.settings.errors:
        yield Diagnosis("configuration", Health.WELL, "`invoke check` looks at the image folders too")


def _git(task: TaskContext) -> Iterator[Diagnosis]:
    current = task.version
    if current.dirty:
        yield Diagnosis("git", Health.WARNING, f"the tree is dirty: {current}", "commit or stash before you publish")
    else:
        yield Diagnosis("git", Health.WELL, f"version {current}")


def _engine(task: TaskContext) -> Iterator[Diagnosis]:
    engine = task.services.engine
    with engine.errors():
        info: dict[str, Any] = engine.api.info()
        dangling = engine.api.images(filters={"dangling": True})
        idle = engine.api.containers(all=True, filters={"status": [*_IDLE]})
        running = engine.api.containers()
    fact = f"{info['ServerVersion']} at {engine.address}, API {engine.api_version}, {engine.platform}"
    yield Diagnosis("engine", Health.WELL, fact)
    yield _image_store(info, containerd=engine.containerd_store)
    yield _clock(info)
    size = sum(each["Size"] for each in dangling) // 1_000_000
    yield _counted(
        "images", len(dangling), f"dangling, {size} MB", _DANGLING_WARNED_OF, "`docker image prune` removes them"
    )
    yield _counted("containers", len(idle), "not running", _DEAD_WARNED_OF, "`docker container prune` removes them")
    root = Path(info["DockerRootDir"])
    if engine.address.startswith("unix://") and root.is_dir():
        yield from _disk("engine's disk", root)
        yield _mounts(root, [*_details(engine, running)])


def _builders(task: TaskContext) -> Iterator[Diagnosis]:
    for name, site in task.services.sites.items():
        subject = f"builder {name}"
        yield from _diagnoses(task, subject, partial(_builder, subject, site))


def _builder(name: str, site: BuildSite, task: TaskContext) -> Iterator[Diagnosis]:
    del task
    platforms = ", ".join(map(str, site.platforms))
    yield Diagnosis(name, Health.WELL, f"{site.host.title} builds for {platforms}")


def _image_store(info: Mapping[str, Any], *, containerd: bool) -> Diagnosis:
    driver = info["Driver"]
    if driver == "vfs":
        fact = "the storage driver vfs copies every layer in full"
        return Diagnosis("engine's store", Health.WARNING, fact, "use overlay2, or fuse-overlayfs where that cannot be")
    return Diagnosis(
        "engine's store", Health.WELL, f"{driver}, {'containerd' if containerd else 'classic'} image store"
    )


def _clock(info: Mapping[str, Any]) -> Diagnosis:
    # RFC 3339 with nanoseconds; Python reads at most six digits.
    text = info["SystemTime"].partition(".")[0].rstrip("Z")
    there = datetime.fromisoformat(text).replace(tzinfo=UTC) if len(text) == len("2026-01-31T00:00:00") else None
    if there is None:
        return Diagnosis("clock", Health.WARNING, f"the engine says {info['SystemTime']}", "compare it by hand")
    seconds = abs((datetime.now(UTC) - there).total_seconds())
    if seconds > _SECONDS_OFF:
        fact = f"the engine's clock and this one are {seconds:.0f} s apart"
        return Diagnosis("clock", Health.WARNING, fact, "set both by NTP")
    return Diagnosis("clock", Health.WELL, "the engine's and this one agree")


def _counted(subject: str, count: int, what: str, limit: int, remedy: str) -> Diagnosis:
    health = Health.WARNING if count > limit else Health.WELL
    return Diagnosis(subject, health, f"{count} {what}", remedy if count > limit else "")


def _details(engine: Engine, containers: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for container in containers:
        # It may be gone by now.
        with suppress(EngineError), engine.errors():
            yield engine.api.inspect_container(container["Id"])


def _mounts(root: Path, running: list[dict[str, Any]]) -> Diagnosis:
    """Container file systems that are mounted although their container is not running: leftovers of kills and bugs."""
    holders = {each["Id"] for each in running}
    layers = {((each.get("GraphDriver") or {}).get("Data") or {}).get("MergedDir") for each in running}
    strays = []
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        place = line.split()[1]
        of_container = place.removeprefix(f"{root}/containers/").partition("/")[0]
        is_shm = place.startswith(f"{root}/containers/") and of_container not in holders
        is_layer = place.startswith(f"{root}/") and place.endswith("/merged") and place not in layers
        if is_shm or is_layer:
            strays.append(place)
    if strays:
        fact = f"{len(strays)} mounts that no container holds, such as {strays[0]}"
        return Diagnosis("mounts", Health.WARNING, fact, "where nothing is being built, restart the engine")
    return Diagnosis("mounts", Health.WELL, "each is held by a container that runs")


def _compose(task: TaskContext) -> Iterator[Diagnosis]:
    """What `invoke stage` needs, if the project has a stack."""
    if all((task.settings.root / path).exists() for path in task.settings.stage.compose):
        yield Diagnosis("compose", Health.WELL, " ".join(installed_compose(task.run.environment)))


def _disks(task: TaskContext) -> Iterator[Diagnosis]:
    root, cache = task.settings.root, task.run.cache
    if why := _obstacle(root):
        fact = f"{root} cannot be written ({why}), so archives cannot be made"
        yield Diagnosis("project's disk", Health.FAILED, fact, "make it writable", BuildToolsError.exit_code)
    else:
        yield from _disk("project's disk", root)
    if why := _obstacle(cache):
        fact = f"{cache} cannot be written ({why}), so every run takes as long as the first"
        yield Diagnosis("cache's disk", Health.WARNING, fact, "make it writable, or set XDG_CACHE_HOME")
    else:
        yield from _disk("cache's disk", cache)


def _obstacle(folder: Path) -> str:
    """Why a file cannot be created in a folder, or in the first above it that exists; empty if it can. None is left.

    A full disk is no obstacle here, because :func:`_disk` tells of it.
    """
    try:
        with TemporaryFile(dir=_existing(folder)):
            return ""
    except OSError as error:
        return "" if error.errno == errno.ENOSPC else error.strerror or str(error)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _disk(subject: str, folder: Path) -> Iterator[Diagnosis]:
    there = _existing(folder)
    state = os.statvfs(there)
    shares = {"space": state.f_bavail / max(state.f_blocks, 1)}
    # Some file systems create inodes on demand and report 0.
    if state.f_files:
        shares["inodes"] = state.f_favail / state.f_files
    for what, share in shares.items():
        fact = f"{share:.0%} of the {what} of {there} is free"
        if share < _FREE_SHARE_NEEDED:
            yield Diagnosis(subject, Health.FAILED, fact, "make room", BuildToolsError.exit_code)
        elif share < _FREE_SHARE_WARNED_OF:
            yield Diagnosis(subject, Health.WARNING, fact, "make room")
        elif what == "space":
            yield Diagnosis(subject, Health.WELL, fact)


def _registry(task: TaskContext) -> Iterator[Diagnosis]:
    settings = task.settings
    if not settings.registry:
        yield Diagnosis("registry", Health.WARNING, "none is configured", "set registry before you push")
        return
    registry = task.services.registry
    registry.ping()
    login = f"logs in as {registry.credential.username or 'a token'}" if registry.credential else "asks for no login"
    yield Diagnosis("registry", Health.WELL, f"{settings.registry} answers, and {login}")
    folder = settings.root / settings.images
    names = sorted(path.name for path in folder.glob("*") if path.is_dir())
    if names:
        repository = f"{settings.repository_prefix}/{names[0]}".partition("/")[2]
        registry.check_push_access(repository)
        yield Diagnosis("registry", Health.WELL, f"takes pushes to {repository}")
        yield from _capabilities(registry.capabilities(repository))


def _capabilities(capabilities: Capabilities) -> Iterator[Diagnosis]:
    """The registry's optional features, and the consequences of missing ones."""
    abilities = (
        (capabilities.encrypted, "speaks TLS", "speaks plain http"),
        (capabilities.mounts, "mounts layers", "mounts no layers, so those of base images are sent"),
        (capabilities.ranges, "sends parts of layers", "sends whole layers only, so a broken download starts again"),
        (capabilities.sizes, "returns sizes", "returns no sizes, so each takes two requests"),
    )
    parts = [yes if can else no for can, yes, no in abilities if can is not None]
    if capabilities.mounts is None:
        parts.append("more shows after the first push")
    if capabilities.request_limit:
        hours = f" in {capabilities.limit_seconds / 3600:g} h" if capabilities.limit_seconds else ""
        parts.append(
            f"allows {capabilities.request_limit} pulls{hours}, of which {capabilities.requests_left} are left"
        )
    yield Diagnosis("registry", Health.WELL, ", ".join(parts))
    if capabilities.deletes:
        yield Diagnosis("registry", Health.WELL, "deletes, so `invoke prune` works")
    else:
        fact = "does not delete, so old fingerprints and pruned images stay"
        remedy = "allow it (Distribution: storage.delete.enabled), or use the registry's own retention rules"
        yield Diagnosis("registry", Health.WARNING, fact, remedy)


def _store(task: TaskContext) -> Iterator[Diagnosis]:
    settings = task.settings
    if not settings.artifacts:
        yield Diagnosis("store", Health.WARNING, "none is configured", "set artifacts before you publish")
        return
    reasons = task.services.store.check_access(dry_run=task.run.dry_run)
    for reason in reasons:
        fact, _, remedy = reason.partition(": ")
        yield Diagnosis("store", Health.FAILED, fact, remedy, Refused.exit_code)
    if not reasons:
        yield Diagnosis("store", Health.WELL, f"{settings.artifacts} can be written, and read back")
    for name in ("s3_conditional_writes", "s3_checksums"):
        if not getattr(settings, name):
            remedy = "see docs/release.md on what that gives up"
            yield Diagnosis("store", Health.WARNING, f"{settings.place(name)} is false", remedy)


def _keys(task: TaskContext) -> Iterator[Diagnosis]:
    if task.services.signing_key:
        check_keys(task)
        yield Diagnosis("signing", Health.WELL, "releases are signed")
    if task.services.verify_keys:
        yield Diagnosis("signing", Health.WELL, "only signed releases are taken")
