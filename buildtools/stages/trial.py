"""A trial of a version: start its stack, wait until it is healthy, run the smoke command, and remove the stack.

Cleaning up after kills. A trial has a folder, ``dist/.NAME``, and holds a lock on it for as long as its process lives.
Everything that Compose creates for the trial has its name as a label. So a stack of this project whose lock nobody
holds was left by a killed trial, or by one before a reboot, and the next trial removes it. Two trials at once have two
names and two locks, and do not affect each other. ``dist`` itself is locked while a folder is created and locked, while
leftovers are removed, and while a folder gets its final name, so nobody sees these half done.

At the end the folder becomes ``dist/stage``: the log of each service and of the smoke command, and ``result.json``.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.cancellation import Deadline
from buildtools.command import CommandFailed, run_command
from buildtools.compose import Compose, images_file, installed_compose, stack_variables
from buildtools.events import Event, Finished, Log, Outcome, Warned, timed
from buildtools.frozen import frozen
from buildtools.image.docker.configuration import chosen_engine
from buildtools.image.reference import DOCKER_HUB, Reference
from buildtools.stages.fetch import pull_images
from buildtools.stages.image_names import repository
from buildtools.stages.outputs import image_variables
from buildtools.stages.planned import Planned
from buildtools.stages.signatures import refuse_unsigned
from buildtools.stages.stack import Condition, Stack, StackService, stack_names
from buildtools.stages.version_images import VersionImages
from buildtools.task_context import TaskContext

_FOLDER = "stage"
_IMAGES = "images.yaml"
_RESULT = "result.json"
_SMOKE_LOG = "smoke.log"
_LOOK_SECONDS = 0.25
_TAIL = 10
_NAME_TAKEN = "is already in use by container"
_PORT_TAKEN = ("port is already allocated", "address already in use")


class TrialFailed(BuildToolsError):
    """The version failed the trial."""


@frozen
class Trial:
    """The result of a trial. ``smoke`` is the smoke command's exit code, None if it did not run to its end.

    A pass is only recorded for a release; ``released`` says whether this was one.
    """

    version: str
    commit: str
    released: bool
    images: Mapping[str, str]
    services: tuple[StackService, ...] = ()
    smoke: int | None = None
    passed: bool = False
    error: str = ""
    logs: str = ""


def try_out(task: TaskContext, subject: VersionImages) -> Trial:
    """Try a version out, and leave nothing of it in the engine, however this ends.

    :raises TrialFailed: if it does not start, does not become healthy in time, or the smoke command fails.
    :raises Refused: if there is no Compose, or its files are invalid or do not use the version's images.
    """
    if subject.release:
        refuse_unsigned(task, subject.release)
    with _trial_folder(task) as folder:
        stack = Stack(task.services.engine, folder.name.removeprefix("."))
        logs, is_released = str(folder.with_name(_FOLDER)), subject.release is not None
        trial = Trial(subject.version, subject.commit, is_released, subject.images, logs=logs)
        try:
            compose = _compose(task, subject, folder)
            if subject.release:
                pull_images(task, subject.release.images)
            trial = replace(trial, services=_bring_up(task, subject, compose, stack))
            trial = replace(trial, smoke=_smoke(task, compose, stack, folder))
            trial = replace(trial, services=_services_still_well(stack), passed=True)
        except BaseException as error:
            trial = replace(trial, error=getattr(error, "fact", "") or "interrupted")
            # Compose has an exit code too, before there are services.
            if isinstance(error, CommandFailed) and trial.services and trial.smoke is None:
                trial = replace(trial, smoke=error.status)
            raise
        finally:
            _end(stack, folder, trial)
    return trial


def trial_plan(task: TaskContext, subject: VersionImages) -> tuple[Planned, ...]:
    """What would be started: each image of the version."""
    installed_compose(task.run.environment)
    stack_variables("", _files(task))
    return tuple(Planned(name, "be tried out", (reference,)) for name, reference in subject.images.items())


def _files(task: TaskContext) -> list[Path]:
    return [task.settings.root / path for path in task.settings.stage.compose]


def _compose(task: TaskContext, subject: VersionImages, folder: Path) -> Compose:
    """Compose with the project's files and one more, which sets the version's image for each service named like one."""
    files = _files(task)
    environment = {
        **chosen_engine(task.run.command_environment),
        **image_variables(subject.images),
        "VERSION": subject.version,
        "REVISION": subject.commit,
        **stack_variables(folder.name.removeprefix("."), files),
    }
    words = installed_compose(environment)
    services = Compose(words, task.settings.root, environment).services()
    if own := {name: subject.images[name] for name in services if name in subject.images}:
        (folder / _IMAGES).write_text(images_file(own))
        environment |= stack_variables(folder.name.removeprefix("."), [*files, folder / _IMAGES])
    return Compose(words, task.settings.root, environment)


def _bring_up(task: TaskContext, subject: VersionImages, compose: Compose, stack: Stack) -> tuple[StackService, ...]:
    report, seconds = task.run.report, task.settings.stage.timeout
    create = partial(compose.run, "up", "--no-start", "--no-build", report=report, cancelled=task.run.cancelled)
    try:
        timed(report, "stack", "create", create)
    except CommandFailed as failure:
        if not any(_NAME_TAKEN in line for line in failure.details):
            raise
        raise TrialFailed(
            "another container has the name of one of the stack",
            "give no `container_name`, so that each trial has names of its own",
            failure.details,
        ) from None
    _refuse_other_images(task, subject, stack)
    with Deadline(seconds, task.run.cancelled) as deadline:
        try:
            start = partial(compose.run, "up", "--detach", "--no-build", report=report, cancelled=deadline)
            timed(report, "stack", "start", start)
            return _healthy_services(task, stack, deadline)
        except CommandFailed as failure:
            raise _unhealthy(stack, f" after {seconds:g} s" if deadline.is_over else "", failure) from None


def _refuse_other_images(task: TaskContext, subject: VersionImages, stack: Stack) -> None:
    """Check that the stack uses at least one image of this version, and no other version of the project's images."""
    files = ", ".join(task.settings.stage.compose)
    services = stack.services()
    if not any(service.image in subject.images.values() for service in services):
        name = next(iter(subject.images))
        (variable,) = image_variables({name: ""})
        raise Refused(
            f"no service of {files} runs an image of {subject.version}",
            f"call a service {name}, or write `image: ${{{variable}}}`",
        )
    # A name alone means an image in the engine.
    places = {f"{DOCKER_HUB}/library/{name}": name for name in subject.images}
    places |= {f"{task.settings.registry}/{repository(task, name)}": name for name in subject.images}
    for service in services:
        is_id = service.image.startswith("sha256:")
        name = "" if is_id else places.get(Reference.parse(service.image).name, "")
        if name and service.image not in subject.images.values():
            (variable,) = image_variables({name: ""})
            raise Refused(
                f"{service.name} of {files} runs {service.image}, not {name} of {subject.version}",
                f"write `image: ${{{variable}}}`",
            )


def _healthy_services(task: TaskContext, stack: Stack, deadline: Deadline) -> tuple[StackService, ...]:
    began = time.monotonic()
    while True:
        services = stack.services()
        if all(service.condition is Condition.READY for service in services):
            _tell(task, services, began)
            return services
        is_lost = any(service.condition is Condition.FAILED for service in services)
        if is_lost or deadline.wait(_LOOK_SECONDS):
            _tell(task, services, began)
            raise CommandFailed("the stack is not healthy")


def _services_still_well(stack: Stack) -> tuple[StackService, ...]:
    """The services after the smoke command: one that has failed since fails the trial."""
    services = stack.services()
    if any(service.condition is not Condition.READY for service in services):
        raise _unhealthy(stack, " after the smoke command", CommandFailed("the stack is not healthy"))
    return services


def _tell(task: TaskContext, services: Iterable[StackService], began: float) -> None:
    for each in services:
        outcome = Outcome.DONE if each.condition is Condition.READY else Outcome.FAILED
        task.run.report(Finished(each.name, "health", outcome, time.monotonic() - began, each.state))


def _unhealthy(stack: Stack, when: str, failure: CommandFailed) -> BuildToolsError:
    """Why the stack is not healthy, according to its services; Compose reports less."""
    services = stack.services()
    for condition in (Condition.FAILED, Condition.WAITING, Condition.CREATED):
        if culprits := [service for service in services if service.condition is condition]:
            break
    else:
        return failure
    facts = "; ".join(f"{service.name} {service.state}" for service in culprits)
    details = [f"  | {service.name}: {line}" for service in culprits for line in stack.tail(service, _TAIL)]
    remedy = f"see the logs in dist/{_FOLDER}"
    if any(words in facts for words in _PORT_TAKEN):
        remedy = 'give no port of the host (`ports: ["8080"]`), and the engine takes a free one'
    return TrialFailed(f"the stack is not healthy{when}: {facts}", remedy, details)


def _smoke(task: TaskContext, compose: Compose, stack: Stack, folder: Path) -> int | None:
    """Run the smoke command, with the stack's addresses in its environment; returns its exit code, which is 0."""
    settings = task.settings.stage
    if not settings.smoke:
        return None
    environment = {
        **compose.environment,
        **stack.port_variables(),
        "BUILDTOOLS_COMPOSE": shlex.join(compose.words),
        "BUILDTOOLS_STAGE": str(folder),
    }
    with (folder / _SMOKE_LOG).open("w") as log, Deadline(settings.timeout, task.run.cancelled) as deadline:

        def report(event: Event) -> None:
            if isinstance(event, Log):
                log.write(f"{event.line}\n")
            task.run.report(event)

        run = partial(
            run_command,
            settings.smoke,
            subject="smoke",
            folder=task.settings.root,
            environment=environment,
            report=report,
            cancelled=deadline,
        )
        try:
            timed(task.run.report, "smoke", "run", run)
        except CommandFailed:
            if deadline.is_over:
                raise TrialFailed(
                    f"the smoke command {settings.smoke!r} did not end within {settings.timeout:g} s",
                    f"see dist/{_FOLDER}/{_SMOKE_LOG}, or give it more time: stage.timeout",
                ) from None
            raise
    return 0


def _end(stack: Stack, folder: Path, trial: Trial) -> None:
    """Save the results of the trial, and remove its stack even if they cannot be saved."""
    try:
        stack.save_logs(folder)
        fields = asdict(replace(trial, services=trial.services or stack.services()))
        text = json.dumps({"schema": 1, **fields}, indent=2, default=lambda each: each.value)
        (folder / _RESULT).write_text(f"{text}\n")
    except OSError as error:
        raise BuildToolsError(
            f"cannot write {folder} ({error.strerror})", "free some space, then run the same command again"
        ) from None
    finally:
        stack.remove()


def trial_prefix(root: Path) -> str:
    """The prefix of the names of a project's trials on this machine, because several may share an engine."""
    owner = sha256(f"{socket.gethostname()} {root}".encode()).hexdigest()
    return f"stage-{owner[:10]}-"


@contextmanager
def _trial_folder(task: TaskContext) -> Iterator[Path]:
    """A new folder with the trial's name, locked while the trial lasts; then it becomes ``dist/stage``.

    What ended trials left behind is removed first.

    :raises BuildToolsError: if it cannot be written.
    """
    dist = task.settings.root / "dist"
    folder = dist / f".{trial_prefix(task.settings.root)}{secrets.token_hex(4)}"
    with ExitStack() as held:
        try:
            dist.mkdir(exist_ok=True)
            with _locked(dist):
                folder.mkdir()
                held.enter_context(_locked(folder))
                _remove_leftovers(task, dist)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise BuildToolsError(f"cannot write in {dist} ({error.strerror})", "correct that, and run again") from None
        try:
            yield folder
        finally:
            (folder / _IMAGES).unlink(missing_ok=True)
            with suppress(OSError), _locked(dist):
                shutil.rmtree(dist / _FOLDER, ignore_errors=True)
                folder.rename(dist / _FOLDER)


def _remove_leftovers(task: TaskContext, dist: Path) -> None:
    """Remove the stacks and folders of killed trials."""
    for name in abandoned_trials(task):
        task.run.report(Warned("", f"removing {name}, which a killed trial has left"))
        remove_trial(task, name)
    for path in dist.glob(f".{trial_prefix(task.settings.root)}*"):
        if not _is_at_work(path):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A context in which this process holds a folder's lock, which ends with the process at the latest."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def abandoned_trials(task: TaskContext) -> list[str]:
    """The names of this project's stacks in the engine whose trials were killed.

    A trial locks its folder before it creates a stack, and removes the stack before it releases the folder.
    """
    names = stack_names(task.services.engine, trial_prefix(task.settings.root))
    return sorted(name for name in names if not _is_at_work(trial_folder(task, name)))


def trial_folder(task: TaskContext, name: str) -> Path:
    """The folder of a trial that is running, or was killed."""
    return task.settings.root / "dist" / f".{name}"


def remove_trial(task: TaskContext, name: str) -> None:
    """Remove everything that a killed trial has left.

    :raises EngineError: if something of its stack cannot be removed.
    """
    Stack(task.services.engine, name).remove()
    shutil.rmtree(trial_folder(task, name), ignore_errors=True)


def _is_at_work(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
