"""The first files of a repository that starts to use the tool. Existing files are left as they are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.archive.gradle import GradleDistribution, gradle_distributions
from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.git.checkout import read_version, untracked_files
from buildtools.git.naming.prefix import ignored_tag
from buildtools.git.repository import Repository
from buildtools.git.storage.refs import resolve
from buildtools.git.tagging.versions import next_version, version_in
from buildtools.git.worktree.status import changed_paths
from buildtools.image.folder.folders import folders_and_errors
from buildtools.settings import COMPONENT, Settings
from buildtools.task_context import TaskContext

_EXAMPLE = "src/docker/app"
_EXAMPLE_FILES = (f"{_EXAMPLE}/hello.txt", f"{_EXAMPLE}/Dockerfile")
_DOCKERFILE = """\
# An example. Each folder beside this one that holds a Dockerfile is an image, called like the folder.
FROM scratch
COPY hello.txt /
"""
_TASKS = """\
\"\"\"The tasks of https://pypi.org/project/lockstep-buildtools: `invoke --list`.\"\"\"

from buildtools.tasks import namespace

__all__ = ["namespace"]
"""
# Where projects commonly keep their image folders.
_IMAGE_PLACES = ("src/docker", "docker", "images", "dockerfiles", "containers", "services")
_DOCKERFILES = ("Dockerfile", "Dockerfile.*", "*.Dockerfile")
_MOST_NAMED = 3


@frozen
class FirstFile:
    """A file of a new project, by its path relative to the project's folder.

    ``is_added_to`` is True if it existed before.
    """

    path: str
    content: bytes
    is_added_to: bool = False


@frozen
class NewProject:
    """The files that were written, those that existed and are unchanged, and the commands to continue with."""

    files: tuple[FirstFile, ...]
    unchanged: tuple[str, ...]
    commands: tuple[str, ...]


def begin_project(task: TaskContext) -> NewProject:
    """Write the files that the project's folder lacks, unless the run is dry.

    :raises Refused: if the folder is not in a git repository.
    :raises BuildToolsError: if a file cannot be written.
    """
    root, environment = task.settings.root, task.run.environment
    repository = Repository.open(root, environment)
    if repository.work_tree is None:
        raise Refused(f"{root} is in a bare repository", "run this in a clone")
    settings = task.settings
    if not _origins(settings):
        settings = _as_found_out(settings, repository, environment)
    try:
        distributions = [each for each in gradle_distributions(root) if COMPONENT.fullmatch(each.name)]
    except OSError as error:
        raise Refused(f"{error.filename} cannot be read ({error.strerror})", "correct it and run again") from None
    plan = [*_plan(settings, repository, distributions)]
    new = tuple(file for file in plan if file.content)
    if not task.run.dry_run:
        for path in (*_EXAMPLE_FILES, *(file.path for file in plan)):
            # A killed run may have left this.
            _partial(root / path).unlink(missing_ok=True)
        for file in new:
            _write(root / file.path, file)
    old = tuple(file.path for file in plan if not file.content and (root / file.path).exists())
    changed = _changed(root, repository, environment)
    unseen = [] if task.run.dry_run else [file.path for file in new if not _holds(changed, root / file.path)]
    for advice in _advice(settings, old, unseen):
        task.run.report(Warned("", advice))
    tag = _first_tag(settings, repository, environment)
    commands = _commands(settings, changed, [file.path for file in plan], tag, _program(root, environment))
    return NewProject(new, old, commands)


def _origins(settings: Settings) -> set[str]:
    """The configuration files that set something."""
    return {layer.origin for layer in settings.origins.values()} - {"environment"}


def _as_found_out(settings: Settings, repository: Repository, environment: Mapping[str, str]) -> Settings:
    """The settings, completed with values that the repository itself shows."""
    remote = _remote(repository)
    return replace(
        settings,
        images=_images_folder(settings.root) or settings.images,
        tag_prefix=_tag_prefix(settings.root, repository, environment),
        release_branch=_branch(repository, remote),
        remote=remote,
    )


def _plan(
    settings: Settings, repository: Repository, distributions: Sequence[GradleDistribution]
) -> Iterator[FirstFile]:
    """All files, in the order in which they are written; those without content exist already."""
    root = settings.root
    yield _new(root, "tasks.py", _TASKS)
    configuration = "" if _origins(settings) else _configuration(settings, repository, distributions)
    yield _extended(root, "pyproject.toml", configuration)
    if _has_room_for_example(root, settings.images):
        # The Dockerfile comes last: it completes the example.
        for path, text in zip(_EXAMPLE_FILES, ("Hello\n", _DOCKERFILE), strict=True):
            yield _new(root, path, text)
    ignored = {line.strip().strip("/") for line in _text(root / ".gitignore").splitlines()}
    lines = ["/dist/", "/.sandbox/", "/.venv/", "__pycache__/"]
    if distributions:
        # Those that it depends on build, too.
        lines += ["build/" if any(each.folder for each in distributions) else "/build/", "/.gradle/"]
    missing = [line for line in lines if line.strip("/") not in ignored]
    yield _extended(root, ".gitignore", "".join(f"{line}\n" for line in missing))
    yield _new(root, "Jenkinsfile", files("buildtools").joinpath("templates/Jenkinsfile").read_text("utf-8"))


def _has_room_for_example(root: Path, images: str) -> bool:
    example = root / _EXAMPLE
    hello, dockerfile = (root / path for path in _EXAMPLE_FILES)
    of_example = {example, hello, _partial(hello), _partial(dockerfile)}
    return root / images == example.parent and {*example.parent.rglob("*")} <= of_example


def _new(root: Path, path: str, text: str) -> FirstFile:
    return FirstFile(path, b"" if os.path.lexists(root / path) else text.encode())


def _extended(root: Path, path: str, text: str) -> FirstFile:
    """The file with ``text`` appended, with the line endings that it has."""
    before = _text(root / path)
    if not text or not before:
        return FirstFile(path, text.encode(), is_added_to=(root / path).exists())
    line_end = "\r\n" if "\r\n" in before else "\n"
    separator = "" if before.endswith("\n") else line_end
    if path.endswith(".toml"):
        separator += line_end
    after = f"{before}{separator}{text.replace(chr(10), line_end)}"
    if path.endswith(".toml"):
        try:
            tomllib.loads(after)
        except tomllib.TOMLDecodeError:
            raise Refused(
                f"{path} has no room for a [tool.buildtools] at its end", "write that table yourself"
            ) from None
    return FirstFile(path, after.encode(), is_added_to=True)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path} cannot be read ({error})", "correct it and run again") from None


def _advice(settings: Settings, old: Sequence[str], unseen: Sequence[str]) -> Iterator[str]:
    root = settings.root
    if "tasks.py" in old and "buildtools" not in _text(root / "tasks.py"):
        yield "tasks.py is as it was: import the namespace of buildtools.tasks there, or run `buildtools`, not `invoke`"
    if unseen:
        files = ", ".join(unseen)
        yield f"git ignores {files}: nothing is released without them in a commit, so take that line off .gitignore"
    if strays := _dockerfiles_elsewhere(root, settings.images):
        more = len(strays) - _MOST_NAMED
        names = ", ".join(strays[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        yield (
            f"in no image folder: {names}: move each to {settings.images}/NAME/Dockerfile; where it takes files "
            'from elsewhere, set context = "." under [tool.buildtools.image.NAME]'
        )
    if (root / settings.images).is_dir():
        with suppress(Refused):
            for error in folders_and_errors(settings, None)[1]:
                yield str(error)


def _dockerfiles_elsewhere(root: Path, images: str) -> list[str]:
    """The Dockerfiles outside of the images folder, at most two folders deep."""
    paths = {path for depth in ("", "*/", "*/*/") for name in _DOCKERFILES for path in root.glob(f"{depth}{name}")}
    names = sorted(path.relative_to(root) for path in paths if path.is_file())
    return [
        str(name)
        for name in names
        if not name.is_relative_to(images)
        and name.suffix != ".dockerignore"
        and not any(part.startswith(".") or part == "node_modules" for part in name.parts)
    ]


def _images_folder(root: Path) -> str:
    """The folder in which the repository already keeps image folders, if all of its folders are such; else empty."""
    for place in _IMAGE_PLACES:
        folders = [path for path in (root / place).glob("*") if path.is_dir() and not path.name.startswith(".")]
        if folders and all(COMPONENT.fullmatch(path.name) and (path / "Dockerfile").is_file() for path in folders):
            return place
    return ""


def _remote(repository: Repository) -> str:
    remotes = [key.split(".")[1] for key in repository.config.names() if re.fullmatch(r"remote\.[^.]+\.url", key)]
    return "origin" if "origin" in remotes or not remotes else remotes[0]


def _configuration(settings: Settings, repository: Repository, distributions: Sequence[GradleDistribution]) -> str:
    root, usual = settings.root, Settings(settings.root)
    url = next(iter(repository.config.get_all(f"remote.{settings.remote}.url")), "") or str(root)
    namespace = re.sub(r"[^a-z0-9]+", "-", re.split(r"[/:]", url.rstrip("/"))[-1].removesuffix(".git").lower())
    lines = [
        "[tool.buildtools]",
        '# registry = "registry.example.com:5000"        # where `push` and `publish` put images',
        f'namespace = "{namespace.strip("-") or "images"}"',
        '# artifacts = "s3://BUCKET/PREFIX"              # where `publish` puts archives and manifests',
    ]
    keys = ("images", "tag_prefix", "release_branch", "remote")
    lines += [f'{key} = "{getattr(settings, key)}"' for key in keys if getattr(settings, key) != getattr(usual, key)]
    command = "./gradlew" if (root / "gradlew").is_file() else "gradle"
    for each in distributions:
        lines += ["", f"[tool.buildtools.distribution.{each.name}]", f'command = "{command} {each.task}"']
        lines.append(f'root = "{each.root}"')
    return "".join(f"{line}\n" for line in lines)


def _tag_prefix(root: Path, repository: Repository, environment: Mapping[str, str]) -> str:
    """What precedes the number in the tag of the checkout's version, such as the ``v`` of ``v1.4.2``."""
    with suppress(BuildToolsError):
        tag = ignored_tag(repository, "")
        if tag and not tag.is_annotated:
            return tag.prefix if tag.prefix in ("v", "V") else ""
        if tag and read_version(root, "", environment).base.startswith(tag.prefix):
            return tag.prefix
    return ""


def _first_tag(settings: Settings, repository: Repository, environment: Mapping[str, str]) -> str:
    """The command that makes the first tag; empty if the checkout has a version."""
    prefix = settings.tag_prefix
    try:
        read_version(settings.root, prefix, environment)
    except BuildToolsError:
        tag = ignored_tag(repository, prefix)
        # Lightweight tags are not versions, but they show which version is next.
        last = version_in(tag.name, prefix) if tag and tag.prefix == prefix else None
        version = next_version(last, "minor") if last else "0.1.0"
        return f"git tag -a {prefix}{version} -m {version}"
    return ""


def _branch(repository: Repository, remote: str) -> str:
    """The default branch of the remote, else the one that is checked out."""
    for name, prefix in ((f"refs/remotes/{remote}/HEAD", f"refs/remotes/{remote}/"), ("HEAD", "refs/heads/")):
        target = resolve(repository.refs, name.encode())[0].decode("utf-8", "surrogateescape")
        if target.startswith(prefix) and target != name:
            return target.removeprefix(prefix)
    return "main"


def _partial(path: Path) -> Path:
    # A symbolic link stays one.
    path = path.resolve() if path.exists() else path
    return path.with_name(f".{path.name}.partial")


def _write(path: Path, file: FirstFile) -> None:
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(file.content)
        if file.is_added_to:
            shutil.copymode(path, partial)
            partial.replace(path.resolve())
        else:
            # Unlike a rename, this replaces nothing that appeared meanwhile.
            os.link(partial, path)
            partial.unlink()
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BuildToolsError(
            f"cannot write {path} ({error.strerror})", "correct that, and run the same command again"
        ) from None


def _changed(root: Path, repository: Repository, environment: Mapping[str, str]) -> set[Path]:
    """The files that the next commit could include."""
    top = Path(repository.work_tree or root)
    # Before the first commit everything is new.
    changed = {top / path for path in changed_paths(repository)} if repository.head() else set()
    return changed | {Path(path) for path in untracked_files(root, [root], environment)}


def _holds(changed: Iterable[Path], path: Path) -> bool:
    return any(path.resolve() in (file, *file.parents) for file in changed)


def _program(root: Path, environment: Mapping[str, str]) -> str:
    """How a shell in the project's folder calls ``buildtools``: by its path where the environment is not activated."""
    program = Path(sys.executable).with_name("buildtools")
    if shutil.which("buildtools", path=environment.get("PATH")) or not program.exists():
        return "buildtools"
    return shlex.quote(str(program.relative_to(root) if program.is_relative_to(root) else program))


def _commands(
    settings: Settings, changed: Collection[Path], paths: Sequence[str], tag: str, program: str
) -> tuple[str, ...]:
    """Three commands that lead to images; each works once those before it were run."""
    images = settings.images
    candidates = [*(path for path in paths if not path.startswith(f"{images}/")), images]
    to_add = [path for path in candidates if _holds(changed, settings.root / path)]
    commands = [f"git add {shlex.join(to_add)} && git commit -m 'Build with buildtools'"] if to_add else []
    commands += [tag] if tag else []
    build = f"{program} build"
    commands += [f"{program} check", build, f"{program} list"]
    return tuple(commands[:3] if build in commands[:3] else [*commands[:2], build])
