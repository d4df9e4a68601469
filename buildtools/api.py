"""The public interface: each task as a function that takes a run and returns a value. Importing it has no side effects.

A script makes a run with :func:`project_run`; a task of Invoke makes one with :func:`task_run`. The names in
``__all__`` keep their meaning until the next major version. Everything else in this package may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from invoke.context import Context

from buildtools import BuildToolsError, Cancelled, Conflict, Drifted, Refused, Unreachable
from buildtools.archive.distribution import Archive
from buildtools.audit import Verification
from buildtools.cancellation import Cancellation, cancel_on_signals
from buildtools.events import Event, Finished, Log, Outcome, Report, Started, Step, Transferred, Warned, unheard
from buildtools.git.checkout import read_version
from buildtools.image.assembly import LocalImage
from buildtools.image.registry.image_to_push import PushedImage
from buildtools.invocation import process_environment, running
from buildtools.invoke_config import project_context, read_settings
from buildtools.pipeline import (
    Listing,
    Published,
    build,
    channel,
    dist,
    fetch,
    history,
    list_images,
    promote,
    prune,
    publish,
    push,
    release,
    rollback,
    stage,
    verify,
)
from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.run import Run, job_count
from buildtools.stages.channels import ChannelState
from buildtools.stages.fetch import Fetched
from buildtools.stages.history import HistoryEntry
from buildtools.stages.pruning import PruneEntry
from buildtools.stages.trial import Trial
from buildtools.user_folders import cache_folder
from buildtools.version import Version

__all__ = [
    "Archive",
    "BuildToolsError",
    "Cancelled",
    "ChannelState",
    "Conflict",
    "Drifted",
    "Event",
    "Fetched",
    "Finished",
    "HistoryEntry",
    "Listing",
    "LocalImage",
    "Log",
    "Outcome",
    "PruneEntry",
    "Published",
    "PushedImage",
    "Refused",
    "Release",
    "ReleasedArchive",
    "ReleasedImage",
    "Report",
    "Run",
    "Started",
    "Step",
    "Transferred",
    "Trial",
    "Unreachable",
    "Verification",
    "Version",
    "Warned",
    "build",
    "cancel_on_signals",
    "channel",
    "current_version",
    "dist",
    "fetch",
    "history",
    "list_images",
    "project_run",
    "promote",
    "prune",
    "publish",
    "push",
    "release",
    "rollback",
    "stage",
    "task_run",
    "verify",
]


def project_run(
    folder: Path | str = ".",
    *,
    environment: Mapping[str, str] | None = None,
    report: Report = unheard,
    only: Sequence[str] = (),
    jobs: int = 0,
    dry_run: bool = False,
    no_cache: bool = False,
    pull: bool = False,
    allow_dirty: bool = False,
) -> Run:
    """A run for the project in ``folder``, configured by ``pyproject.toml``, Invoke's files and the environment.

    It prints nothing and handles no signals. ``environment`` defaults to that of the process. ``report`` receives the
    events of the run, from several threads. ``jobs`` is how many images are worked on at once; 0 means as configured.

    :raises Refused: if the configuration has errors; the message lists all of them.
    """
    variables = process_environment() if environment is None else environment
    settings = read_settings(project_context(Path(folder).resolve(), variables), variables)
    return Run(
        settings=settings,
        environment=variables,
        report=report,
        cancelled=Cancellation(),
        cache=cache_folder(variables),
        only=tuple(only),
        jobs=jobs or job_count("", settings.jobs),
        dry_run=dry_run,
        no_cache=no_cache,
        pull=pull,
        allow_dirty=allow_dirty,
    )


@contextmanager
def task_run(
    context: Context,
    *,
    progress: str = "auto",
    only: Sequence[str] = (),
    jobs: int = 0,
    dry_run: bool = False,
    no_cache: bool = False,
    pull: bool = False,
    allow_dirty: bool = False,
) -> Iterator[Run]:
    """A run inside an Invoke task, which behaves like one of ours while the block lasts.

    It shows progress on standard error and stops on Ctrl-C and SIGTERM. A failure ends the task with one message and
    the right exit code.
    """
    with running(
        context,
        progress=progress,
        only=",".join(only),
        jobs=str(jobs or ""),
        dry_run=dry_run,
        no_cache=no_cache,
        pull=pull,
        allow_dirty=allow_dirty,
    ) as (run, _):
        yield run


def current_version(run: Run) -> Version:
    """The version of the checkout, as the task ``version`` prints it.

    :raises Refused: if the checkout has no version.
    """
    return read_version(run.settings.root, run.settings.tag_prefix, run.environment)
