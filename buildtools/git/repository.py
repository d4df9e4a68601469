"""A repository as git finds it: from a folder upward, or from ``GIT_DIR`` and related variables.

Paths are ``str``, absolute and separated by ``/``: ``python -m buildtools.git.describe`` imports this module, and
starts faster without ``pathlib``. https://git-scm.com/docs/gitrepository-layout
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from buildtools.git.config import REMOTE_URL, Config, Reader, boolean, expand_home
from buildtools.git.errors import BadConfig, NotARepository
from buildtools.git.storage.objects import Objects, unquoted
from buildtools.git.storage.refs import RefFiles, Refs, resolve
from buildtools.git.storage.small_file import content, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

# https://git-scm.com/docs/gitformat-index and Documentation/technical/repository-version.txt; those of format 0 too
_ANY_FORMAT = {"noop", "preciousobjects", "partialclone", "worktreeconfig"}
_FORMAT_1 = {"noop-v1", "objectformat", "compatobjectformat", "refstorage", "relativeworktrees"}
_HASH_SIZES = {"sha1": 20, "sha256": 32}
# https://git-scm.com/docs/git-config#SCOPES: "protected configuration".
_PROTECTED = ("safe.directory", "safe.barerepository")


class Repository:
    """An open repository.

    ``git_dir`` belongs to this worktree, ``common_dir`` is shared by all worktrees. ``work_tree`` is ``None`` if there
    is none (a bare repository, or opened from inside the git folder). ``environment`` is what it was opened with.
    """

    def __init__(
        self,
        git_dir: str,
        common: str,
        work_tree: str | None,
        folder: str,
        environment: Mapping[str, str],
        reader: Reader,
    ) -> None:
        self.git_dir = git_dir
        self.common_dir = common
        self.work_tree = work_tree
        self.environment = environment
        self.config: Config = reader.config
        self.object_format = (
            (self.config.get("extensions.objectformat") or "sha1").lower()
            if self.config.get("core.repositoryformatversion", "0") != "0"
            else "sha1"
        )
        self.hash_size = _HASH_SIZES[self.object_format]
        self.refs: Refs = self._open_refs()
        # git changes to the top of the work tree before it reads these.
        top = work_tree or folder
        alternates = environment.get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "").split(":")
        self.objects = Objects(
            os.path.join(top, environment.get("GIT_OBJECT_DIRECTORY") or f"{self.common_dir}/objects"),
            self.hash_size,
            [os.path.join(top, unquoted(place)) for place in alternates if place],
            self._replacements,
            use_multi_pack_index=self.config.bool("core.multipackindex", True),
        )

    @classmethod
    def open(cls, path: str | Path, environment: Mapping[str, str]) -> Repository:
        """The repository that git would use if started in ``path`` with ``environment``.

        :raises NotARepository: if there is none, or its format is unknown.
        :raises BadConfig: if git would refuse a configuration file.
        """
        folder = os.path.realpath(path)
        if not os.path.isdir(folder):
            raise NotARepository(f"{folder} is not a folder", "give the folder of a git repository")
        explicit = environment.get("GIT_DIR")
        if explicit:
            git_dir = os.path.normpath(os.path.join(folder, explicit))
            if os.path.isfile(git_dir):
                git_dir = _git_file(git_dir)
            if not is_git_dir(git_dir, environment, folder):
                raise NotARepository(f"GIT_DIR is {explicit}, which is not a git repository", "correct it or unset it")
            directory, place, inside = git_dir, folder, False
        else:
            directory, place, inside = _discovery(folder, environment)
        common = common_dir(directory, environment)
        reader, protected = _read_config(directory, common, environment)
        if not explicit:
            _check_owner(directory, None if inside else place, protected["safe.directory"], environment)
        if inside:
            _check_bare(directory, protected["safe.barerepository"])
        _check_format(reader.config, directory)
        work_tree = _work_tree(
            reader.config, directory, common, place, folder, environment, explicit=bool(explicit), inside=inside
        )
        return cls(directory, common, work_tree, folder, environment, reader)

    @property
    def bare(self) -> bool:
        """Whether it is configured to have no work tree."""
        return self.work_tree is None and self.config.bool("core.bare")

    def head(self) -> bytes | None:
        """The commit that is checked out; ``None`` on a branch without a commit."""
        return resolve(self.refs, b"HEAD")[1]

    def home(self) -> str:
        """The user's home folder, for paths in the configuration."""
        return self.environment.get("HOME", "")

    def _open_refs(self) -> Refs:
        storage = (self.config.get("extensions.refstorage") or "files").lower()
        if storage == "files":
            return RefFiles(self.git_dir, self.common_dir, self.hash_size)
        if storage == "reftable":
            from buildtools.git.storage.reftable import Reftables

            return Reftables(self.git_dir, self.common_dir, self.hash_size)
        raise NotARepository(f"refs are kept as {storage!r}, which is unknown", "use git's files or reftable")

    def _replacements(self) -> dict[bytes, bytes]:
        if "GIT_NO_REPLACE_OBJECTS" in self.environment or not self.config.bool("core.usereplacerefs", True):
            return {}
        base = os.fsencode(self.environment.get("GIT_REPLACE_REF_BASE") or "refs/replace/")
        replacements = {}
        for ref in self.refs.under(base if base.endswith(b"/") else base + b"/"):
            name = ref.name.rpartition(b"/")[2]
            if ref.oid is not None and re.fullmatch(rb"[0-9a-f]{%d}" % (self.hash_size * 2), name):
                replacements[bytes.fromhex(name.decode())] = ref.oid
        return replacements


def common_dir(git_dir: str, environment: Mapping[str, str]) -> str:
    """The folder with everything that all worktrees share."""
    if environment.get("GIT_COMMON_DIR"):
        return os.path.abspath(environment["GIT_COMMON_DIR"])
    common = text(f"{git_dir}/commondir")
    return git_dir if common is None else os.path.normpath(os.path.join(git_dir, common.rstrip("\r\n")))


def is_git_dir(git_dir: str, environment: Mapping[str, str], folder: str = "") -> bool:
    """Whether git accepts the folder as a repository: a plausible HEAD, objects and refs.

    ``folder`` is where git was started; a relative ``GIT_OBJECT_DIRECTORY`` is relative to it.
    """
    head = f"{git_dir}/HEAD"
    try:
        if os.path.islink(head):
            if not os.readlink(head).startswith("refs/"):
                return False
        else:
            if not re.match(rb"ref:\s*refs/|[0-9a-f]{40}", content(head) or b""):
                return False
    except OSError:
        return False
    common = common_dir(git_dir, environment)
    objects = os.path.join(folder, environment.get("GIT_OBJECT_DIRECTORY") or f"{common}/objects")
    return os.access(objects, os.X_OK) and os.access(f"{common}/refs", os.X_OK)


def _git_file(path: str) -> str:
    """The folder that a ``.git`` file points to.

    :raises NotARepository: if it is not such a file.
    """
    try:
        line = text(path) or ""
    except OSError as error:
        raise NotARepository(f"{path} cannot be read ({error.strerror})", "correct its permissions") from None
    target = line.removeprefix("gitdir: ").rstrip("\r\n")
    if not line.startswith("gitdir: ") or not target:
        raise NotARepository(f"{path} does not say where the repository is", "it must read `gitdir: PATH`")
    return os.path.normpath(os.path.join(os.path.dirname(path), target))


def _discovery(folder: str, environment: Mapping[str, str]) -> tuple[str, str, bool]:
    """The git folder, the folder where it was found, and whether that is the git folder itself.

    :raises NotARepository: if there is none up to the root, a ceiling, or another file system.
    """
    ceilings = _ceilings(environment)
    device = os.stat(folder).st_dev
    crossing = boolean(environment.get("GIT_DISCOVERY_ACROSS_FILESYSTEM", "false"))
    place = folder
    while True:
        inner = place.rstrip("/") + "/.git"
        if os.path.isfile(inner):
            target = _git_file(inner)
            if not is_git_dir(target, environment, folder):
                raise NotARepository(f"{inner} leads to {target}, which is not a git repository", "correct it")
            return target, place, False
        if is_git_dir(inner, environment, folder):
            return inner, place, False
        if is_git_dir(place, environment, folder):
            return place, place, True
        above = os.path.dirname(place)
        if above == place or above in ceilings or (not crossing and os.stat(above).st_dev != device):
            raise NotARepository(
                f"{folder} is in no git repository",
                "run this inside a clone, set GIT_DIR to its .git folder, or make a repository with `git init`",
            )
        place = above


def _ceilings(environment: Mapping[str, str]) -> set[str]:
    folders = set()
    as_given = False
    for entry in environment.get("GIT_CEILING_DIRECTORIES", "").split(":"):
        if not entry:
            # After an empty entry git no longer resolves links.
            as_given = True
        elif os.path.isabs(entry):
            folders.add(os.path.normpath(entry) if as_given else os.path.realpath(entry))
    return folders


def _read_config(git_dir: str, common: str, environment: Mapping[str, str]) -> tuple[Reader, dict[str, list[str]]]:
    """The configuration, and the values of protected keys, which the repository's own files cannot set."""

    def read(reader: Reader) -> dict[str, list[str]]:
        config = reader.config
        reader.read_user()
        protected = {name: config.get_all(name) for name in _PROTECTED}
        reader.read_file(f"{common}/config")
        if config.bool("extensions.worktreeconfig"):
            reader.read_file(f"{git_dir}/config.worktree")
        own = {name: len(config.get_all(name)) for name in _PROTECTED}
        reader.read_environment()
        return {name: values + config.get_all(name)[own[name] :] for name, values in protected.items()}

    def branch() -> str:
        return _branch(git_dir)

    def remote_urls() -> list[str]:
        # A file included depending on a remote's URL may not set a remote's URL, so one reading without that finds all
        # URLs.
        unconditional = Reader(environment, git_dir, branch, None)
        read(unconditional)
        config = unconditional.config
        return [url for name in config.names() if REMOTE_URL.fullmatch(name) for url in config.get_all(name)]

    reader = Reader(environment, git_dir, branch, remote_urls)
    protected = read(reader)
    return reader, protected


def _check_bare(git_dir: str, values: list[str]) -> None:
    """Refuse an implicit bare repository if the user wants that: a clone may contain one as ordinary files.

    https://git-scm.com/docs/git-config#Documentation/git-config.txt-safebareRepository

    :raises BadConfig: if the value is neither ``all`` nor ``explicit``.
    """
    for value in values:
        if value not in ("all", "explicit"):
            raise BadConfig(f"git configuration safe.bareRepository is {value!r}", "write all or explicit")
    # git's own folders below a work tree are exempt.
    if values[-1:] == ["explicit"] and not re.search(r"/\.git(/(worktrees|modules)/|$)", git_dir):
        raise NotARepository(
            f"{git_dir} is a bare repository, and safe.bareRepository is 'explicit'", "name it by GIT_DIR"
        )


def _check_owner(git_dir: str, place: str | None, trusted: list[str], environment: Mapping[str, str]) -> None:
    """Refuse somebody else's repository, whose configuration could name programs to run.

    https://git-scm.com/docs/git-config#Documentation/git-config.txt-safedirectory
    """
    user = os.geteuid()
    users = {user}
    if not user and environment.get("SUDO_UID", "").isdecimal():
        users.add(int(environment["SUDO_UID"]))
    places = [git_dir] if place is None else [git_dir, place, f"{place}/.git"]
    if all(_owner(path) in (*users, None) for path in places):
        return
    location = place or git_dir
    safe = False
    for path in trusted:
        path = expand_home(path, environment.get("HOME", ""))
        within = path.endswith("/*") and f"{location}/".startswith(path[:-1])
        # An empty entry cancels all before it.
        safe = bool(path) and (safe or within or path == "*" or os.path.realpath(path) == os.path.realpath(location))
    if not safe:
        raise NotARepository(
            f"{location} belongs to another user",
            f"if you trust it, run `git config --global --add safe.directory {location}`",
        )


def _owner(path: str) -> int | None:
    """The owner's user id; ``None`` if the file does not exist."""
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None


def _branch(git_dir: str) -> str:
    head = (text(f"{git_dir}/HEAD") or "").strip()
    return head.removeprefix("ref:").strip().removeprefix("refs/heads/") if head.startswith("ref:") else ""


def _check_format(config: Config, git_dir: str) -> None:
    version = config.int("core.repositoryformatversion")
    if version > 1:
        raise NotARepository(f"{git_dir} has repository format {version}", "formats 0 and 1 are understood")
    extensions = {name[11:] for name in config.names() if name.startswith("extensions.") and name.count(".") == 1}
    unknown = extensions - _ANY_FORMAT - _FORMAT_1 if version else extensions & _FORMAT_1
    if unknown:
        raise NotARepository(
            f"{git_dir} uses what its format {version} does not have: {', '.join(sorted(unknown))}",
            "use a git repository of format 0 or 1 with known extensions",
        )
    algorithm = (config.get("extensions.objectformat") or "sha1").lower()
    if version and algorithm not in _HASH_SIZES:
        raise NotARepository(f"{git_dir} has objects named by {algorithm}", "sha1 and sha256 are understood")


def _work_tree(
    config: Config,
    git_dir: str,
    common: str,
    place: str,
    folder: str,
    environment: Mapping[str, str],
    *,
    explicit: bool,
    inside: bool,
) -> str | None:
    """The top of the work tree, by the rules of git's ``setup.c``."""
    if environment.get("GIT_WORK_TREE"):
        return os.path.normpath(os.path.join(folder, environment["GIT_WORK_TREE"]))
    # The shared file's values are about the main work tree, unless each work tree has its own file.
    is_linked = common != git_dir and not config.bool("extensions.worktreeconfig")
    worktree = None if is_linked else config.get("core.worktree")
    bare = not is_linked and config.bool("core.bare")
    if worktree is not None:
        if bare:
            raise BadConfig("core.bare and core.worktree do not make sense together", "unset one of them")
        return os.path.normpath(os.path.join(git_dir, worktree))
    if bare or inside or (explicit and boolean(environment.get("GIT_IMPLICIT_WORK_TREE", "true")) is False):
        return None
    return place
