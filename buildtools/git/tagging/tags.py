"""Create a release tag: first all checks, then the tag on the remote, and only then in this clone.

The tag object is written before the push, the ref after it. So a failed push leaves no tag behind, and if a run is
killed in between, the next run completes it: it finds a tag on the remote whose object is in this clone.
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
from buildtools.git.tagging.exchange import Offer, RemoteRefs
from buildtools.git.tagging.permissions import SharedPermissions
from buildtools.git.tagging.remote import Rejected, Remote
from buildtools.git.tagging.signing import Signer
from buildtools.git.tagging.tag_plan import (
    TagPlan,
    TagRequest,
    encode_name,
    plan_tag,
    refuse_other_tip,
    refuse_unwritable,
)
from buildtools.git.tagging.tagger import Tagger, read_tagger

_LOCK_REMEDY = "if no git command is running here, delete that file"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dulwich.objects import ObjectID, Tag


class TagState(Enum):
    """How far the tag has got."""

    PLANNED = "would be made"
    MADE = "made here"
    PUSHED = "pushed"
    FINISHED = "finished"


@frozen
class CutTag:
    """The release tag, or its plan in a dry run. ``previous`` is the last version's tag, empty for the first.

    ``object`` is the tag object's id, empty in a dry run; ``remote`` is empty if nothing is pushed.
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
    """Tag HEAD of the repository that contains ``root``, and push the tag and nothing else.

    Without ``request.push`` the remote is not contacted at all.

    :raises Refused: if a check failed; the message names the next step.
    :raises Unreachable: if the connection to the remote failed.
    :raises DamagedRepository: if the repository cannot be read.
    """
    repository = Repository.open(root, environment)
    refuse_unwritable(repository)
    with _lock(repository):
        plan = plan_tag(repository, root, request)
        tagger = read_tagger(repository.config, environment)
        _refuse_older(plan, tagger)
        _refuse_lock(repository, plan)
        cutter = _Cutter(repository, plan, request, tagger)
        if request.push:
            return cutter.push(Remote(repository, request.remote, report))
        return cutter.make()


def _refuse_older(plan: TagPlan, tagger: Tagger) -> None:
    """Check that git describe will print the new tag, and not a release candidate of the same commit.

    :raises Refused: if the candidate's tag has a later date.
    """
    if tagger.seconds < plan.earliest:
        raise Refused(
            f"the tag {plan.name} would be {plan.earliest - tagger.seconds} seconds older than the tags that HEAD has",
            f"correct the clock, or set GIT_COMMITTER_DATE to '{plan.earliest} +0000' or later",
        )


def _refuse_lock(repository: Repository, plan: TagPlan) -> None:
    """Check that the ref can be written, before the tag is pushed.

    :raises Refused: if git holds its lock, or has left it behind.
    """
    lock = f"{repository.common_dir}/refs/tags/{plan.name}.lock"
    if plan.existing is None and os.path.lexists(lock):
        raise Refused(f"the tag {plan.name} is locked by {lock}", _LOCK_REMEDY)


def _remove_empty_folders(path: str) -> None:
    """Remove the empty folders that deleted tags such as ``1.0.0/rc`` left in the place of a ref, as git does."""
    for folder, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)


class _Cutter:
    """Creates the tag object once, when it is needed, and the ref after all checks."""

    def __init__(self, repository: Repository, plan: TagPlan, request: TagRequest, tagger: Tagger) -> None:
        from dulwich.refs import Ref

        self._repository = repository
        self._plan = plan
        self._request = request
        self._tagger = tagger
        self._ref = Ref(plan.ref)
        self._tag: Tag | None = None
        self._permissions = SharedPermissions(repository.config)
        config = repository.config
        sign = request.sign or config.bool("tag.gpgsign") or config.bool("tag.forcesignannotated")
        needs_signer = sign and plan.existing is None
        self._signer = Signer(config, repository.environment, tagger.identity) if needs_signer else None

    def make(self) -> CutTag:
        """Create the tag in this clone only."""
        if self._request.dry_run:
            return self._cut(TagState.PLANNED, "")
        oid = self._tag_object().id
        self._add_ref(oid)
        return self._cut(TagState.MADE, "", oid)

    def push(self, remote: Remote) -> CutTag:
        """Create the tag on the remote, then in this clone."""
        from dulwich.objects import ObjectID

        remote_tags: list[ObjectID] = []
        is_retry = False

        def decide(refs: RemoteRefs) -> Offer | None:
            refuse_other_tip(self._repository, self._plan, remote.name, refs)
            remote_tag = refs.get(self._ref)
            if remote_tag is not None:
                self._refuse_foreign(remote.name, remote_tag, is_retry=is_retry)
                remote_tags.append(ObjectID(remote_tag))
                return None
            return None if self._request.dry_run or is_retry else Offer(self._ref, self._tag_object())

        try:
            success = remote.push(decide)
        except Rejected:
            is_retry = True
            # If another run has pushed the tag in the meantime, that is the better message.
            with suppress(Unreachable):
                remote.push(decide)
            raise
        if self._request.dry_run:
            return self._cut(TagState.PLANNED, remote.name)
        oid = self._tag_object().id if success else remote_tags[-1]
        if self._plan.existing is None:
            self._add_ref(oid)
        return self._cut(TagState.FINISHED if remote_tags else TagState.PUSHED, remote.name, oid)

    def _refuse_foreign(self, remote: str, remote_tag: bytes, *, is_retry: bool) -> None:
        """Accept the remote's tag only if an earlier run in this clone pushed it and was killed before it wrote the
        ref.

        :raises Refused: if the tag is another one, or another run made it because this run's push was just rejected.
        """
        plan = self._plan
        if plan.existing and plan.existing.oid.hex().encode() == remote_tag:
            raise Refused(f"the tag {plan.name} already exists here and on {remote}", "continue with `invoke publish`")
        try:
            kind, content = self._repository.objects.read(bytes.fromhex(remote_tag.decode()))
        except MissingObject:
            kind, content = "", b""
        ours = kind == "tag" and content.startswith(b"object %b\n" % plan.head.hex().encode())
        if plan.existing or is_retry or not ours:
            raise Refused(
                f"the tag {plan.name} already exists on {remote}",
                f"another run has released it: run `git fetch {remote} --tags`, then choose a greater version",
            )

    def _tag_object(self) -> Tag:
        """The tag object, signed if requested, in the object store; created by the first call."""
        if self._tag is None:
            self._tag = self._read_tag() if self._plan.existing else self._make_tag()
        return self._tag

    def _read_tag(self) -> Tag:
        from dulwich.objects import Tag

        assert self._plan.existing is not None
        _, content = self._repository.objects.read(self._plan.existing.oid)
        tag = Tag()
        tag.set_raw_string(content)
        return tag

    def _make_tag(self) -> Tag:
        from dulwich.object_store import DiskObjectStore
        from dulwich.objects import Commit, Tag

        tag = Tag()
        tag.object = (Commit, self._plan.head.hex().encode())
        tag.name = encode_name(self._plan.name)
        tag.tagger = encode_name(self._tagger.identity)
        tag.tag_time, tag.tag_timezone = self._tagger.seconds, self._tagger.offset
        tag.message = encode_name(self._plan.message)
        if self._signer:
            tag.signature = self._signer.signature(tag.as_raw_string())
        store = DiskObjectStore(self._repository.objects.folders[0])
        try:
            store.add_object(tag)
            self._share(self._repository.objects.folders[0], f"{tag.id.decode()[:2]}/{tag.id.decode()[2:]}")
        except OSError as error:
            raise BuildToolsError(
                f"cannot write the tag ({error.strerror})", f"check {self._repository.objects.folders[0]}"
            ) from None
        finally:
            store.close()
        return tag

    def _add_ref(self, oid: ObjectID) -> None:
        from dulwich.errors import RefFormatError
        from dulwich.file import FileLocked
        from dulwich.refs import DiskRefsContainer

        path = f"{self._repository.common_dir}/refs/tags/{self._plan.name}"
        note = f", but {self._plan.name} has been pushed; `git fetch --tags` fetches it" if self._request.push else ""
        _remove_empty_folders(path)
        try:
            is_new = DiskRefsContainer(self._repository.common_dir).add_if_new(self._ref, oid)
            self._share(f"{self._repository.common_dir}/refs/tags", self._plan.name)
        except FileLocked:
            raise BuildToolsError(f"the tag {self._plan.name} is locked by {path}.lock{note}", _LOCK_REMEDY) from None
        except (OSError, RefFormatError) as error:
            reason = getattr(error, "strerror", None) or "invalid name"
            raise BuildToolsError(f"cannot write {path} ({reason}){note}", f"check {path}") from None
        if not is_new and self._local_ref() != oid:
            raise Refused(
                f"another process has just made the tag {self._plan.name} here{note}",
                f"inspect it with `git show {self._plan.name}`",
            )

    def _share(self, folder: str, path: str) -> None:
        """Apply core.sharedRepository to a new file, ``path`` below ``folder``, and to the folders made for it."""
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            self._permissions.apply("/".join([folder, *parts[:count]]))

    def _local_ref(self) -> bytes:
        repository = self._repository
        value = RefFiles(repository.git_dir, repository.common_dir, repository.hash_size).read(self._plan.ref)
        return value.hex().encode() if isinstance(value, bytes) else b""

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
def _lock(repository: Repository) -> Iterator[None]:
    """Hold a lock on the repository's folder; the kernel releases it if the run is killed.

    :raises Refused: if another run holds the lock.
    """
    descriptor = os.open(repository.common_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                "another `invoke release` is running in this clone",
                "wait until it ends, then run the same command again",
            ) from None
        except OSError:
            # Without file locks only the ref protects the tag, because it is created but never replaced.
            pass
        yield
    finally:
        os.close(descriptor)
