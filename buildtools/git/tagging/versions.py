"""Which tag names are semantic versions, and which version is next. https://semver.org/spec/v2.0.0.html

The semver library only parses and prints versions here, because its releases order ``rc9`` differently. The order of
versions is that of :func:`buildtools.version.precedence`.
"""

from __future__ import annotations

from buildtools import Refused
from buildtools.version import Version, split_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from semver import Version as SemanticVersion

PARTS = ("major", "minor", "patch", "prerelease")


def version_in(name: str, prefix: str) -> SemanticVersion | None:
    """The semantic version after the prefix of a tag's name; ``1.2`` is ``1.2.0``."""
    import semver

    try:
        return semver.Version.parse(name.removeprefix(prefix), optional_minor_and_patch=True)
    except ValueError:
        return None


def parse_version(text: str, flag: str, prefix: str) -> SemanticVersion:
    """The version that the user gave with ``flag``.

    :raises Refused: if ``text`` is not a version, or one that no release can have.
    """
    import semver

    try:
        version = semver.Version.parse(text)
    except ValueError:
        hint = (
            f"leave out the prefix {prefix!r}"
            if prefix and text.startswith(prefix)
            else "write it as 1.4.2 or 1.5.0-rc.1"
        )
        raise Refused(f"{flag} {text!r} is not a semantic version", hint) from None
    if version.build:
        raise Refused(
            f"{flag} {text!r} has build metadata, which does not order versions", "leave out the + and what follows it"
        )
    # A pre-release such as 3-gabcdef1 would look like output of `git describe`.
    if Version.parse(text).base != text:
        raise Refused(
            f"{flag} {text!r} looks like the output of `git describe`", "choose another pre-release, such as rc.1"
        )
    return version


def next_version(last: SemanticVersion, part: str) -> SemanticVersion:
    """The version after ``last``, with ``part`` (one of :data:`PARTS`) raised.

    A pre-release becomes final if ``part`` is what it raised: after ``1.5.0-rc.1`` the next minor version is ``1.5.0``,
    and the next major version is ``2.0.0``.
    """
    major, minor, patch = last.major, last.minor, last.patch
    if part == "prerelease":
        if last.prerelease:
            return last.replace(prerelease=_next_prerelease(last.prerelease), build=None)
        return last.replace(patch=patch + 1, prerelease="rc.1", build=None)
    final = last.replace(prerelease=None, build=None)
    if last.prerelease and (part == "patch" or (not patch and (part == "minor" or not minor))):
        return final
    if part == "major":
        return final.replace(major=major + 1, minor=0, patch=0)
    return final.replace(minor=minor + 1, patch=0) if part == "minor" else final.replace(patch=patch + 1)


def _next_prerelease(prerelease: str) -> str:
    """``rc.9`` becomes ``rc.10``, ``rc9`` becomes ``rc10``, and ``rc`` becomes ``rc.1``."""
    text, number = split_number(prerelease)
    digits = prerelease[len(text) :]
    return f"{text}{number + 1:0{len(digits)}}" if digits else f"{prerelease}.1"
