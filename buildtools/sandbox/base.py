"""Base images made on this machine, for where none can be pulled.

Each is kept as a tar in a cache folder and imported into the engine under a fixed name.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from buildtools import BuildToolsError, Refused
from buildtools.events import Log, Report, unheard
from buildtools.sandbox.engine import Engine
from buildtools.sandbox.process import tail

PYTHON = "lockstep-sandbox/python:bookworm"
BUSYBOX = "lockstep-sandbox/busybox:1"
_PYTHON_TAR = "python-bookworm.tar"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where the tars are kept: https://specifications.freedesktop.org/basedir-spec/latest/."""
    given = environment.get("XDG_CACHE_HOME", "")
    root = Path(given) if given.startswith("/") else Path(environment.get("HOME") or "~").expanduser() / ".cache"
    return root / "lockstep-buildtools"


def busybox(engine: Engine, *, environment: Mapping[str, str]) -> str:
    """The name of an image of 2 MB with a shell and the usual programs, made where the engine has none.

    :raises Refused: Debian's package is missing.
    :raises Unreachable: no engine answers.
    """
    return _imported(engine, BUSYBOX, "busybox-1.tar", _make_busybox, environment, unheard)


def python(engine: Engine, *, environment: Mapping[str, str], report: Report) -> str:
    """The name of an image of Debian bookworm with Python and certificates, made where the engine has none.

    :raises Refused: this needs root, or Debian's package is missing.
    :raises Unreachable: no engine answers.
    :raises BuildToolsError: debootstrap failed.
    """
    return _imported(engine, PYTHON, _PYTHON_TAR, _make_python, environment, report)


def is_cached(environment: Mapping[str, str]) -> bool:
    """Whether the Python base image was made on this machine before."""
    return (cache_folder(environment) / _PYTHON_TAR).exists()


def _imported(
    engine: Engine,
    image: str,
    file: str,
    make: Callable[[Path, Mapping[str, str], Report], None],
    environment: Mapping[str, str],
    report: Report,
) -> str:
    if engine.has(image):
        return image
    folder = cache_folder(environment)
    folder.mkdir(parents=True, exist_ok=True)
    tar = folder / file
    with _locked(folder / f"{file}.lock"):
        if engine.has(image):
            return image
        if not tar.exists():
            made = tar.with_suffix(".making")
            make(made, environment, report)
            made.replace(tar)
        report(Log("sandbox", f"import {image} from {tar}"))
        engine.import_image(image, tar)
    return image


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_busybox(tar: Path, environment: Mapping[str, str], report: Report) -> None:
    del report
    program = shutil.which("busybox", path=environment.get("PATH"))
    if not program:
        raise Refused("busybox is not installed", "`apt-get install busybox-static`")
    content = Path(program).read_bytes()
    if b"/ld-linux" in content:
        raise Refused("this busybox is linked dynamically and cannot live alone", "`apt-get install busybox-static`")
    names = subprocess.run([program, "--list-full"], check=True, capture_output=True, text=True).stdout.split()
    with tarfile.open(tar, "w") as archive:
        for folder in ("bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "root", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
        for name in names:
            if name != "bin/busybox":
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, "/bin/busybox"
                archive.addfile(entry)
        users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size, entry.mode = len(users), 0o644
        archive.addfile(entry, io.BytesIO(users))


def _make_python(tar: Path, environment: Mapping[str, str], report: Report) -> None:
    if os.geteuid() != 0:
        raise Refused(
            f"the engine has no {PYTHON}, and only root can make it",
            "run once as root, or name another base image (build argument BASE) with Debian and Python in it",
        )
    if not shutil.which("debootstrap", path=environment.get("PATH")):
        raise Refused("debootstrap is not installed", "`apt-get install debootstrap`")
    report(Log("sandbox", f"make {PYTHON} with debootstrap, once (about a minute)"))
    with tempfile.TemporaryDirectory(prefix="lockstep-base-", dir=tar.parent) as folder:
        log, root = Path(folder) / "log", Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", "--include=python3,ca-certificates"]
        command += ["bookworm", str(root), _mirror(environment)]
        with log.open("w") as output:
            made = subprocess.run(command, env=dict(environment), stdout=output, stderr=output, check=False)
        if made.returncode:
            raise BuildToolsError("debootstrap did not make a base image", f"its output ends with\n{tail(log)}")
        for leftover in (*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")):
            leftover.unlink()
        with tarfile.open(tar, "w") as archive:
            archive.add(root, ".", filter=_without_devices)


def _mirror(environment: Mapping[str, str]) -> str:
    """Where this machine gets Debian itself from, else Debian's own address."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Release: bookworm"]
    try:
        listed = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        listed = ""
    return next((site for site in listed.split() if "debian" in site), "http://deb.debian.org/debian")


def _without_devices(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.isdev() else entry
