"""Audits: releases compared with what the registry and the store hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from itertools import islice

from buildtools import BuildToolsError, Drifted, Failures, Unreachable
from buildtools.frozen import frozen
from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.schedule import QUESTIONS_AT_ONCE, side_by_side

# Nobody reads a longer line to its end; the rest is counted.
_NAMED = 5
_RELEASES_NAMED = 20
# The kinds of questions that are not about members: the signed statement about a release, and an image's signature.
STATEMENT, SIGNATURE = "statement", "signature"
# Exit codes, gravest first: drift, an unreadable manifest, an outage.
_GRAVITY = {5: 0, 1: 1, 4: 2}


class MemberState(Enum):
    """The state of a release's member."""

    INTACT = "intact"
    MISSING = "missing"
    CHANGED = "changed"
    UNREACHABLE = "unreachable"


class Incomplete(Drifted):
    """Parts of a member are missing. The fact is the reason in its finding."""


@frozen
class Finding:
    """The state of one member of a release. ``found`` is its digest now, empty if it is missing."""

    kind: str
    name: str
    place: str
    expected: str
    found: str
    state: MemberState
    reason: str = ""


@frozen
class Question:
    """A question about a member of a release, or about the proof that it belongs to the release.

    ``look_up`` returns the current value, which is intact if it equals ``expected``, or None if there is nothing. It
    raises ``Incomplete``, ``Drifted`` with the reason if something else is there, and ``Unreachable``.
    """

    kind: str
    name: str
    place: str
    expected: str
    look_up: Callable[[], str | None]


@frozen
class Audit:
    """The state of every member of a release."""

    release: Release
    findings: tuple[Finding, ...]

    def error(self) -> BuildToolsError | None:
        """Why the audit failed: drift if there is any, otherwise an outage; None if all members are intact."""
        drifts = [each for each in self.findings if each.state in (MemberState.MISSING, MemberState.CHANGED)]
        if drifts:
            names = [
                f"{each.kind} {each.name} {each.state.value}{f': {each.reason}' if each.reason else ''}"
                for each in drifts[:_NAMED]
            ]
            more = f" and {len(drifts) - _NAMED} more" if len(drifts) > _NAMED else ""
            return Drifted(
                f"release {self.release.version} has drifted ({', '.join(names)}{more})",
                _remedy(drifts),
            )
        silent = sorted({finding.reason for finding in self.findings if finding.state is MemberState.UNREACHABLE})
        if silent:
            return Unreachable(
                f"release {self.release.version} could not be verified ({'; '.join(silent)})", "try again"
            )
        return None


@frozen
class Verification:
    """The audits of several releases. ``unreadable`` has an error for each manifest that could not be read."""

    audits: tuple[Audit, ...]
    unreadable: tuple[BuildToolsError, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all audits; those that are not intact come first."""
        findings = [finding for audit in self.audits for finding in audit.findings]
        return tuple(sorted(findings, key=lambda finding: finding.state is MemberState.INTACT))

    def error(self) -> BuildToolsError | None:
        """Why the verification failed, or None if all is intact. Of many failures the gravest are named."""
        drifts = [error for audit in self.audits if (error := audit.error())]
        errors = sorted([*drifts, *self.unreadable], key=lambda error: _GRAVITY[error.exit_code])
        if not errors:
            return None
        count = len(self.audits) + len(self.unreadable)
        return Failures(errors[:_RELEASES_NAMED]).combined(
            f"{len(errors)} of {count} releases are not intact", "restore what is named above, and run again"
        )


def audit(
    releases: Sequence[Release],
    image_digest: Callable[[ReleasedImage], str | None],
    archive_digest: Callable[[ReleasedArchive], str | None],
    proofs: Callable[[Release], Sequence[Question]] = lambda _: (),
) -> tuple[Audit, ...]:
    """Audit every member of these releases, and then their ``proofs``, several at once.

    The look-ups return a digest, or None if there is nothing, or raise ``Unreachable``.
    """
    questions = [
        [
            *(
                Question("image", each.name, each.reference, each.digest, partial(image_digest, each))
                for each in release.images
            ),
            *(
                Question("archive", each.name, each.key, f"sha256:{each.sha256}", partial(archive_digest, each))
                for each in release.archives
            ),
            *proofs(release),
        ]
        for release in releases
    ]
    findings = iter(
        side_by_side([partial(_finding, each) for some in questions for each in some], jobs=QUESTIONS_AT_ONCE)
    )
    return tuple(
        Audit(release, tuple(islice(findings, len(some)))) for release, some in zip(releases, questions, strict=True)
    )


def _remedy(drifts: Sequence[Finding]) -> str:
    if any(each.kind not in (STATEMENT, SIGNATURE) for each in drifts):
        return "restore what is named, or cut a new release; a released version must not change"
    if any(each.kind == STATEMENT and not each.expected for each in drifts):
        return "it was released unsigned, or its manifest was replaced: use a release that is signed"
    return "see whether verify_key is the key that it was signed with; if it is, do not use this release"


def _finding(question: Question) -> Finding:
    def finding(digest: str, state: MemberState, reason: str = "") -> Finding:
        return Finding(question.kind, question.name, question.place, question.expected, digest, state, reason)

    try:
        digest = question.look_up()
    except Unreachable as error:
        return finding("", MemberState.UNREACHABLE, error.fact)
    except Incomplete as error:
        return finding("", MemberState.MISSING, error.fact)
    except Drifted as error:
        return finding("", MemberState.CHANGED, error.fact)
    if digest is None:
        return finding("", MemberState.MISSING)
    return finding(digest, MemberState.INTACT if digest == question.expected else MemberState.CHANGED)
