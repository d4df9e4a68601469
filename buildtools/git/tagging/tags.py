"""Cuts a release tag: everything is checked first, the remote decides, and only then is the tag made here.

The tag object is written before it is pushed, the ref after. So a push that was refused leaves no tag behind, and a
run that was killed in between is finished by the next one: the remote has a tag whose object is here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from buildtools import BuildToolsError, Refused, Unreachable
from buildtools.events import Report
from buildtools.frozen import frozen
from buildtools.git.errors import MissingObject
from buildtools.git.repository import Repository
from buildtools.git.storage.refs import RefFiles
from buildtools.git.tagging.remote import Offer, Refs, Rejected, Remote
from buildtools.git.tagging.signing import Signer
from buildtools.git.tagging.tag_plan import TagPlan, TagRequest, encoded, planned, refuse_moved, refuse_unwritable
from buildtools.git.tagging.tagger import Tagger, read_tagger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dulwich.objects import ObjectID, Tag


class TagState(Enum):
    """What became of the tag."""

    PLANNED = "would be made"
    MADE = "made here"
    PUSHED = "pushed"
    FINISHED = "finished"


@frozen
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


def cut_tag(root: Path, request: TagRequest, environment: Mapping[str, str], report: Report) -> CutTag:
    """Tag HEAD of the repository that holds ``root``, and push the tag and nothing else.

    Without ``request.push`` the remote is not asked at all.

    :raises Refused: this is no state to release from; the message names what to do.
    :raises Unreachable: the remote does not answer.
    :raises DamagedRepository: the repository cannot be read.
    """
    repository = Repository.open(root, environment)
    refuse_unwritable(repository)
    with _alone(repository):
        plan = planned(repository, root, request)
        tagger = read_tagger(repository.config, environment)
        cutter = _Cutter(repository, plan, request, tagger)
        if request.push:
            return cutter.push(Remote(repository, request.remote, report))
        return cutter.make()


class _Cutter:
    """Makes the one tag object when it is needed, and the ref when it may be made."""

    def __init__(self, repository: Repository, plan: TagPlan, request: TagRequest, tagger: Tagger) -> None:
        from dulwich.refs import Ref

        self._repository = repository
        self._plan = plan
        self._request = request
        self._tagger = tagger
        self._ref = Ref(plan.ref)
        self._tag: Tag | None = None
        config = repository.config
        sign = request.sign or config.bool("tag.gpgsign") or config.bool("tag.forcesignannotated")
        made = sign and plan.standing is None
        self._signer = Signer(config, repository.environment, tagger.identity) if made else None

    def make(self) -> CutTag:
        """The tag here alone."""
        if self._request.dry_run:
            return self._cut(TagState.PLANNED, "")
        oid = self._written().id
        self._add_ref(oid)
        return self._cut(TagState.MADE, "", oid)

    def push(self, remote: Remote) -> CutTag:
        """The tag there, then here."""
        from dulwich.objects import ObjectID

        found: list[ObjectID] = []
        rejected = False

        def decide(refs: Refs) -> Offer | None:
            refuse_moved(self._repository, self._plan, remote.name, refs)
            there = refs.get(self._ref)
            if there is not None:
                self._refuse_taken(remote.name, there, rejected=rejected)
                found.append(ObjectID(there))
                return None
            return None if self._request.dry_run or rejected else Offer(self._ref, self._written())

        try:
            sent = remote.push(decide)
        except Rejected:
            rejected = True
            # Where somebody else was quicker, that is the reason to tell.
            with suppress(Unreachable):
                remote.push(decide)
            raise
        if self._request.dry_run:
            return self._cut(TagState.PLANNED, remote.name)
        oid = self._written().id if sent else found[-1]
        if self._plan.standing is None:
            self._add_ref(oid)
        return self._cut(TagState.FINISHED if found else TagState.PUSHED, remote.name, oid)

    def _refuse_taken(self, remote: str, there: bytes, *, rejected: bool) -> None:
        """Nothing, where the remote's tag is what an earlier run made, one that ended before it could make it here.

        :raises Refused: it is another, or this run has just been rejected, so that somebody else was quicker.
        """
        plan = self._plan
        if plan.standing and plan.standing.oid.hex().encode() == there:
            raise Refused(f"{plan.name} is tagged already, here and on {remote}", "go on with `invoke publish`")
        try:
            kind, content = self._repository.objects.read(bytes.fromhex(there.decode()))
        except MissingObject:
            kind, content = "", b""
        ours = kind == "tag" and content.startswith(b"object %b\n" % plan.head.hex().encode())
        if plan.standing or rejected or not ours:
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
        tag.name = encoded(self._plan.name)
        tag.tagger = encoded(self._tagger.identity)
        tag.tag_time, tag.tag_timezone = self._tagger.seconds, self._tagger.offset
        tag.message = encoded(self._plan.message)
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
            made = DiskRefsContainer(self._repository.common_dir).add_if_new(self._ref, oid)
        except (OSError, FileLocked, RefFormatError) as error:
            raise BuildToolsError(
                f"the tag cannot be written to {place} ({error}){pushed}", "check what is there"
            ) from None
        if not made and self._here() != oid:
            raise Refused(f"somebody else made the tag {self._plan.name} here at the same moment{pushed}", "look at it")

    def _here(self) -> bytes:
        repository = self._repository
        found = RefFiles(repository.git_dir, repository.common_dir, repository.hash_size).read(self._plan.ref)
        return found.hex().encode() if isinstance(found, bytes) else b""

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
