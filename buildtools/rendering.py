"""Results as tables for people, as documents for programs, and as the one sentence a run ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildtools.audit import SIGNATURE, MemberState, Verification
from buildtools.console import table
from buildtools.events import Finished, Outcome
from buildtools.image.assembly import BuildOutcome, LocalImage
from buildtools.image.registry.push import PushedImage, PushRoute
from buildtools.image.survey import BuildState, ImageStatus
from buildtools.release import Release
from buildtools.stages.check import Checked
from buildtools.stages.fetch import Fetched, FetchState
from buildtools.stages.history import HistoryEntry, VersionState
from buildtools.stages.new_project import NewProject
from buildtools.stages.pruning import PruneState
from buildtools.workboard import size

if TYPE_CHECKING:
    from buildtools.archive.distribution import Archive
    from buildtools.git.tagging.tags import CutTag
    from buildtools.pipeline import Listing, Published
    from buildtools.sandbox import Service
    from buildtools.stages.channels import ChannelState
    from buildtools.stages.doctor import Examination
    from buildtools.stages.leftovers import Leftover
    from buildtools.stages.planned import Planned
    from buildtools.stages.pruning import PruneEntry
    from buildtools.stages.service_folder import ServiceFolder
    from buildtools.stages.trial import Trial

# Raised when a field of a document changes its meaning or goes away.
DOCUMENT_SCHEMA = 1
# What a person reads of what may be hundreds; all of them are in the document.
_FINDINGS_SHOWN = 20


def document(value: Any) -> Any:
    """A value, or a row of them, as what JSON can hold; the outermost object carries the schema's number."""
    if isinstance(value, list | tuple):
        return {"schema": DOCUMENT_SCHEMA, "items": [_plain(item) for item in value]}
    return {"schema": DOCUMENT_SCHEMA, **_plain(value)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(item) for key, item in asdict(value).items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def new_project_document(project: NewProject) -> Any:
    """What ``init`` did, as ``--json`` prints it: paths only."""
    files = [file.path for file in project.files]
    return document({"files": files, "unchanged": project.unchanged, "commands": project.commands})


def new_project_summary(project: NewProject, *, dry_run: bool) -> str:
    """What ``init`` came to."""
    words = [f"{'added to' if file.is_added_to else 'wrote'} {file.path}" for file in project.files]
    words += [f"kept {path}" for path in project.unchanged]
    return f"{'dry run, nothing was touched: ' if dry_run else ''}{', '.join(words)}; next: the commands above"


def checked_summary(checked: Checked) -> str:
    """What ``check`` came to, where all is well."""
    images, distributions = len(checked.images), len(checked.distributions)
    return f"no errors: {_count(images, 'image folder')} and {_count(distributions, 'distribution')} checked"


def listing_document(listing: Listing) -> Any:
    """The image folders as ``list --json`` prints them."""
    rows = [
        {
            "name": each.name,
            "platform": str(each.folder.platform),
            "parents": list(each.folder.parents),
            "bases": list(each.folder.bases),
            "reference": reference,
            "state": each.state.value,
            "fingerprint": each.fingerprint.value,
            "image_id": each.image_id,
            "why": list(each.why),
        }
        for each, reference in zip(listing.statuses, listing.references, strict=True)
    ]
    return {"schema": DOCUMENT_SCHEMA, "items": rows}


def listing_table(listing: Listing) -> str:
    """The image folders in build order."""
    rows = [
        (each.name, ", ".join(each.folder.parents) or "-", each.state.value, reference, "; ".join(each.why))
        for each, reference in zip(listing.statuses, listing.references, strict=True)
    ]
    return table(("IMAGE", "PARENTS", "STATE", "REFERENCE", "WHY"), rows)


def listing_summary(listing: Listing) -> str:
    """How many image folders are in which state."""
    return _counted("listed", [each.state for each in listing.statuses], BuildState)


def explanation(status: ImageStatus) -> str:
    """Everything that went into one image's fingerprint, and why it is or is not up to date."""
    head = f"{status.name} is {status.state.value}" + (f": {'; '.join(status.why)}" if status.why else "")
    if status.image_id:
        head += f": {status.image_id} has this fingerprint"
        if status.tags:
            head += f", as {', '.join(status.tags)}; labels of a version are stamped when it is pushed"
    inputs = sorted(status.fingerprint.inputs.items())
    return f"{head}\n\nfingerprint {status.fingerprint.value}\n{table(('INPUT', 'VALUE'), [*inputs])}"


def local_table(images: Sequence[LocalImage]) -> str:
    """The images that the engine, or the registry, has now."""
    rows = [
        (image.references[-1], _short(image.image_id), image.outcome.value, "; ".join(image.why)) for image in images
    ]
    return table(("REFERENCE", "ID", "STATE", "WHY"), rows)


def local_summary(images: Sequence[LocalImage], word: str) -> str:
    """What ``build`` or ``tag`` came to."""
    return _counted(word, [image.outcome for image in images], BuildOutcome)


def pushed_table(images: Sequence[PushedImage]) -> str:
    """The images that the registry has now, as read back."""
    rows = [(image.reference, image.digest, size(image.size), image.route.value) for image in images]
    return table(("REFERENCE", "DIGEST", "SIZE", "ROUTE"), rows)


def pushed_summary(images: Sequence[PushedImage]) -> str:
    """What ``push`` came to; only a share may have no images."""
    if not images:
        return "this share is empty: nothing to push"
    return _counted("pushed", [image.route for image in images], PushRoute)


def archive_table(archives: Sequence[Archive]) -> str:
    """The archives in ``dist/``."""
    rows = [(f"dist/{archive.file_name}", size(archive.size), f"sha256:{archive.sha256}") for archive in archives]
    return table(("ARCHIVE", "SIZE", "CHECKSUM"), rows)


def archive_summary(archives: Sequence[Archive]) -> str:
    """What ``dist`` came to."""
    if not archives:
        return "no distribution is configured; add [tool.buildtools.distribution.NAME] to pyproject.toml"
    return f"made {_count(len(archives), 'archive')} in dist/"


def release_table(release: Release) -> str:
    """The members of a release."""
    images = [("image", image.reference, image.digest) for image in release.images]
    archives = [("archive", archive.key, f"sha256:{archive.sha256}") for archive in release.archives]
    return table(("KIND", "PLACE", "DIGEST"), [*images, *archives])


def published_summary(published: Published) -> str:
    """What ``publish`` came to."""
    release = published.release
    members = _members(len(release.images), len(release.archives))
    if published.dirty:
        return f"staged {release.version}: {members}; the tree is dirty, so nothing is released"
    how = "released and signed" if release.attestation else "released"
    word = how if published.written else "was released before with the same content:"
    return f"{release.version} {word} {members}, {published.manifest}{_moved_tags(published)}"


def promoted_summary(published: Published, target: str) -> str:
    """What ``promote`` came to."""
    release = published.release
    word = "promoted to" if published.written else "was promoted before to"
    members = _members(len(release.images), len(release.archives))
    return f"{release.version} {word} {target}: {members}, {published.manifest}{_moved_tags(published)}"


def _moved_tags(published: Published) -> str:
    # One name for all images that it moved on: the references of sixty would hide what matters.
    names = sorted({reference.rpartition(":")[2] for reference in published.moved})
    return f", moved {', '.join(names)}" if names else ""


def tag_text(tag: CutTag) -> str:
    """What a release tag says."""
    rows = [("tag", tag.name), ("commit", tag.commit), ("after", tag.previous or "nothing")]
    return f"{table(('', ''), rows).strip()}\n\n{tag.message}".rstrip()


def tag_summary(tag: CutTag) -> str:
    """What ``release`` came to, and what comes next."""
    from buildtools.git.tagging.tags import TagState

    signed = "signed " if tag.signed else ""
    if tag.state is TagState.PLANNED:
        where = f" and pushed to {tag.remote}" if tag.remote else ", and not pushed"
        return f"dry run: the {signed}tag {tag.name} would be made{where}; nothing was touched"
    if tag.state is TagState.MADE:
        return f"made the {signed}tag {tag.name}; push it with `git push REMOTE {tag.name}`, then `invoke publish`"
    if tag.state is TagState.FINISHED:
        return f"{tag.name} was on {tag.remote} from a run that was cut off, and is here now; next: `invoke publish`"
    return f"pushed the {signed}tag {tag.name} to {tag.remote}; next: `invoke publish`"


def verification_document(verification: Verification) -> Any:
    """What ``verify --json`` prints: an audit of each release, with all findings."""
    return {**document(verification.audits), "unreadable": [str(error) for error in verification.unreadable]}


def verification_table(verification: Verification) -> str:
    """The members of releases and how they were found, those first that are not intact; of many, the first ones."""
    findings = verification.findings
    rows = [
        (
            each.kind,
            each.place,
            each.state.value,
            _short(each.expected),
            _short(each.found) if each.found != each.expected else "",
        )
        for each in findings[:_FINDINGS_SHOWN]
    ]
    more = [each.state for each in findings[_FINDINGS_SHOWN:]]
    text = table(("KIND", "PLACE", "STATE", "EXPECTED", "FOUND"), rows)
    return f"{text}\n{_counted('and', more, MemberState, 'more member')}" if more else text


def audit_events(verification: Verification) -> Iterator[Finished]:
    """The findings as the ends of so many checks, for a report of cases."""
    for each in verification.findings:
        is_intact = each.state is MemberState.INTACT
        found = each.reason or f"{each.found or 'nothing'} instead of {each.expected}"
        detail = "" if is_intact else f"{each.place} {each.state.value}: {found}"
        yield Finished(f"{each.kind} {each.name}", "verify", Outcome.DONE if is_intact else Outcome.FAILED, 0.0, detail)


def verification_summary(verification: Verification) -> str:
    """What ``verify`` came to, where all is well."""
    releases = [audit.release for audit in verification.audits]
    if not releases:
        return "no version is released yet; release one with `invoke publish`"
    which = f"release {releases[0].version} is" if len(releases) == 1 else f"{len(releases)} releases are"
    members = _members(sum(len(each.images) for each in releases), sum(len(each.archives) for each in releases))
    is_signed = any(finding.kind == SIGNATURE for finding in verification.findings)
    return f"{which} intact{' and signed' if is_signed else ''}: {members}"


def channel_document(state: ChannelState) -> Any:
    """A channel as ``channel`` and ``rollback`` print it with ``--json``; its moves are oldest first."""
    channel = state.channel
    return {
        "schema": DOCUMENT_SCHEMA,
        "channel": channel.name,
        **_plain(channel.moves[-1]),
        "location": state.location,
        "before": state.before,
        "dry_run": state.dry_run,
        "tags": _plain(state.tags),
        "moves": _plain(channel.moves),
    }


def channel_table(state: ChannelState) -> str:
    """The tags that were moved; where there are none, the channel's past, newest first."""
    channel = state.channel
    tags = [(tag.reference, _short(tag.before), _short(tag.after)) for tag in state.tags]
    past = [
        (move.version, move.commit[:12], direction.value)
        for move, direction in zip(channel.moves, channel.directions, strict=True)
    ]
    return table(("TAG", "BEFORE", "AFTER"), tags) if tags else table(("VERSION", "COMMIT", "MOVED"), past[::-1])


def channel_summary(state: ChannelState) -> str:
    """What ``channel`` or ``rollback`` came to."""
    name, version, before, count = state.channel.name, state.version, state.before, _count(len(state.tags), "tag")
    verb = "would move" if state.dry_run else "moved"
    if before == version:
        outcome = f"{name} points to {version}" + (f"; {verb} {count} to where it points" if state.tags else "")
    elif before:
        outcome = f"{name} {verb} {state.channel.directions[-1].value} from {before} to {version}, {count} with it"
    else:
        outcome = f"{name} is a new channel and {verb} to {version}, {count} with it"
    return f"dry run: nothing was touched; {outcome}" if state.dry_run else outcome


def fetch_table(result: Fetched) -> str:
    """The members of a release, and where they are on this machine."""
    rows = [(each.kind, each.place, each.digest, each.state.value) for each in result.members]
    return table(("KIND", "PLACE", "DIGEST", "STATE"), rows)


def fetch_summary(result: Fetched) -> str:
    """What ``fetch`` came to."""
    folder = Path(result.folder)
    place = "" if result.previous in ("", folder.name) else f" in place of {result.previous}"
    states = [each.state for each in result.members]
    return f"{result.version} is current in {folder.parent}{place}: {_counts(states, FetchState)}"


def trial_table(trial: Trial) -> str:
    """The services of the stack that a version was tried out in."""
    rows = [(each.name, each.state, each.image) for each in trial.services]
    return table(("SERVICE", "STATE", "IMAGE"), rows)


def trial_summary(trial: Trial) -> str:
    """What ``stage`` came to, where all is well."""
    services = _count(len(trial.services), "service")
    smoke = "" if trial.smoke is None else " and the smoke command"
    end = "`promote` may rely on it" if trial.released else "not recorded: only what --release names is"
    return f"{trial.version} passed: {services}{smoke}; {end}; logs in {trial.logs}"


def history_table(entries: Sequence[HistoryEntry]) -> str:
    """The versions, newest first."""
    rows = [
        (
            each.version,
            each.state.value,
            each.created[: len("2026-01-31")],
            each.commit[:12],
            each.reason or _members(len(each.images), len(each.archives))
            if each.state is not VersionState.CLAIMED
            else "",
            "yes" if each.signed else "no" if each.state is VersionState.RELEASED else "",
            ", ".join(each.moving_tags),
            ", ".join(each.channels),
        )
        for each in entries
    ]
    return table(("VERSION", "STATE", "DATE", "COMMIT", "MEMBERS", "SIGNED", "TAGS", "CHANNELS"), rows)


def history_summary(entries: Sequence[HistoryEntry]) -> str:
    """How many versions there are in each state."""
    if not entries:
        return "no version is released yet; release one with `invoke publish`"
    return _counted("listed", [each.state for each in entries], VersionState, "version")


def service_folder_summary(service: ServiceFolder, *, dry_run: bool) -> str:
    """What ``runit`` came to, and what comes next."""
    if not service.changes:
        return f"{service.path} runs {service.version} already: nothing was written"
    if dry_run:
        return f"dry run: {', '.join(service.changes)} would be written in {service.path}; nothing was touched"
    return f"{service.path} is to run {service.version}; next: `sv restart {service.path}`, or link it for runsvdir"


def examination_table(examination: Examination) -> str:
    """What ``doctor`` found, each with what to do."""
    rows = [(each.health.value, each.subject, each.fact, each.remedy) for each in examination.diagnoses]
    return table(("STATE", "SUBJECT", "FOUND", "WHAT TO DO"), rows)


def examination_summary(examination: Examination) -> str:
    """What ``doctor`` came to, where nothing failed."""
    warnings = sum(each.health.value == "warning" for each in examination.diagnoses)
    return f"all is well, with {_count(warnings, 'warning')}" if warnings else "all is well"


def prune_table(entries: Sequence[PruneEntry]) -> str:
    """The versions and what became of them, the newest first."""
    rows = [(each.version, each.created[: len("2026-01-31")], each.state.value, each.why) for each in entries]
    return table(("VERSION", "DATE", "STATE", "WHY"), rows)


def prune_summary(entries: Sequence[PruneEntry], *, dry_run: bool) -> str:
    """What ``prune`` came to."""
    states = [each.state for each in entries]
    count = _count(states.count(PruneState.PRUNED), "version")
    kept = f"{states.count(PruneState.KEPT)} kept"
    if dry_run:
        return f"dry run: nothing was touched; {count} would be pruned, {kept}; do it with --yes"
    return f"pruned {count}, {kept}"


def leftovers_table(leftovers: Sequence[Leftover]) -> str:
    """What nobody uses, and for how long."""
    return table(("KIND", "NAME", "DAYS"), [(each.kind.value, each.name, str(each.days)) for each in leftovers])


def leftovers_summary(leftovers: Sequence[Leftover], *, dry_run: bool) -> str:
    """What ``clean`` came to."""
    things = _count(len(leftovers), "thing")
    if dry_run:
        return f"dry run: nothing was touched; {things} would be removed; do it with --yes"
    return f"removed {things}"


def plan_table(plan: Sequence[Planned]) -> str:
    """What a dry run found."""
    lines = [f"{each.name} would {each.action}" + (f" ({'; '.join(each.why)})" if each.why else "") for each in plan]
    return "\n".join(lines)


def services_table(services: Sequence[Service]) -> str:
    """The parts of a sandbox."""
    rows = [(each.name, each.address, "answers" if each.answers else "silent", str(each.log)) for each in services]
    return table(("SERVICE", "ADDRESS", "STATE", "LOG"), rows)


def _counted(word: str, states: Sequence[Enum], kind: type[Enum], noun: str = "image") -> str:
    return f"{word} {_count(len(states), noun)}: {_counts(states, kind)}"


def _counts(states: Sequence[Enum], kind: type[Enum]) -> str:
    return ", ".join(f"{states.count(state)} {state.value}" for state in kind if state in states)


def _members(images: int, archives: int) -> str:
    return f"{_count(images, 'image')} and {_count(archives, 'archive')}"


def _short(digest: str) -> str:
    """As much of a digest as docker shows; all of it is in the document. An id in a registry ends with a digest."""
    digest = digest.rpartition("@")[2]
    return digest[: len("sha256:") + 12]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
