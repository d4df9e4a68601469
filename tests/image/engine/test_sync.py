"""What the fingerprint notices also reaches the engine, whose own comparison of files is coarser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildtools.image.folder.contents import Contents
from buildtools.image.folder.fingerprint import folder_fingerprint
from buildtools.image.folder.folders import image_folders
from buildtools.settings import Settings
from tests.image.building import Builder

DOCKERFILE = "FROM BASE\nARG SALT\nCOPY d /d\nRUN cat /d/file && stat -c %a /d/sub\n"


@pytest.fixture
def folder(builder: Builder) -> Path:
    made = builder.folder(DOCKERFILE, name="src/docker/app", **{"d/file": "old\n", "d/sub/x": ""})
    (made / "d" / "sub").chmod(0o755)
    return made


def built(builder: Builder, folder: Path) -> list[str]:
    """What the RUN of this build printed; nothing where it was cached."""
    (found,) = image_folders(Settings(builder.root), None)
    with Contents(builder.root / "cache") as contents:
        made = folder_fingerprint(found, parents={}, bases={}, contents=contents)
    before = len(builder.output())
    builder.build(folder, no_cache=False, directories=made.directories, args={"SALT": builder.prefix})
    return builder.output()[before:]


def test_content_under_the_same_size_and_time_is_sent(builder: Builder, folder: Path) -> None:
    (folder / "d" / "file").write_text("one\n")
    built(builder, folder)
    before = (folder / "d" / "file").stat()
    (folder / "d" / "file").write_text("two\n")
    os.utime(folder / "d" / "file", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ["two", "755"] == built(builder, folder)
    assert [] == built(builder, folder)


def test_another_mode_of_a_directory_is_sent(builder: Builder, folder: Path) -> None:
    built(builder, folder)
    (folder / "d" / "sub").chmod(0o711)
    assert ["old", "711"] == built(builder, folder)
