"""Base images made on this machine, for when none can be pulled.

Each is kept as a tar in a cache folder and imported into the engine under a fixed name.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.events import Log, Report, unheard
from buildtools.sandbox.engine import EngineAddress
from buildtools.user_folders import cache_folder

PYTHON = "lockstep-sandbox/python:bookworm"
BUSYBOX = "lockstep-sandbox/busybox:1"
# Each program and its Debian package; only root does not need the second.
PROGRAMS = (("mmdebstrap", "mmdebstrap"), *((("newuidmap", "uidmap"),) if os.geteuid() else ()))
_PYTHON_TAR = "python-bookworm.tar"
# Debian 12 came out on 2023-06-10; no file in the image is younger.
_EPOCH = "1686355200"


def busybox(engine: EngineAddress, *, environment: Mapping[str, str]) -> str:
    """The name of an image of 2 MB with a shell and the usual programs, which is made unless the engine has it.

    :raises Refused: if Debian's package is missing.
    :raises Unreachable: if no engine answers.
    """
    return _import_image(engine, BUSYBOX, "busybox-1.tar", lambda tar: _make_busybox(tar, environment), environment)


def python(engine: EngineAddress, *, environment: Mapping[str, str], report: Report) -> str:
    """The name of an image of Debian bookworm with Python and certificates, which is made unless the engine has it.

    :raises Refused: if Debian's package is missing.
    :raises Unreachable: if no engine answers.
    :raises BuildToolsError: if mmdebstrap failed.
    """
    return _import_image(
        engine, PYTHON, _PYTHON_TAR, lambda tar: _make_python(tar, environment, report), environment, report
    )


def is_cached(environment: Mapping[str, str]) -> bool:
    """Whether the Python base image was already made on this machine."""
    return (cache_folder(environment) / _PYTHON_TAR).exists()


def _import_image(
    engine: EngineAddress,
    image: str,
    file: str,
    make: Callable[[Path], None],
    environment: Mapping[str, str],
    report: Report = unheard,
) -> str:
    if engine.has(image):
        return image
    folder = cache_folder(environment)
    folder.mkdir(parents=True, exist_ok=True)
    tar = folder / file
    with _lock(folder / f"{file}.lock"):
        if engine.has(image):
            return image
        if not tar.exists():
            partial_tar = tar.with_suffix(".making")
            make(partial_tar)
            partial_tar.replace(tar)
        report(Log("sandbox", f"import {image} from {tar}"))
        engine.import_image(image, tar)
    return image


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_busybox(tar: Path, environment: Mapping[str, str]) -> None:
    program = shutil.which("busybox", path=environment.get("PATH"))
    if not program:
        raise Refused("busybox is not installed", "`apt-get install busybox-static`")
    content = Path(program).read_bytes()
    if b"/ld-linux" in content:
        raise Refused("this busybox is linked dynamically and cannot run by itself", "`apt-get install busybox-static`")
    listing = subprocess.run([program, "--list-full"], check=True, capture_output=True, text=True)
    with tarfile.open(tar, "w") as archive:

        def add(name: str, kind: bytes, mode: int = 0o755, content: bytes = b"", link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
            archive.addfile(entry, io.BytesIO(content))

        for folder in ("bin", "etc", "root", "sbin", "usr", "usr/bin", "usr/sbin"):
            add(folder, tarfile.DIRTYPE)
        add("tmp", tarfile.DIRTYPE, 0o1777)
        add("etc/passwd", tarfile.REGTYPE, 0o644, b"root:x:0:0:root:/root:/bin/sh\n")
        add("bin/busybox", tarfile.REGTYPE, 0o755, content)
        for name in sorted({*listing.stdout.split()} - {"bin/busybox"}):
            add(name, tarfile.SYMTYPE, link="/bin/busybox")


def _make_python(tar: Path, environment: Mapping[str, str], report: Report) -> None:
    # mmdebstrap takes half of debootstrap's time, needs no root, and makes the same bytes on every machine.
    if not shutil.which("mmdebstrap", path=environment.get("PATH")):
        raise Refused("mmdebstrap is not installed", "`apt-get install mmdebstrap`")
    report(Log("sandbox", f"make {PYTHON} with mmdebstrap, once (about half a minute)"))
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,ca-certificates", "--format=tar"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{unread}/*" for unread in ("doc", "info", "locale", "man")]
    process_result = subprocess.run(
        [*command, "bookworm", str(tar), *_mirror(environment)],
        env={**environment, "SOURCE_DATE_EPOCH": _EPOCH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if process_result.returncode:
        end = "\n".join(f"  {line}" for line in process_result.stderr.splitlines()[-8:])
        raise BuildToolsError("mmdebstrap did not make a base image", f"its output ends with\n{end}")


def _mirror(environment: Mapping[str, str]) -> list[str]:
    """The Debian mirror that this machine uses; without one, mmdebstrap uses its default."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Release: bookworm"]
    try:
        sources = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        sources = ""
    return [site for site in sources.split() if "debian" in site][:1]
