"""What the fingerprint notices also reaches the engine, whose own comparison of files is coarser."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools.image.builder import BuildRequest
from buildtools.image.docker.credentials import Credentials
from buildtools.image.engine.build import build
from buildtools.image.engine.offer import SessionOffer
from buildtools.image.engine.sessions import Sessions
from buildtools.image.folder.contents import Contents
from buildtools.image.folder.context import Selection
from buildtools.image.folder.fingerprint import folder_fingerprint
from buildtools.image.folder.folders import image_folders
from buildtools.image.folder.patterns import Patterns
from buildtools.request_log import LOGGER
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


def test_variants_that_are_built_at_the_same_time_share_a_session(
    builder: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = builder.folder("FROM scratch\n", a="a", b="b" * 100)
    caplog.set_level("DEBUG", LOGGER)
    credentials, sessions = Credentials(builder.docker_config, builder.environment), Sessions()
    request = BuildRequest("app", folder, folder / "Dockerfile", (), selection=Selection(Patterns(()), follow=(".",)))

    def layers(name: str, platform: str, content: bytes) -> list[str]:
        variant = replace(request, platform=platform, content=content, tags=(f"{builder.prefix}/{name}:1",))
        image = build(
            builder.engine,
            variant,
            credentials=credentials,
            environment=builder.environment,
            report=builder.events.append,
            cancel=threading.Event(),
            sessions=sessions,
        )
        found: list[str] = (builder.engine.inspect(image.image_id) or {})["RootFS"]["Layers"]
        return found

    # The one that is slower than all others.
    with sessions.join(builder.engine, SessionOffer(request, credentials, builder.environment)):
        intel = layers("intel", "linux/amd64", b"FROM scratch\nCOPY b /\n")
        arm = layers("arm", "linux/arm64", b"FROM scratch\nCOPY b /\n")
        other = layers("risc", "linux/riscv64", b"FROM scratch\nCOPY a b /\n")
    calls = [record.getMessage().split(",")[0] for record in caplog.records if "Sync/DiffCopy" in record.getMessage()]
    assert intel == arm
    assert intel != other
    # The Dockerfile, the context, the other Dockerfile.
    assert 3 == len(calls)
