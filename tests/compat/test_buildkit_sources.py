"""Which files a Dockerfile takes from its context: what we read out of it, against what BuildKit asks for."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from buildtools.image.engine.buildkit import attachables
from buildtools.image.engine.buildkit.control import Export, Solve, solve
from buildtools.image.engine.buildkit.filesync import Item, diff_copy, files, folder
from buildtools.image.engine.buildkit.grpc import Status
from buildtools.image.engine.buildkit.session import open_session
from buildtools.image.engine.client import Engine
from buildtools.image.folder.context import Selection, walk
from buildtools.image.folder.dockerfile import parse
from buildtools.image.folder.patterns import Patterns
from buildtools.platform import Platform
from tests.conftest import EngineService

FILES = ("a", "b", "c.txt", "d/e", "d/f", "g/h/i", "COPY", "x y")


@pytest.fixture
def connected(engine: EngineService) -> Iterator[Engine]:
    made = Engine.connect(engine.environment)
    yield made
    made.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("d")
    return tmp_path


def asked_for(engine: Engine, root: Path, dockerfile: str, target: str, **options: str) -> set[str]:
    """The paths that the engine wants of the context; a build that fails afterwards does not matter."""
    context = folder(root)
    asked: set[str] = set()

    def recorded(wanted: Selection) -> Iterator[Item]:
        if tuple(wanted.follow) != (".dockerignore",):
            asked.update(chosen(root, wanted.follow))
        return context(wanted)

    trees = {"context": recorded, "dockerfile": files({"Dockerfile": dockerfile.encode()})}
    handlers = {
        "/moby.filesync.v1.FileSync/DiffCopy": diff_copy(trees, lambda name, sent, total: None),
        **attachables.Heartbeat().handlers(),
    }
    attributes = {"filename": "Dockerfile", "target": target, **options}
    with open_session(engine, handlers, shared_key=secrets.token_hex(16)) as session, suppress(Status):
        made = solve(
            engine, Solve(session.id, attributes, Export("moby")), heard=lambda message: None, cancel=threading.Event()
        )
        with engine.errors():
            engine.api.remove_image(made["containerimage.digest"])
    return asked


def chosen(root: Path, follow: Sequence[str]) -> set[str]:
    return {entry.path for entry in walk(root, Selection(Patterns(()), follow=follow))}


@pytest.mark.parametrize(
    ("dockerfile", "target"),
    [
        ("FROM scratch\nCOPY a /\n", ""),
        ("FROM scratch\nCOPY a ./b g//h/ /x/\nADD /d /y/\n", ""),
        ("FROM scratch\nCOPY d/../a '*.txt' \"b\" /x/\n", ""),
        ("FROM scratch\nCOPY [ab] d/* ? /x/\n", ""),
        ('FROM scratch\nCOPY ["a", "x y", "/z/"]\nCOPY --chown=1:1 link/e /\n', ""),
        ("FROM scratch\nCOPY a \\\n# comment\n\n  d/\\\ne /x/\n", ""),
        ("# escape=`\nFROM scratch\nCOPY a `\n b /x/\n", ""),
        ("\ufeffFROM scratch\r\nCOPY a \\\r\n b /x/\r\n", ""),
        ("FROM scratch AS one\nCOPY a /\nFROM scratch AS two\nCOPY b /\nFROM one\nCOPY c.txt /\n", ""),
        ("FROM scratch AS one\nCOPY a /\nFROM scratch AS two\nCOPY b /\nFROM one\nCOPY c.txt /\n", "Two"),
        ("FROM scratch AS one\nCOPY a /\nFROM scratch AS two\nCOPY b /\nFROM scratch\nCOPY --from=0 /a /\n", ""),
        ("FROM scratch AS one\nCOPY a /\nFROM scratch AS two\nCOPY b /\nFROM scratch\nCOPY --from=TWO /b /\n", ""),
        ("FROM scratch AS one\nONBUILD COPY a /\nCOPY b /\nFROM one\nCOPY c.txt /\n", ""),
        ("FROM scratch AS one\nONBUILD COPY a /\nCOPY b /\nFROM one\nCOPY c.txt /\n", "one"),
        ("ARG X=one\nFROM scratch AS one\nCOPY a /\nFROM scratch AS two\nCOPY b /\nFROM ${X}\nCMD COPY c.txt /\n", ""),
        ("FROM scratch\nLABEL x=y \\\n COPY a\nENV COPY b\n", ""),
        ("FROM scratch\nCOPY . /\n", ""),
    ],
)
def test_the_same_files_are_asked_for(connected: Engine, root: Path, dockerfile: str, target: str) -> None:
    sources = parse(dockerfile.encode()).needs({}, target=target).sources
    ours = chosen(root, sources) if sources else set()
    assert asked_for(connected, root, dockerfile, target) == ours


@pytest.mark.parametrize("platform", ["", "linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm"])
@pytest.mark.parametrize(
    "argument", ["BUILDARCH", "BUILDOS", "BUILDVARIANT", "TARGETARCH", "TARGETOS", "TARGETVARIANT"]
)
def test_the_same_stage_is_chosen_by_the_platform(connected: Engine, root: Path, argument: str, platform: str) -> None:
    values = ("", "amd64", "arm64", "arm", "linux", "v6", "v7")
    stages = "".join(f"FROM scratch AS s{value}\nCOPY {file} /\n" for value, file in zip(values, FILES, strict=False))
    text = f"{stages}FROM s${{{argument}}}\n"
    target = Platform.parse(platform) if platform else connected.platform
    sources = parse(text.encode()).needs({}, platform=target, builder=connected.platform).sources
    options = {"platform": platform} if platform else {}
    assert asked_for(connected, root, text, "", **options) == chosen(root, sources)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("FROM s-${TARGETARCH}\n", {"TARGETARCH": "one"}),
        ("FROM s-${BUILDARCH}\n", {"BUILDARCH": "one"}),
        ("ARG X=two\nFROM s-${X}\n", {"X": "one"}),
        ("ARG X=two\nFROM s-${X}\n", {"X": ""}),
        ("ARG X=two\nFROM s-${X}\n", {}),
        ("ARG HTTP_PROXY=two\nFROM s-${HTTP_PROXY}\n", {"HTTP_PROXY": "one"}),
        ("ARG TARGETARCH=two\nFROM s-${TARGETARCH}\n", {}),
        ("ARG TARGETARCH=two\nFROM s-${TARGETARCH}\n", {"TARGETARCH": "one"}),
        ("FROM s-${TARGETVARIANT:-one}\n", {}),
        ("FROM s-${NEVER:-two}\n", {"NEVER": "one"}),
    ],
)
def test_the_same_stage_is_chosen_by_an_argument(
    connected: Engine, root: Path, text: str, arguments: dict[str, str]
) -> None:
    before, _, last = text.rpartition("FROM")
    stages = "FROM scratch AS s-one\nCOPY a /\nFROM scratch AS s-two\nCOPY b /\nFROM scratch AS s-\nCOPY c.txt /\n"
    text = f"{before}{stages}FROM{last}"
    sources = parse(text.encode()).needs(arguments, platform=connected.platform, builder=connected.platform).sources
    options = {f"build-arg:{name}": value for name, value in arguments.items()}
    assert asked_for(connected, root, text, "", **options) == chosen(root, sources)


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ("type=bind,source=d,target=/d", {"d", "d/e", "d/f"}),
        ("target=/d,src=/g/h", {"g", "g/h", "g/h/i"}),
        ("type=cache,target=/c", set()),
        ("type=tmpfs,target=/t", set()),
    ],
)
def test_the_same_files_are_asked_for_by_a_mount(
    connected: Engine, engine: EngineService, root: Path, mount: str, expected: set[str]
) -> None:
    dockerfile = f"FROM {engine.base_busybox}\nRUN --mount={mount} true\n"
    sources = parse(dockerfile.encode()).needs({}).sources
    assert expected == (chosen(root, sources) if sources else set())
    assert expected == asked_for(connected, root, dockerfile, "")
