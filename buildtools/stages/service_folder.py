"""The folder of a runit service that runs one image of a release, by digest."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.files import replacement
from buildtools.frozen import frozen
from buildtools.release import Release, ReleasedImage
from buildtools.stages.releases import named_release, released_version
from buildtools.stages.signatures import refuse_unsigned
from buildtools.task_context import TaskContext

# Our mark, which the scripts of other services lack.
_MARK = b"written by `buildtools runit`"
_SCRIPTS = ("run", "finish", "control/t", "log/run")
_CONFIGURATION = "log/main/config"
_IMAGE = "env/IMAGE"


@frozen
class ServiceFolder:
    """A service folder, the version that it runs, its image by digest, and the files that this run wrote."""

    path: str
    version: str
    image: str
    changes: tuple[str, ...]


def write_service_folder(task: TaskContext, name: str, folder: Path, release_name: str) -> ServiceFolder:
    """Write the files that ``folder`` lacks to run the image ``name`` of a release; other files in it stay.

    ``release_name`` is a version or a channel; empty means the version of the checkout. Each file is replaced
    atomically, and a new folder appears complete. A dry run writes nothing.

    :raises Refused: if there is no such release or image, or the folder belongs to another service.
    :raises BuildToolsError: if it cannot be written.
    """
    release = named_release(task, release_name) if release_name else released_version(task, task.version)
    refuse_unsigned(task, release)
    image = _image(release, name)
    reference = f"{image.registry}/{image.repository}@{image.digest}"
    try:
        _refuse_stranger(folder)
        changes = tuple(_outdated(folder, reference))
        if changes and not task.run.dry_run:
            _write(folder, dict(changes))
    except OSError as error:
        raise BuildToolsError(
            f"cannot write {folder} ({error.strerror})", "correct that, and run the same command again"
        ) from None
    return ServiceFolder(str(folder), release.version, reference, tuple(path for path, _ in changes))


def _image(release: Release, name: str) -> ReleasedImage:
    images = {image.name: image for image in release.images}
    if name not in images:
        near = difflib.get_close_matches(name, images, n=1)
        raise Refused(
            f"release {release.version} has no image {name}",
            f"did you mean {near[0]}?" if near else f"its images are {', '.join(images)}",
        )
    return images[name]


def _refuse_stranger(folder: Path) -> None:
    run = folder / "run"
    if run.exists() and _MARK not in run.read_bytes():
        raise Refused(f"{run} belongs to another service", "name another folder with --to, or move that one away")


def _outdated(folder: Path, reference: str) -> Iterator[tuple[str, bytes]]:
    """The files that need to be written. The image comes last, so until then the service runs what it ran before."""
    template = files("buildtools").joinpath("templates/runit")
    for path in (*_SCRIPTS, _CONFIGURATION):
        content = template.joinpath(path).read_bytes()
        # The host decides how much of the log to keep.
        if not (folder / path).exists() or (path != _CONFIGURATION and (folder / path).read_bytes() != content):
            yield path, content
    content = f"{reference}\n".encode()
    if not (folder / _IMAGE).exists() or (folder / _IMAGE).read_bytes() != content:
        yield _IMAGE, content


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    # A watching runsvdir starts any folder whose name does not begin with a dot.
    new = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    is_new = not folder.exists()
    target = new if is_new else folder
    try:
        for path, content in contents.items():
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            # Until it is complete its name begins with a dot, and chpst ignores it.
            with replacement(file) as stream:
                stream.write(content)
                os.fchmod(stream.fileno(), 0o755 if path in _SCRIPTS else 0o644)
        if is_new:
            # Users may put secrets into it.
            (target / "env").chmod(0o700)
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
