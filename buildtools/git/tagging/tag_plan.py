"""What tag a release is to have, and everything in the repository that speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.git.checkout import refuse_dirty
from buildtools.git.errors import NoCommit, ShallowClone
from buildtools.git.naming.describer import FETCH_ALL
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import read_shallow
from buildtools.git.storage.refs import is_well_formed, resolve
from buildtools.git.tagging.history import AnnotatedTag, History, annotated_tags, version_in
from buildtools.version import Version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from semver import Version as SemanticVersion

PARTS = ("major", "minor", "patch", "prerelease")
_MOST_SUBJECTS = 200
_MOST_NAMES = 5
_HEADS, _TAGS = b"refs/heads/", b"refs/tags/"


@frozen
class TagRequest:
    """What was asked for: one of ``bump`` (one of :data:`PARTS`), ``to`` and ``first`` (a version each).

    ``branch`` is what a detached HEAD is on. An empty ``message`` means the subjects since the last tag.
    """

    prefix: str = ""
    release_branch: str = "main"
    remote: str = "origin"
    bump: str = ""
    to: str = ""
    first: str = ""
    message: str = ""
    branch: str = ""
    sign: bool = False
    push: bool = True
    dry_run: bool = False


@frozen
class TagPlan:
    """All that is known before the remote is asked. ``standing`` is the tag that is here already, to be pushed."""

    name: str
    prefix: str
    version: str
    previous: AnnotatedTag | None
    head: bytes
    branch: str
    message: str
    standing: AnnotatedTag | None

    @property
    def ref(self) -> bytes:
        """The tag's full name."""
        return _TAGS + encoded(self.name)


def planned(repository: Repository, root: Path, request: TagRequest) -> TagPlan:
    """The tag that was asked for, once all that is known without the remote speaks for it.

    :raises Refused: something speaks against it.
    """
    prefix = request.prefix
    if [request.bump, request.to, request.first].count("") != 2:
        raise Refused("which version?", "give one of --bump major|minor|patch|prerelease, --to X.Y.Z and --first X.Y.Z")
    if request.bump and request.bump not in PARTS:
        raise Refused(f"--bump {request.bump} is unknown", f"use one of {', '.join(PARTS)}")
    head = repository.head()
    if head is None:
        raise NoCommit("there is no commit yet that could be tagged", "make one with `git commit`")
    if read_shallow(repository.common_dir, repository.hash_size, repository.environment):
        raise ShallowClone("this clone is shallow, so what was released before cannot be known", FETCH_ALL)
    _refuse_other_branch(repository, request)
    refuse_dirty(root, repository.environment)
    tags = annotated_tags(repository, prefix)
    history = History(repository)
    last = history.greatest(head, tags)
    named = request.to or request.first
    here = [tag for tag in tags if tag.commit == head]
    standing = next((tag for tag in here if named and tag.name == f"{prefix}{named}"), None)
    if here and not (standing and request.push):
        raise Refused(
            f"HEAD is tagged already: {', '.join(tag.name for tag in here)}",
            f"push it with `invoke release --to {here[0].name.removeprefix(prefix)}` if the remote does not have it, "
            "then go on with `invoke publish`",
        )
    version = named if standing else str(_next_version(request, last, tags))
    name = f"{prefix}{version}"
    if standing is None:
        _refuse_taken(repository, name)
    if standing:
        content = repository.objects.read(standing.oid)[1]
        message = content.partition(b"\n\n")[2].decode("utf-8", "replace")
    else:
        message = _message(request.message, version, history, head, last)
    return TagPlan(name, prefix, version, None if standing else last, head, request.release_branch, message, standing)


def _refuse_taken(repository: Repository, name: str) -> None:
    ref = _TAGS + encoded(name)
    if not is_well_formed(ref):
        raise Refused(f"{name!r} is no name for a git tag", "correct tag_prefix")
    if repository.refs.read(ref) is not None:
        raise Refused(f"the tag {name} exists already, at another commit or not annotated", "choose a greater version")
    # What is a file among the refs cannot be a folder too.
    parts = name.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts))]
    in_the_way = [part for part in above if repository.refs.read(_TAGS + encoded(part)) is not None]
    in_the_way += [ref.name.removeprefix(_TAGS).decode("utf-8", "replace") for ref in repository.refs.under(ref + b"/")]
    if in_the_way:
        raise Refused(f"the tag {in_the_way[0]} leaves no place for {name}", "delete it, or choose another tag_prefix")


def _next_version(request: TagRequest, last: AnnotatedTag | None, tags: list[AnnotatedTag]) -> SemanticVersion:
    prefix = request.prefix
    versions = [tag.name for tag in tags if tag.version]
    if request.first and versions:
        raise Refused(
            f"--first is for a repository without version tags, and there is {versions[-1]}", "use --bump or --to"
        )
    if request.first:
        return _parsed(request.first, "--first", prefix)
    if not versions:
        raise Refused(
            f"there is no version tag yet{f' that starts with {prefix!r}' if prefix else ''}",
            "make the first with `invoke release --first 0.1.0`, or fetch them with `git fetch --tags`",
        )
    if request.to:
        version = _parsed(request.to, "--to", prefix)
    elif last is None or last.version is None:
        raise Refused("no version tag is reachable from HEAD", "name the version with --to X.Y.Z")
    else:
        version = last.version.next_version(request.bump, prerelease_token="rc")  # noqa: S106  no secret
    if last and last.version and not version > last.version:
        raise Refused(
            f"version {version} is not greater than {last.version}, which HEAD descends from",
            f"choose a greater one, as {last.version.next_version('patch')}",
        )
    return version


def _parsed(text: str, flag: str, prefix: str) -> SemanticVersion:
    import semver

    try:
        version = semver.Version.parse(text)
    except ValueError:
        hint = (
            f"leave the prefix {prefix!r} off"
            if prefix and text.startswith(prefix)
            else "write it as 1.4.2 or 1.5.0-rc.1"
        )
        raise Refused(f"{flag} {text!r} is no semantic version", hint) from None
    if version.build:
        raise Refused(
            f"{flag} {text!r} has build metadata, which does not order versions", "leave the + and the rest off"
        )
    # A pre-release that reads like the answer of `git describe` would be taken for one.
    if Version.parse(text).base != text:
        raise Refused(f"{flag} {text!r} reads like a commit after a tag", "choose another pre-release, as rc.1")
    return version


def refuse_unwritable(repository: Repository) -> None:
    """Nothing, where dulwich can write what the repository keeps.

    :raises Refused: it cannot.
    """
    refs = (repository.config.get("extensions.refstorage") or "files").lower()
    if refs != "files" or repository.object_format != "sha1":
        what = f"refs as {refs}" if refs != "files" else f"{repository.object_format} objects"
        raise Refused(
            f"this repository keeps {what}, which can be read but not written here",
            "tag with git itself: `git tag -a NAME -m MESSAGE`, `git push REMOTE refs/tags/NAME`",
        )


def _refuse_other_branch(repository: Repository, request: TagRequest) -> None:
    release_branch = request.release_branch
    told = request.branch.removeprefix("refs/heads/").removeprefix(f"{request.remote}/")
    ref, _ = resolve(repository.refs, b"HEAD")
    current = ref.removeprefix(b"refs/heads/").decode("utf-8", "surrogateescape") if ref != b"HEAD" else ""
    if current and told and current != told:
        raise Refused(f"--branch is {told}, but {current} is checked out", "leave --branch off")
    branch = current or told
    if not branch:
        raise Refused(
            "HEAD is detached, so its branch is not known",
            f"check {release_branch} out, or say --branch; in Jenkins --branch $BRANCH_NAME",
        )
    if branch != release_branch:
        raise Refused(
            f"this is branch {branch}; releases are made from {release_branch}",
            f"check {release_branch} out, or set release_branch under [tool.buildtools]",
        )


def refuse_moved(repository: Repository, plan: TagPlan, remote: str, refs: Mapping[bytes, bytes]) -> None:
    """Nothing, where the remote's refs (id as hexadecimal by name) are what this clone knows.

    :raises Refused: HEAD is not the tip of the remote's branch, or there are versions that are not known here.
    """
    tip = refs.get(_HEADS + encoded(plan.branch))
    if tip is None:
        raise Refused(f"{remote} has no branch {plan.branch}", f"push it first: `git push {remote} {plan.branch}`")
    there = bytes.fromhex(tip.decode())
    if there != plan.head:
        if there in repository.objects and History(repository).is_ancestor(there, plan.head):
            raise Refused(
                f"HEAD is not on {remote} yet, and a tag is pushed alone",
                f"push the branch first: `git push {remote} HEAD:{plan.branch}`",
            )
        raise Refused(
            f"{remote} has moved on: its {plan.branch} is at {tip.decode()[:12]}, HEAD at {plan.head.hex()[:12]}",
            f"bring HEAD up to {remote}/{plan.branch} (`git pull --tags`), then run the same command again",
        )
    unknown = [
        ref.removeprefix(_TAGS).decode("utf-8", "replace")
        for ref in refs
        if ref.startswith(_TAGS + encoded(plan.prefix)) and ref != plan.ref and repository.refs.read(ref) is None
    ]
    unknown = [name for name in unknown if version_in(name, plan.prefix)]
    if unknown:
        more = f" and {len(unknown) - _MOST_NAMES} more" if len(unknown) > _MOST_NAMES else ""
        raise Refused(
            f"{remote} has version tags that this clone does not have: {', '.join(unknown[:_MOST_NAMES])}{more}",
            f"run `git fetch {remote} --tags`, then the same command again",
        )


def _message(given: str, version: str, history: History, head: bytes, last: AnnotatedTag | None) -> str:
    text = "\n".join(line.rstrip() for line in given.strip().splitlines())
    if not text:
        subjects = history.subjects(head, last.commit if last else None)
        listed = [f"* {subject}" for subject in subjects[:_MOST_SUBJECTS]]
        if len(subjects) > _MOST_SUBJECTS:
            listed.append(f"and {len(subjects) - _MOST_SUBJECTS} more")
        text = "\n".join([version, "", *listed])
    return text.strip() + "\n"


def encoded(text: str) -> bytes:
    """A name as git keeps it."""
    return text.encode("utf-8", "surrogateescape")
