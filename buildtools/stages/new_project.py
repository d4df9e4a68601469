"""The first files of a repository that starts to use the tool. Existing files are left as they are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.events import Warned
from buildtools.frozen import frozen
from buildtools.git.checkout import read_version, untracked_files
from buildtools.git.naming.prefix import ignored_tag
from buildtools.git.repository import Repository
from buildtools.git.storage.refs import resolve
from buildtools.git.worktree.status import changed_paths
from buildtools.settings import COMPONENT
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
_NAME_OF_A_BUILD = re.compile(r"""^\s*rootProject\.name\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_MAKES_A_DISTRIBUTION = re.compile(r"""(?:id|plugin:?)?[\s(]*["'`](?:application|distribution)["'`]""")


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
    plan = [*_plan(task, repository)]
    new = tuple(file for file in plan if file.content)
    if not task.run.dry_run:
        for path in (*_EXAMPLE_FILES, *(file.path for file in plan)):
            # A killed run may have left this.
            _partial(root / path).unlink(missing_ok=True)
        for file in new:
            _write(root / file.path, file)
    old = tuple(file.path for file in plan if not file.content and (root / file.path).exists())
    for advice in _advice(root, old):
        task.run.report(Warned("", advice))
    return NewProject(new, old, _commands(task, repository, [file.path for file in plan]))


def _plan(task: TaskContext, repository: Repository) -> Iterator[FirstFile]:
    """All files, in the order in which they are written; those without content exist already."""
    root = task.settings.root
    place, gradle_name = _images_folder(root), _gradle_name(root)
    yield _new(root, "tasks.py", _TASKS)
    origins = {layer.origin for layer in task.settings.origins.values()} - {"environment"}
    configuration = "" if origins else _configuration(task, repository, place, gradle_name)
    yield _extended(root, "pyproject.toml", configuration)
    if not place and _has_room_for_example(root, task.settings.images):
        # The Dockerfile comes last: it completes the example.
        for path, text in zip(_EXAMPLE_FILES, ("Hello\n", _DOCKERFILE), strict=True):
            yield _new(root, path, text)
    ignored = {line.strip().strip("/") for line in _text(root / ".gitignore").splitlines()}
    lines = ["/dist/", "/.sandbox/", "/.venv/", "__pycache__/", *(["/build/", "/.gradle/"] if gradle_name else [])]
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


def _advice(root: Path, old: Sequence[str]) -> Iterator[str]:
    if "tasks.py" in old and "buildtools" not in _text(root / "tasks.py"):
        yield "tasks.py is as it was: import the namespace of buildtools.tasks there, or run `buildtools`, not `invoke`"
    if (root / "Dockerfile").exists():
        yield (
            "the Dockerfile here is in no image folder: move it to src/docker/NAME/Dockerfile, and set "
            'context = "." under [tool.buildtools.image.NAME]'
        )


def _images_folder(root: Path) -> str:
    """The folder in which the repository already keeps image folders, if all of its folders are such; else empty."""
    for place in _IMAGE_PLACES:
        folders = [path for path in (root / place).glob("*") if path.is_dir() and not path.name.startswith(".")]
        if folders and all(COMPONENT.fullmatch(path.name) and (path / "Dockerfile").is_file() for path in folders):
            return place
    return ""


def _gradle_name(root: Path) -> str:
    """The name of the distribution that Gradle installs; empty if it makes none."""
    kinds = ("gradle", "gradle.kts")
    build = "".join(_text(root / f"build.{kind}") for kind in kinds)
    if not _MAKES_A_DISTRIBUTION.search(build):
        return ""
    name_match = _NAME_OF_A_BUILD.search("".join(_text(root / f"settings.{kind}") for kind in kinds))
    name = name_match[1] if name_match else root.name
    return name if COMPONENT.fullmatch(name) else ""


def _configuration(task: TaskContext, repository: Repository, place: str, gradle_name: str) -> str:
    root, environment = task.settings.root, task.run.environment
    remotes = [key.split(".")[1] for key in repository.config.names() if re.fullmatch(r"remote\.[^.]+\.url", key)]
    remote = "origin" if "origin" in remotes or not remotes else remotes[0]
    url = next(iter(repository.config.get_all(f"remote.{remote}.url")), "") or str(root)
    namespace = re.sub(r"[^a-z0-9]+", "-", re.split(r"[/:]", url.rstrip("/"))[-1].removesuffix(".git").lower())
    lines = [
        "[tool.buildtools]",
        '# registry = "registry.example.com:5000"        # where `push` and `publish` put images',
        f'namespace = "{namespace.strip("-") or "images"}"',
        '# artifacts = "s3://BUCKET/PREFIX"              # where `publish` puts archives and manifests',
    ]
    if place and place != task.settings.images:
        lines.append(f'images = "{place}"')
    if prefix := _tag_prefix(root, repository, environment):
        lines.append(f'tag_prefix = "{prefix}"')
    if (branch := _branch(repository, remote)) != task.settings.release_branch:
        lines.append(f'release_branch = "{branch}"')
    if remote != task.settings.remote:
        lines.append(f'remote = "{remote}"')
    if gradle_name:
        command = "./gradlew" if (root / "gradlew").is_file() else "gradle"
        lines += ["", f"[tool.buildtools.distribution.{gradle_name}]", f'command = "{command} installDist"']
        lines.append(f'root = "build/install/{gradle_name}"')
    return "".join(f"{line}\n" for line in lines)


def _tag_prefix(root: Path, repository: Repository, environment: Mapping[str, str]) -> str:
    """What precedes the number in the tag of the checkout's version, such as the ``v`` of ``v1.4.2``."""
    with suppress(BuildToolsError):
        tag = ignored_tag(repository, "")
        if tag and tag.is_annotated and read_version(root, "", environment).base.startswith(tag.prefix):
            return tag.prefix
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
        raise BuildToolsError(f"cannot write {path} ({error.strerror})", "correct that, and run it again") from None


def _commands(task: TaskContext, repository: Repository, paths: Sequence[str]) -> tuple[str, ...]:
    """Three commands that lead to images; each works once those before it were run."""
    root, environment = task.settings.root, task.run.environment
    top = Path(repository.work_tree or root)
    # Before the first commit everything is new.
    changed = {top / path for path in changed_paths(repository)} if repository.head() else set()
    changed |= {Path(path) for path in untracked_files(root, [root], environment)}
    images = task.settings.images
    candidates = [*(path for path in paths if not path.startswith(f"{images}/")), images]
    to_add = [path for path in candidates if any((root / path).resolve() in (file, *file.parents) for file in changed)]
    commands = []
    if to_add:
        commands.append(f"git add {shlex.join(to_add)} && git commit -m 'Build with buildtools'")
    try:
        read_version(root, "", environment)
    except BuildToolsError:
        commands.append(f"git tag -a {task.settings.tag_prefix}0.1.0 -m 0.1.0")
    commands += ["buildtools check", "buildtools build", "buildtools list"]
    return tuple(commands[:3] if "buildtools build" in commands[:3] else [*commands[:2], "buildtools build"])
