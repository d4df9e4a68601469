"""The tag for a release, and all checks that need only this repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildtools import Refused
from buildtools.frozen import frozen
from buildtools.git.checkout import refuse_dirty
from buildtools.git.errors import NoCommit, ShallowClone
from buildtools.git.naming.describer import FETCH_ALL
from buildtools.git.naming.names import read_tag
from buildtools.git.naming.prefix import ignored_tag, prefix_remedy
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import read_shallow
from buildtools.git.storage.refs import is_well_formed, resolve
from buildtools.git.tagging.ancestry import Ancestry, AnnotatedTag, annotated_tags
from buildtools.git.tagging.versions import PARTS, next_version, parse_version, version_in
from buildtools.version import precedence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from semver import Version as SemanticVersion

# A first release may have the subjects of ten thousand commits; a tag message longer than this is not read.
_SUBJECT_LIMIT = 200
# A clone that was never fetched may lack hundreds of tags; a message needs only a few to be understood.
_NAME_LIMIT = 5
_HEADS, _TAGS = b"refs/heads/", b"refs/tags/"


@frozen
class TagRequest:
    """The user's request: one of ``bump`` (one of :data:`PARTS`), ``to`` and ``first`` (a version each).

    ``branch`` names the branch of a detached HEAD. With an empty ``message`` the tag's message lists the subjects of
    the commits since the last version.
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
    """The tag to create and push, as far as this repository determines it.

    ``previous`` is the last version. ``existing`` is the tag itself if this repository already has it, so that it only
    has to be pushed. A new tag must not be older than ``earliest``, in seconds since 1970.
    """

    name: str
    prefix: str
    version: str
    previous: AnnotatedTag | None
    head: bytes
    branch: str
    message: str
    existing: AnnotatedTag | None
    earliest: int

    @property
    def ref(self) -> bytes:
        """The tag's full name."""
        return _TAGS + encode_name(self.name)


def plan_tag(repository: Repository, root: Path, request: TagRequest) -> TagPlan:
    """The requested tag, after every check that does not need the remote.

    :raises Refused: if a check failed.
    """
    prefix = request.prefix
    count = sum(map(bool, (request.bump, request.to, request.first)))
    if count != 1:
        raise Refused(
            "more than one version was given" if count else "no version was given",
            "give one of --bump major|minor|patch|prerelease, --to X.Y.Z and --first X.Y.Z",
        )
    if request.bump and request.bump not in PARTS:
        raise Refused(f"invalid --bump {request.bump!r}", f"use one of {', '.join(PARTS)}")
    head = repository.head()
    if head is None:
        raise NoCommit("there is no commit to tag", "make one with `git commit`")
    if read_shallow(repository.common_dir, repository.hash_size, repository.environment):
        raise ShallowClone("shallow clone: the last release may be outside the fetched history", FETCH_ALL)
    _refuse_other_branch(repository, request)
    refuse_dirty(root, repository.environment)
    tags = annotated_tags(repository, prefix)
    ancestry = Ancestry(repository)
    last = ancestry.greatest(head, tags)
    explicit = request.to or request.first
    head_tags = [tag for tag in tags if tag.commit == head]
    existing = next((tag for tag in head_tags if explicit and tag.name == f"{prefix}{explicit}"), None)
    if existing and request.push:
        content = repository.objects.read(existing.oid)[1]
        message = content.partition(b"\n\n")[2].decode("utf-8", "replace")
        return TagPlan(existing.name, prefix, explicit, None, head, request.release_branch, message, existing, 0)
    if any(tag.version is None or not tag.version.prerelease for tag in head_tags):
        raise _already_tagged(head_tags, prefix)
    version = _next_version(repository, request, last, tags)
    if any(tag.version.finalize_version() != version for tag in head_tags if tag.version):
        raise _already_tagged(head_tags, prefix)
    name = f"{prefix}{version}"
    _refuse_name_clash(repository, name)
    # When a release candidate becomes final, list the changes since the version before it.
    base = ancestry.greatest(head, [tag for tag in tags if tag not in head_tags]) if head_tags else last
    message = _message(request.message, str(version), ancestry, head, base)
    # Of several tags on one commit, git describe prints the latest.
    dates = [tag.date for tag in (read_tag(repository.objects, each.oid) for each in head_tags) if tag]
    earliest = max(dates, default=0)
    return TagPlan(name, prefix, str(version), last, head, request.release_branch, message, None, earliest)


def _already_tagged(head_tags: list[AnnotatedTag], prefix: str) -> Refused:
    return Refused(
        f"HEAD is already tagged: {', '.join(tag.name for tag in head_tags)}",
        f"push it with `invoke release --to {head_tags[0].name.removeprefix(prefix)}` if it is not on the remote, "
        "then continue with `invoke publish`",
    )


def _refuse_name_clash(repository: Repository, name: str) -> None:
    ref = _TAGS + encode_name(name)
    if not is_well_formed(ref):
        raise Refused(f"{name!r} is not a valid name for a git tag", "correct tag_prefix")
    if repository.refs.read(ref) is not None:
        raise Refused(
            f"the tag {name} already exists, at another commit or as a lightweight tag", "choose a greater version"
        )
    # A ref is a file, and its name cannot be a folder's at the same time.
    parts = name.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts))]
    obstacles = [part for part in above if repository.refs.read(_TAGS + encode_name(part)) is not None]
    obstacles += [ref.name.removeprefix(_TAGS).decode("utf-8", "replace") for ref in repository.refs.under(ref + b"/")]
    if obstacles:
        raise Refused(
            f"the tag {name} cannot exist beside the tag {obstacles[0]}",
            f"delete {obstacles[0]}, or choose another tag_prefix",
        )


def _next_version(
    repository: Repository, request: TagRequest, last: AnnotatedTag | None, tags: list[AnnotatedTag]
) -> SemanticVersion:
    prefix = request.prefix
    versions = [tag.name for tag in tags if tag.version]
    if request.first and versions:
        raise Refused(
            f"--first is for a repository without version tags, and this one has {versions[-1]}", "use --bump or --to"
        )
    if not versions:
        return _first_version(repository, request)
    if request.to:
        version = parse_version(request.to, "--to", prefix)
    elif last is None or last.version is None:
        raise Refused("HEAD does not descend from any version tag", "name the version with --to X.Y.Z")
    else:
        version = next_version(last.version, request.bump)
    if last and last.version and precedence(version) <= precedence(last.version):
        raise Refused(
            f"version {version} is not greater than {last.version}, which HEAD descends from",
            f"choose a greater one, such as {next_version(last.version, 'patch')}",
        )
    return version


def _first_version(repository: Repository, request: TagRequest) -> SemanticVersion:
    prefix = request.prefix
    first = parse_version(request.first, "--first", prefix) if request.first else None
    tag = ignored_tag(repository, prefix)
    # One repository may contain several projects, each with its own prefix. Without a prefix, or if they differ only in
    # a v, another prefix is a mistake.
    if tag and tag.is_annotated and (not prefix or not tag.prefix or tag.prefix.lower() == prefix.lower()):
        raise Refused(
            f"no tag is a version{f' with the prefix {prefix!r}' if prefix else ''}, but {tag.name} looks like one",
            f"{prefix_remedy(tag)}, or make the first tag of another kind with `git tag -a`",
        )
    version = version_in(tag.name, tag.prefix) if tag and not tag.is_annotated and tag.prefix == prefix else None
    if tag and version and not (first and precedence(first) > precedence(version)):
        raise Refused(
            f"{tag.name} is a lightweight tag, and only annotated tags are versions",
            f"release a greater version, such as `invoke release --first {next_version(version, 'minor')}`",
        )
    if first is None:
        start = "X.Y.Z" if tag else "0.1.0"
        raise Refused(
            f"there is no version tag yet{f' that starts with {prefix!r}' if prefix else ''}",
            f"make the first one with `invoke release --first {start}`, or fetch them with `git fetch --tags`",
        )
    return first


def refuse_unwritable(repository: Repository) -> None:
    """Check that dulwich can write to the repository.

    :raises Refused: if refs or objects are in a format that it cannot write.
    """
    refs = (repository.config.get("extensions.refstorage") or "files").lower()
    if refs != "files" or repository.object_format != "sha1":
        format_ = f"refs as {refs}" if refs != "files" else f"{repository.object_format} objects"
        raise Refused(
            f"this repository stores {format_}, which can be read but not written here",
            "tag with git itself: `git tag -a NAME -m MESSAGE`, `git push REMOTE refs/tags/NAME`",
        )


def _refuse_other_branch(repository: Repository, request: TagRequest) -> None:
    release_branch = request.release_branch
    flag = request.branch.removeprefix("refs/heads/").removeprefix(f"{request.remote}/")
    ref, _ = resolve(repository.refs, b"HEAD")
    current = ref.removeprefix(b"refs/heads/").decode("utf-8", "surrogateescape") if ref != b"HEAD" else ""
    if current and flag and current != flag:
        raise Refused(f"--branch is {flag}, but {current} is checked out", "leave out --branch")
    branch = current or flag
    if not branch:
        raise Refused(
            "HEAD is detached, so its branch is unknown",
            f"check out {release_branch}, or give --branch; in Jenkins --branch $BRANCH_NAME",
        )
    if branch != release_branch:
        raise Refused(
            f"the current branch is {branch}, but releases are made from {release_branch}",
            f"check out {release_branch}, or set release_branch under [tool.buildtools]",
        )


def refuse_other_tip(repository: Repository, plan: TagPlan, remote: str, refs: Mapping[bytes, bytes]) -> None:
    """Check that the remote's refs (hexadecimal ids by name) match this clone.

    :raises Refused: if HEAD is not the tip of the remote's branch, or the remote has versions that this clone lacks.
    """
    tip = refs.get(_HEADS + encode_name(plan.branch))
    if tip is None:
        raise Refused(f"{remote} has no branch {plan.branch}", f"push it first: `git push {remote} {plan.branch}`")
    remote_tip = bytes.fromhex(tip.decode())
    if remote_tip != plan.head:
        if remote_tip in repository.objects and Ancestry(repository).is_ancestor(remote_tip, plan.head):
            raise Refused(
                f"HEAD is not on {remote} yet, and only the tag would be pushed",
                f"push the branch first: `git push {remote} HEAD:{plan.branch}`",
            )
        raise Refused(
            f"HEAD ({plan.head.hex()[:12]}) is not the tip of {plan.branch} on {remote} ({tip.decode()[:12]})",
            "update HEAD with `git pull --tags`, then run the same command again",
        )
    versions = [
        ref.removeprefix(_TAGS).decode("utf-8", "replace")
        for ref in refs
        if ref.startswith(_TAGS + encode_name(plan.prefix)) and ref != plan.ref and repository.refs.read(ref) is None
    ]
    versions = [name for name in versions if version_in(name, plan.prefix)]
    if versions:
        more = f" and {len(versions) - _NAME_LIMIT} more" if len(versions) > _NAME_LIMIT else ""
        raise Refused(
            f"{remote} has version tags that this clone does not have: {', '.join(versions[:_NAME_LIMIT])}{more}",
            f"run `git fetch {remote} --tags`, then the same command again",
        )


def _message(text: str, version: str, ancestry: Ancestry, head: bytes, last: AnnotatedTag | None) -> str:
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    if not text:
        subjects = ancestry.subjects(head, last.commit if last else None)
        lines = [f"* {subject}" for subject in subjects[:_SUBJECT_LIMIT]]
        if len(subjects) > _SUBJECT_LIMIT:
            lines.append(f"and {len(subjects) - _SUBJECT_LIMIT} more")
        text = "\n".join([version, "", *lines])
    return text.strip() + "\n"


def encode_name(text: str) -> bytes:
    """A name in the bytes that git stores."""
    return text.encode("utf-8", "surrogateescape")
