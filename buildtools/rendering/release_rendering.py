"""Releases: their archives and tags, what was published and verified, and the history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from buildtools.audit import SIGNATURE, MemberState, Verification
from buildtools.console import table
from buildtools.events import Finished, Outcome
from buildtools.release import Release
from buildtools.rendering.json_rendering import document
from buildtools.rendering.words import count_text, members_text, short_digest, states_sentence
from buildtools.stages.history import HistoryEntry, VersionState
from buildtools.workboard import size

if TYPE_CHECKING:
    from buildtools.archive.distribution import Archive
    from buildtools.git.tagging.tags import CutTag
    from buildtools.pipeline import Published

# People do not read hundreds; the document has all of them.
_FINDINGS_SHOWN = 20


def archive_table(archives: Sequence[Archive]) -> str:
    """The archives in ``dist/``."""
    rows = [(f"dist/{archive.file_name}", size(archive.size), f"sha256:{archive.sha256}") for archive in archives]
    return table(("ARCHIVE", "SIZE", "CHECKSUM"), rows)


def archive_summary(archives: Sequence[Archive]) -> str:
    """The result of ``dist``."""
    if not archives:
        return "no distribution is configured; add [tool.buildtools.distribution.NAME] to pyproject.toml"
    return f"made {count_text(len(archives), 'archive')} in dist/"


def release_table(release: Release) -> str:
    """The members of a release."""
    images = [("image", image.reference, image.digest) for image in release.images]
    archives = [("archive", archive.key, f"sha256:{archive.sha256}") for archive in release.archives]
    return table(("KIND", "PLACE", "DIGEST"), [*images, *archives])


def published_summary(published: Published) -> str:
    """The result of ``publish``."""
    release = published.release
    members = members_text(len(release.images), len(release.archives))
    if published.dirty:
        return f"staged {release.version}: {members}; the tree is dirty, so nothing is released"
    how = "released and signed" if release.attestation else "released"
    word = how if published.written else "was released before with the same content:"
    return f"{release.version} {word} {members}, {published.manifest}{moved_tags_text(published)}"


def moved_tags_text(published: Published) -> str:
    """The moving tags that were moved, as the end of a sentence; empty if there are none."""
    # Each tag once for all images: the references of sixty images would hide what matters.
    names = sorted({reference.rpartition(":")[2] for reference in published.moved})
    return f", moved {', '.join(names)}" if names else ""


def tag_text(tag: CutTag) -> str:
    """A release tag with its message."""
    rows = [("tag", tag.name), ("commit", tag.commit), ("after", tag.previous or "nothing")]
    return f"{table(('', ''), rows).strip()}\n\n{tag.message}".rstrip()


def tag_summary(tag: CutTag) -> str:
    """The result of ``release``, and the next step."""
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
    """The output of ``verify --json``: an audit of each release, with all findings."""
    return {**document(verification.audits), "unreadable": [str(error) for error in verification.unreadable]}


def verification_table(verification: Verification) -> str:
    """The members of releases and their states, those that are not intact first; of many, only the first ones."""
    findings = verification.findings
    rows = [
        (
            each.kind,
            each.place,
            each.state.value,
            short_digest(each.expected),
            short_digest(each.found) if each.found != each.expected else "",
        )
        for each in findings[:_FINDINGS_SHOWN]
    ]
    more = [each.state for each in findings[_FINDINGS_SHOWN:]]
    text = table(("KIND", "PLACE", "STATE", "EXPECTED", "FOUND"), rows)
    return f"{text}\n{states_sentence('and', more, MemberState, 'more member')}" if more else text


def audit_events(verification: Verification) -> Iterator[Finished]:
    """An event for each finding, for a JUnit report."""
    for each in verification.findings:
        is_intact = each.state is MemberState.INTACT
        found = each.reason or f"{each.found or 'nothing'} instead of {each.expected}"
        detail = "" if is_intact else f"{each.place} {each.state.value}: {found}"
        yield Finished(f"{each.kind} {each.name}", "verify", Outcome.DONE if is_intact else Outcome.FAILED, 0.0, detail)


def verification_summary(verification: Verification) -> str:
    """The result of a successful ``verify``."""
    releases = [audit.release for audit in verification.audits]
    if not releases:
        return "no version is released yet; release one with `invoke publish`"
    which = f"release {releases[0].version} is" if len(releases) == 1 else f"{len(releases)} releases are"
    members = members_text(sum(len(each.images) for each in releases), sum(len(each.archives) for each in releases))
    is_signed = any(finding.kind == SIGNATURE for finding in verification.findings)
    return f"{which} intact{' and signed' if is_signed else ''}: {members}"


def history_table(entries: Sequence[HistoryEntry]) -> str:
    """The versions, newest first."""
    rows = [
        (
            each.version,
            each.state.value,
            each.created[: len("2026-01-31")],
            each.commit[:12],
            each.reason or members_text(len(each.images), len(each.archives))
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
    return states_sentence("listed", [each.state for each in entries], VersionState, "version")
