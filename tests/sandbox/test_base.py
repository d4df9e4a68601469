"""Base images are made once, and run."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import docker
from buildtools import Refused
from buildtools.sandbox import base
from buildtools.sandbox.engine import EngineAddress
from tests.conftest import EngineService


def test_the_busybox_image_runs(engine: EngineService) -> None:
    client = docker.DockerClient(engine.host)
    printed = client.containers.run(engine.base_busybox, ["sh", "-c", "echo $((6 * 7))"], remove=True)
    client.close()
    assert printed == b"42\n"


def test_two_at_once_make_a_base_once(engine: EngineService, tmp_path: Path) -> None:
    image, made = f"lockstep-test/base-{secrets.token_hex(6)}:1", []
    found = EngineAddress(engine.host)

    def make(tar: Path) -> None:
        made.append(tar)
        base._make_busybox(tar, {"PATH": "/usr/bin:/bin"})

    with ThreadPoolExecutor(2) as pool:
        cache = {"XDG_CACHE_HOME": str(tmp_path)}
        names = list(pool.map(lambda _: base._import_image(found, image, "one.tar", make, cache), range(2)))
    there = found.has(image)
    found.forget(image)
    assert (names, len(made), there, found.has(image)) == ([image, image], 1, True, False)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["lockstep-buildtools", "one.tar", "one.tar.lock"]


def test_the_same_busybox_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        base._make_busybox(tmp_path / name, {"PATH": "/usr/bin:/bin"})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_missing_mmdebstrap_is_named(engine: EngineService, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="apt-get install mmdebstrap"):
        base._make_python(tmp_path / "tar", {"PATH": str(tmp_path)}, lambda event: None)
