"""Cuts a release tag: everything is checked first, the remote decides, and only then is the tag made here.

The tag object is written before it is pushed, the ref after. So a push that was refused leaves no tag behind, and a
run that was killed in between is finished by the next one: the remote has a tag whose object is here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.events import Report
from buildtools.git.checkout import refuse_dirty
from buildtools.git.commits import read_shallow
from buildtools.git.describer import FETCH_ALL
from buildtools.git.errors import NoCommit, ShallowClone
from buildtools.git.history import AnnotatedTag, History, annotated_tags
from buildtools.git.refs import is_well_formed, resolve
from buildtools.git.remote import Offer, Refs, Remote
from buildtools.git.repository import Repository
from buildtools.git.signing import Signer
from buildtools.git.tagger import Tagger, read_tagger
from buildtools.version import Version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dulwich.objects import ObjectID, Tag
    from dulwich.refs import Ref
    from semver import Version as SemanticVersion

PARTS = ("major", "minor", "patch", "prerelease")
_MOST_SUBJECTS = 200


@dataclass(frozen=True)
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


class TagState(Enum):
    """What became of the tag."""

    PLANNED = "would be made"
    MADE = "made here"
    PUSHED = "pushed"
    FINISHED = "finished"


@dataclass(frozen=True)
class CutTag:
    """A tag as it was cut, or would be. ``previous`` is the version before, empty for the first.

    ``object`` is the tag object's id, empty in a dry run; ``remote`` is empty where nothing is pushed.
    """

    name: str
    version: str
    previous: str
    commit: str
    message: str
    state: TagState
    object: str = ""
    signed: bool = False
    remote: str = ""


@dataclass(frozen=True)
class _Plan:
    """All that is known before the remote is asked. ``standing`` is the tag that is here already, to be pushed."""

    name: str
    version: str
    previous: AnnotatedTag | None
    head: bytes
    branch: str
    message: str
    standing: AnnotatedTag | None

    @property
    def ref(self) -> Ref:
        return _ref(self.name)


def cut_tag(root: Path, request: TagRequest, environment: Mapping[str, str], report: Report) -> CutTag:
    """Tag HEAD of the repository that holds ``root``, and push the tag and nothing else.

    Without ``request.push`` the remote is not asked at all.

    :raises Refused: this is no state to release from; the message names what to do.
    :raises Unreachable: the remote does not answer.
    :raises DamagedRepository: the repository cannot be read.
    """
    repository = Repository.open(root, environment)
    _refuse_unwritable(repository)
    with _alone(repository):
        plan = _planned(repository, root, request)
        tagger = read_tagger(repository.config, environment)
        cutter = _Cutter(repository, plan, request, tagger)
        if request.push:
            return cutter.push(Remote(repository, request.remote, report))
        return cutter.make()


class _Cutter:
    """Makes the one tag object when it is needed, and the ref when it may be made."""

    def __init__(self, repository: Repository, plan: _Plan, request: TagRequest, tagger: Tagger) -> None:
        self._repository = repository
        self._plan = plan
        self._request = request
        self._tagger = tagger
        self._tag: Tag | None = None
        config = repository.config
        sign = request.sign or config.bool("tag.gpgsign") or config.bool("tag.forcesignannotated")
        self._signer = Signer(config, repository.environment, tagger.identity) if sign else None

    def make(self) -> CutTag:
        """The tag here alone."""
        if self._request.dry_run:
            return self._cut(TagState.PLANNED, "")
        oid = self._written().id
        self._add_ref(oid)
        return self._cut(TagState.MADE, "", oid)

    def push(self, remote: Remote) -> CutTag:
        """The tag there, then here."""
        found: list[ObjectID] = []

        def decide(refs: Refs) -> Offer | None:
            _refuse_moved(self._repository, self._plan, remote.name, refs)
            there = refs.get(self._plan.ref)
            if there is not None:
                found.append(self._unfinished(remote.name, there))
                return None
            return None if self._request.dry_run else Offer(self._plan.ref, self._written())

        sent = remote.push(decide)
        if found:
            oid = found[-1]
        elif sent:
            oid = self._written().id
        else:
            return self._cut(TagState.PLANNED, remote.name)
        if not self._request.dry_run and self._plan.standing is None:
            self._add_ref(oid)
        return self._cut(TagState.FINISHED if found else TagState.PUSHED, remote.name, oid)

    def _unfinished(self, remote: str, there: ObjectID) -> ObjectID:
        """The remote's tag where an earlier run of ours was ended before it could make it here.

        :raises Refused: it is another.
        """
        plan = self._plan
        if plan.standing is None:
            try:
                kind, content = self._repository.objects.read(bytes.fromhex(there.decode()))
            except BuildToolsError:
                kind, content = "", b""
            if kind == "tag" and content.startswith(b"object %b\n" % plan.head.hex().encode()):
                return there
        elif plan.standing.oid.hex().encode() == there:
            raise Refused(f"{plan.name} is tagged already, here and on {remote}", "go on with `invoke publish`")
        raise Refused(
            f"the tag {plan.name} exists already on {remote}",
            f"somebody else released it: run `git fetch {remote} --tags`, then choose a greater version",
        )

    def _written(self) -> Tag:
        """The tag object, signed where that is asked for, in the object store; made once."""
        if self._tag is None:
            self._tag = self._standing() if self._plan.standing else self._new()
        return self._tag

    def _standing(self) -> Tag:
        from dulwich.objects import Tag

        assert self._plan.standing is not None
        _, content = self._repository.objects.read(self._plan.standing.oid)
        tag = Tag()
        tag.set_raw_string(content)
        return tag

    def _new(self) -> Tag:
        from dulwich.object_store import DiskObjectStore
        from dulwich.objects import Commit, Tag

        tag = Tag()
        tag.object = (Commit, self._plan.head.hex().encode())
        tag.name = _bytes(self._plan.name)
        tag.tagger = _bytes(self._tagger.identity)
        tag.tag_time, tag.tag_timezone = self._tagger.seconds, self._tagger.offset
        tag.message = _bytes(self._plan.message)
        if self._signer:
            tag.signature = self._signer.signature(tag.as_raw_string())
        store = DiskObjectStore(self._repository.objects.folders[0])
        try:
            store.add_object(tag)
        except OSError as error:
            raise BuildToolsError(
                f"the tag cannot be written ({error.strerror})", f"check {self._repository.objects.folders[0]}"
            ) from None
        finally:
            store.close()
        return tag

    def _add_ref(self, oid: ObjectID) -> None:
        from dulwich.errors import RefFormatError
        from dulwich.file import FileLocked
        from dulwich.refs import DiskRefsContainer

        place = f"{self._repository.common_dir}/refs/tags/{self._plan.name}"
        pushed = f", though {self._plan.name} is pushed; `git fetch --tags` brings it" if self._request.push else ""
        try:
            made = DiskRefsContainer(self._repository.common_dir).add_if_new(self._plan.ref, oid)
        except (OSError, FileLocked, RefFormatError) as error:
            raise BuildToolsError(
                f"the tag cannot be written to {place} ({error}){pushed}", "check what is there"
            ) from None
        if not made and resolve(Repository.open(self._repository.git_dir, {}).refs, self._plan.ref)[1] != oid:
            raise Refused(f"somebody else made the tag {self._plan.name} here at the same moment{pushed}", "look at it")

    def _cut(self, state: TagState, remote: str, oid: bytes = b"") -> CutTag:
        plan = self._plan
        return CutTag(
            plan.name,
            plan.version,
            plan.previous.name if plan.previous else "",
            plan.head.hex(),
            plan.message,
            state,
            oid.decode(),
            signed=self._signer is not None,
            remote=remote,
        )


@contextmanager
def _alone(repository: Repository) -> Iterator[None]:
    """Holds a lock on the repository's folder, which a killed run lets go of.

    :raises Refused: another run holds it.
    """
    descriptor = os.open(repository.common_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("another `invoke release` is at work in this clone", "wait for its end, then look") from None
        except OSError:
            # A file system without locks: then the ref, which is made only where there is none, decides.
            pass
        yield
    finally:
        os.close(descriptor)


def _planned(repository: Repository, root: Path, request: TagRequest) -> _Plan:
    prefix = request.prefix
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
    asked = sum(map(bool, (request.bump, request.to, request.first)))
    if asked != 1:
        raise Refused("which version?", "give one of --bump major|minor|patch|prerelease, --to X.Y.Z and --first X.Y.Z")
    explicit = request.to or request.first
    name = f"{prefix}{explicit}" if explicit else ""
    here = [tag for tag in tags if tag.commit == head]
    standing = next((tag for tag in here if tag.name == name), None)
    if here and not (standing and request.push):
        raise Refused(
            f"HEAD is tagged already: {', '.join(tag.name for tag in here)}",
            f"go on with `invoke publish`; `invoke release --to {here[0].name.removeprefix(prefix)}` pushes it",
        )
    version = standing.version if standing else _next_version(request, last, tags)
    assert version is not None
    name = f"{prefix}{version}"
    ref = _ref(name)
    if not is_well_formed(ref):
        raise Refused(f"{name!r} is no name for a git tag", "correct tag_prefix")
    if standing is None and repository.refs.read(ref) is not None:
        raise Refused(f"the tag {name} exists already, at another commit or not annotated", "choose a greater version")
    message = "" if standing else _message(request.message, str(version), history, head, last)
    return _Plan(name, str(version), None if standing else last, head, request.release_branch, message, standing)


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
    elif request.bump not in PARTS:
        raise Refused(f"--bump {request.bump} is unknown", f"use one of {', '.join(PARTS)}")
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


def _refuse_unwritable(repository: Repository) -> None:
    refs = repository.config.get("extensions.refstorage", "files")
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


def _refuse_moved(repository: Repository, plan: _Plan, remote: str, refs: Refs) -> None:
    tip = refs.get(_ref(plan.branch, b"refs/heads/"))
    if tip == plan.head.hex().encode():
        return
    if tip is None:
        raise Refused(f"{remote} has no branch {plan.branch}", f"push it first: `git push {remote} {plan.branch}`")
    there = bytes.fromhex(tip.decode())
    if there in repository.objects and History(repository).is_ancestor(there, plan.head):
        raise Refused(
            f"HEAD is not on {remote} yet, and a tag is pushed alone",
            f"push the branch first: `git push {remote} HEAD:{plan.branch}`",
        )
    raise Refused(
        f"{remote} has moved on: its {plan.branch} is at {tip.decode()[:12]}, HEAD at {plan.head.hex()[:12]}",
        f"bring HEAD up to {remote}/{plan.branch} (`git pull --tags`), then run the same command again",
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


def _ref(name: str, below: bytes = b"refs/tags/") -> Ref:
    from dulwich.refs import Ref

    return Ref(below + _bytes(name))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
