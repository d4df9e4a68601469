"""The commit that is checked out: its version, its date, and where it came from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from buildtools import Refused, printable
from buildtools.frozen import frozen
from buildtools.git.address import without_login
from buildtools.git.describe import describe
from buildtools.git.errors import NoCommit, NoTag, ShallowClone
from buildtools.git.naming.prefix import ignored_tag, prefix_remedy
from buildtools.git.repository import Repository
from buildtools.git.storage.commits import parse_commit, read_shallow
from buildtools.git.storage.refs import resolve
from buildtools.git.worktree.status import changed_paths
from buildtools.git.worktree.tracked_files import Files
from buildtools.version import Version

_MOST_NAMED = 10


@frozen
class Checkout:
    """The commit that is checked out.

    ``committed`` is its committer date in seconds since 1970, UTC. ``source`` is the URL of the configured remote,
    without user name and password; empty if there is no remote.
    """

    version: Version
    committed: int
    source: str


def read_version(root: Path, tag_prefix: str, environment: Mapping[str, str]) -> Version:
    """The version of the checkout that contains ``root``; with a tag prefix, only tags that start with it count.

    :raises Refused: if there is no repository, no commit or no annotated tag, or a shallow clone may hide a tag.
    """
    patterns = (f"{_literal(tag_prefix)}[0-9]*",) if tag_prefix else ()
    try:
        description = describe(root, match=patterns, dirty="-dirty", environment=environment)
    except NoTag as error:
        if Repository.open(root, environment).head() is None:
            raise NoCommit("there is no commit yet", "make one, then a tag: `git tag -a 0.1.0 -m 0.1.0`") from error
        _refuse_shallow(root, environment)
        fact = f"no annotated tag{f' that starts with {tag_prefix!r}' if tag_prefix else ''} is reachable from HEAD"
        tag = ignored_tag(Repository.open(root, environment), tag_prefix)
        if tag and tag.is_annotated:
            raise Refused(f"{fact}, but there is {tag.name}", prefix_remedy(tag)) from error
        if tag and tag.prefix == tag_prefix:
            fact = f"{fact} ({tag.name} is a lightweight one)"
        raise Refused(
            fact,
            f"make one with `git tag -a {tag_prefix}0.1.0 -m 0.1.0` or `invoke release --first 0.1.0`, "
            "or fetch them with `git fetch --tags`",
        ) from error
    if description.distance:
        _refuse_shallow(root, environment)
    version = Version(
        description.tag.removeprefix(tag_prefix),
        description.distance,
        description.abbreviation,
        dirty=description.dirty,
        commit=description.commit,
    )
    version.image_tag  # noqa: B018  raises if no image or archive can have this name
    return version


def read_checkout(root: Path, tag_prefix: str, remote: str, environment: Mapping[str, str]) -> Checkout:
    """The checkout that contains ``root``. ``SOURCE_DATE_EPOCH`` overrides the commit's date.

    :raises Refused: see :func:`read_version`; also if ``SOURCE_DATE_EPOCH`` is not a number.
    """
    version = read_version(root, tag_prefix, environment)
    repository = Repository.open(root, environment)
    url = next(iter(repository.config.get_all(f"remote.{remote}.url")), "")
    return Checkout(version, _date(repository, version, environment), without_login(url))


def tag_object(root: Path, name: str, environment: Mapping[str, str]) -> str:
    """The id of the tag's object, or of the commit for a lightweight tag; empty if there is no such tag.

    :raises NotARepository: if there is no repository.
    """
    oid = resolve(Repository.open(root, environment).refs, b"refs/tags/" + os.fsencode(name))[1]
    return oid.hex() if oid else ""


def tag_names(root: Path, tag_prefix: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The names of all tags with this prefix, without the prefix, including lightweight tags.

    :raises Refused: if there is no repository, or it has no tags, like a clone that did not fetch them.
    """
    start = b"refs/tags/"
    refs = Repository.open(root, environment).refs.under(start)
    if not refs:
        raise Refused("this repository has no tags", "fetch them with `git fetch --tags`")
    names = [os.fsdecode(ref.name.removeprefix(start)) for ref in refs]
    return tuple(name.removeprefix(tag_prefix) for name in names if name.startswith(tag_prefix))


def refuse_dirty(root: Path, environment: Mapping[str, str]) -> None:
    """Raise :class:`Refused` unless the tree is clean.

    :raises Refused: naming the changed files.
    """
    paths = changed_paths(Repository.open(root, environment))
    if paths:
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        names = map(printable, paths[:_MOST_NAMED])
        raise Refused(
            f"the tree is dirty ({', '.join(names)}{more})",
            "commit or stash the changes; a release must be what its commit says",
        )


def untracked_files(
    root: Path,
    folders: Iterable[Path],
    environment: Mapping[str, str],
    warn: Callable[[str], object] = lambda _: None,
) -> tuple[str, ...]:
    """The files in ``folders`` that are neither tracked nor ignored, as absolute paths without symbolic links, sorted.

    Submodules are searched too, unless they are configured to ignore untracked files. Another repository's folder is
    one path, with a slash at its end. Folders outside the work tree are skipped. An ignore file or a folder that cannot
    be read is skipped, with a message to ``warn``.

    :raises NotARepository: if there is no work tree.
    :raises DamagedRepository: if something needed cannot be read.
    """
    from buildtools.git.worktree.untracked import untracked_paths

    with closing(Files(Repository.open(root, environment))) as files:
        top = os.path.realpath(files.top)
        places = []
        for folder in {os.path.realpath(os.fsencode(folder)) for folder in folders}:
            if folder == top or top.startswith(folder.rstrip(b"/") + b"/"):
                places.append(b"")
            elif folder.startswith(top + b"/"):
                places.append(folder[len(top) + 1 :] + b"/")
        paths = sorted(untracked_paths(files, places, in_submodules=True, warn=warn)) if places else []
    return tuple(os.fsdecode(top + b"/" + path) for path in paths)


def uncommitted_files(root: Path, paths: Iterable[Path], environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Those of ``paths`` that exist in the work tree and that git does not track, ignored or not.

    :raises NotARepository: if there is no work tree.
    :raises DamagedRepository: if something needed cannot be read.
    """
    with closing(Files(Repository.open(root, environment))) as files:
        top = os.path.realpath(files.top) + b"/"
        real_paths = {path: os.path.realpath(os.fsencode(path)) for path in paths if path.exists()}
        return tuple(
            path
            for path, real in real_paths.items()
            if real.startswith(top) and files.index.position(real[len(top) :]) is None
        )


def _date(repository: Repository, version: Version, environment: Mapping[str, str]) -> int:
    # https://reproducible-builds.org/specs/source-date-epoch/
    epoch = environment.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        # Grafts and replacements change a commit's parents, but not its date.
        return parse_commit(repository.objects.read(bytes.fromhex(version.commit))[1], repository.hash_size)[0]
    if not re.fullmatch(r"[0-9]{1,11}", epoch):
        raise Refused(f"SOURCE_DATE_EPOCH is {epoch!r}, not seconds since 1970", "correct it or unset it")
    return int(epoch)


def _refuse_shallow(root: Path, environment: Mapping[str, str]) -> None:
    repository = Repository.open(root, environment)
    if read_shallow(repository.common_dir, repository.hash_size, environment):
        raise ShallowClone(
            "this clone is shallow and HEAD itself carries no annotated tag, so its version cannot be known",
            "run `git fetch --unshallow --tags`; in Jenkins, untick `Shallow clone` and tick `Fetch tags` under "
            "Advanced clone behaviours",
        )


def _literal(text: str) -> str:
    return re.sub(r"([*?\[\\])", r"\\\1", text)
