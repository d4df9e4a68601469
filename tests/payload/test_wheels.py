"""Bringing in the wheels that an image folder pins."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.payload.conftest import ROOT


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder of wheels that stands in for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for version in ("1", "2"):
        with zipfile.ZipFile(folder / f"thing-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("thing.py", f"VERSION = {version}\n")
            metadata = f"Metadata-Version: 2.1\nName: thing\nVersion: {version}\n"
            wheel.writestr(f"thing-{version}.dist-info/METADATA", metadata)
            wheel.writestr(
                f"thing-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"thing-{version}.dist-info/RECORD", "")
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "image"
    folder.mkdir()
    return folder


def pin(image: Path, wheel: Path, digest: str = "") -> None:
    version = wheel.name.split("-")[1]
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    (image / "requirements.txt").write_text(f"thing=={version} --hash=sha256:{digest}\n")


def fetch(image: Path, index: Path, python: str = sys.executable) -> int:
    environment = {**os.environ, "PYTHON": python, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    done = subprocess.run([ROOT / "script/wheels", image], env=environment, check=False, capture_output=True)
    return done.returncode


def wheels(image: Path) -> list[str]:
    return sorted(wheel.name for wheel in image.glob("wheels*/*.whl"))


def test_pinned_wheels_are_brought_in_once(image: Path, index: Path) -> None:
    pin(image, index / "thing-1-py3-none-any.whl")
    assert 0 == fetch(image, index)
    assert ["thing-1-py3-none-any.whl"] == wheels(image)
    assert 0 == fetch(image, index, python="/bin/false")

    pin(image, index / "thing-2-py3-none-any.whl")
    assert 0 == fetch(image, index)
    assert ["thing-2-py3-none-any.whl"] == wheels(image)


def test_wheel_with_other_content_is_refused_and_what_was_there_stays(image: Path, index: Path) -> None:
    pin(image, index / "thing-1-py3-none-any.whl")
    assert 0 == fetch(image, index)
    pin(image, index / "thing-2-py3-none-any.whl", digest="0" * 64)
    assert 1 == fetch(image, index)
    assert ["requirements.txt", "wheels"] == sorted(path.name for path in image.iterdir())
    assert ["thing-1-py3-none-any.whl"] == wheels(image)
