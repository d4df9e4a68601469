"""Releases held against the world: how each member was found, and what that comes to. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from itertools import islice

from buildtools import BuildToolsError, Drifted, Failures, Unreachable
from buildtools.frozen import frozen
from buildtools.release import Release, ReleasedArchive, ReleasedImage
from buildtools.schedule import side_by_side

# A registry far away takes 20 ms to answer, and a release of a thousand images is some thousand questions.
_JOBS = 16
# A line that names more is not read to its end; what is left out is counted.
_NAMED = 5
_RELEASES_NAMED = 20
# The kinds of questions that are not about members: the signed statement about a release, an image's signature.
STATEMENT, SIGNATURE = "statement", "signature"
# Exit codes, the gravest first: drift, a manifest that cannot be read, an outage.
_GRAVITY = {5: 0, 1: 1, 4: 2}


class MemberState(Enum):
    """How a member of a release was found."""

    INTACT = "intact"
    MISSING = "missing"
    CHANGED = "changed"
    UNREACHABLE = "unreachable"


@frozen
class Finding:
    """How one member of a release was found. ``found`` is its digest now, empty where it is missing."""

    kind: str
    name: str
    place: str
    expected: str
    found: str
    state: MemberState
    reason: str = ""


@frozen
class Question:
    """What is asked of the world about a member of a release, or about what proves that it is the release.

    ``look_up`` gives what is found, which is intact if it is ``expected``; None for nothing. It raises ``Drifted`` with
    the reason why something else is there, and ``Unreachable``.
    """

    kind: str
    name: str
    place: str
    expected: str
    look_up: Callable[[], str | None]


@frozen
class Audit:
    """How all members of a release were found."""

    release: Release
    findings: tuple[Finding, ...]

    def error(self) -> BuildToolsError | None:
        """Why the audit did not pass: drift where any is known, else an outage; None where all is intact."""
        drifts = [each for each in self.findings if each.state in (MemberState.MISSING, MemberState.CHANGED)]
        if drifts:
            names = [
                f"{each.kind} {each.name} {each.state.value}{f': {each.reason}' if each.reason else ''}"
                for each in drifts[:_NAMED]
            ]
            more = f" and {len(drifts) - _NAMED} more" if len(drifts) > _NAMED else ""
            return Drifted(
                f"release {self.release.version} has drifted ({', '.join(names)}{more})",
                "see whether verify_key is the key that it was signed with; if it is, do not use this release"
                if all(each.kind in (STATEMENT, SIGNATURE) for each in drifts)
                else "restore what is named, or cut a new release; a released version must not change",
            )
        silent = sorted({finding.reason for finding in self.findings if finding.state is MemberState.UNREACHABLE})
        if silent:
            return Unreachable(
                f"release {self.release.version} could not be verified ({'; '.join(silent)})", "try again"
            )
        return None


@frozen
class Verification:
    """The audits of several releases. ``unreadable`` are the failures of manifests that could not be audited."""

    audits: tuple[Audit, ...]
    unreadable: tuple[BuildToolsError, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all audits, those first that are not intact."""
        findings = [finding for audit in self.audits for finding in audit.findings]
        return tuple(sorted(findings, key=lambda finding: finding.state is MemberState.INTACT))

    def error(self) -> BuildToolsError | None:
        """Why it did not pass; None where all is intact. Of many failures the gravest are named."""
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
    """Every member of these releases looked up in the world, and then their ``proofs``; several at once.

    The look-ups give a digest, None for absent, or raise ``Unreachable``.
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
    findings = iter(side_by_side([partial(_finding, each) for some in questions for each in some], jobs=_JOBS))
    return tuple(
        Audit(release, tuple(islice(findings, len(some)))) for release, some in zip(releases, questions, strict=True)
    )


def _finding(question: Question) -> Finding:
    def finding(digest: str, state: MemberState, reason: str = "") -> Finding:
        return Finding(question.kind, question.name, question.place, question.expected, digest, state, reason)

    try:
        digest = question.look_up()
    except Unreachable as error:
        return finding("", MemberState.UNREACHABLE, error.fact)
    except Drifted as error:
        return finding("", MemberState.CHANGED, error.fact)
    if digest is None:
        return finding("", MemberState.MISSING)
    return finding(digest, MemberState.INTACT if digest == question.expected else MemberState.CHANGED)
