from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from buildtools import BuildToolsError, Drifted, Unreachable
from buildtools.audit import Audit, MemberState, Verification, audit
from buildtools.release import Release, ReleasedArchive, ReleasedImage

BASE = ReleasedImage("base", "r.example", "w/base", "1.4.2", "sha256:" + "a" * 64, "f" * 64)
APP = ReleasedImage("app", "r.example", "w/app", "1.4.2", "sha256:" + "b" * 64)
DAEMON = ReleasedArchive("daemon", "daemon/daemon-1.4.2.tgz", 10, "c" * 64)
RELEASE = Release("1.4.2", "d" * 40, "2026-11-23T08:00:00Z", (BASE, APP), (DAEMON,))


def audited(image: Callable[[ReleasedImage], str | None], archive: Callable[[ReleasedArchive], str | None]) -> Audit:
    (found,) = audit((RELEASE,), image, archive)
    return found


def absent(member: object) -> None:
    return None


def intact(member: ReleasedImage | ReleasedArchive) -> str:
    return member.digest if isinstance(member, ReleasedImage) else f"sha256:{member.sha256}"


def unreachable(member: object) -> str:
    raise Unreachable("r.example does not answer")


def test_an_intact_release_passes_its_audit() -> None:
    found = audited(lambda image: image.digest, lambda archive: f"sha256:{archive.sha256}")
    assert [MemberState.INTACT] * 3 == [finding.state for finding in found.findings]
    assert found.error() is None


def test_members_are_looked_up_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=30)

    def meet(member: ReleasedImage | ReleasedArchive) -> str:
        meeting.wait()
        return member.digest if isinstance(member, ReleasedImage) else f"sha256:{member.sha256}"

    assert [MemberState.INTACT] * 3 == [finding.state for finding in audited(meet, meet).findings]


def test_drift_is_named_and_weighs_more_than_an_outage() -> None:
    found = audited(unreachable, lambda archive: None)
    assert [MemberState.UNREACHABLE, MemberState.UNREACHABLE, MemberState.MISSING] == [
        finding.state for finding in found.findings
    ]
    error = found.error()
    assert isinstance(error, Drifted)
    assert "archive daemon missing" in error.fact


def test_an_outage_alone_is_worth_a_retry() -> None:
    error = audited(unreachable, lambda archive: f"sha256:{archive.sha256}").error()
    assert isinstance(error, Unreachable)
    assert "r.example does not answer" in error.fact


def test_another_digest_is_a_change() -> None:
    found = audited(lambda image: "sha256:" + "9" * 64, lambda archive: f"sha256:{archive.sha256}")
    assert [MemberState.CHANGED, MemberState.CHANGED, MemberState.INTACT] == [
        finding.state for finding in found.findings
    ]


def test_each_release_has_its_own_findings() -> None:
    other = replace(RELEASE, version="1.4.3", images=(APP,), archives=())
    first, second = audit((RELEASE, other), lambda image: intact(image) if image is BASE else None, intact)
    assert (RELEASE, other) == (first.release, second.release)
    assert ["base", "app", "daemon"] == [finding.name for finding in first.findings]
    assert [("app", MemberState.MISSING)] == [(finding.name, finding.state) for finding in second.findings]
    assert () == audit((), intact, intact)


def test_of_many_findings_the_first_are_named_and_the_others_counted() -> None:
    release = replace(RELEASE, images=tuple(replace(APP, name=f"app{number}") for number in range(300)), archives=())
    (found,) = audit((release,), absent, absent)
    error = found.error()
    assert error
    assert "(image app0 missing, image app1 missing, image app2 missing, image app3 missing, " in error.fact
    assert error.fact.endswith("image app4 missing and 295 more)")


def test_findings_that_are_not_intact_come_first() -> None:
    (found,) = audit((RELEASE,), intact, absent)
    assert ["daemon", "base", "app"] == [finding.name for finding in Verification((found,)).findings]


def test_a_verification_of_one_release_says_what_its_audit_says() -> None:
    (found,) = audit((RELEASE,), intact, absent)
    assert str(found.error()) == str(Verification((found,)).error())
    assert None is Verification(audit((RELEASE,), intact, intact)).error()


UNREADABLE = BuildToolsError("s3://b/releases/1.json is not a release manifest")


@pytest.mark.parametrize(
    ("image", "unreadable", "exit_code"),
    [(absent, (UNREADABLE,), 5), (unreachable, (UNREADABLE,), 1), (unreachable, (), 4), (intact, (UNREADABLE,), 1)],
)
def test_of_several_failures_drift_is_the_gravest_and_an_outage_the_least(
    image: Callable[[ReleasedImage], str | None], unreadable: tuple[BuildToolsError, ...], exit_code: int
) -> None:
    releases = [replace(RELEASE, version=f"1.4.{number}") for number in range(30)]
    error = Verification(audit(releases, image, intact), unreadable).error()
    assert error
    assert exit_code == error.exit_code


def test_of_many_releases_that_are_not_intact_the_first_are_named_and_all_are_counted() -> None:
    releases = [replace(RELEASE, version=f"1.4.{number}") for number in range(30)]
    error = Verification(audit(releases, absent, intact)).error()
    assert error
    reason = "release 1.4.0 has drifted (image base missing, image app missing)"
    assert (20, f"30 of 30 releases are not intact, one reason: {reason}") == (len(error.details), error.fact)
