"""What makes an image stale, and only that."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildtools.image.folder.contents import Contents
from buildtools.image.folder.fingerprint import Fingerprint, explain, folder_fingerprint, record_inputs, recorded_inputs
from buildtools.image.folder.folders import image_folders
from buildtools.settings import ImageSettings, Settings
from buildtools.version import Version

DOCKERFILES = {
    "base": "ARG OUTSIDE=debian:12\nFROM ${OUTSIDE}\nCOPY app /app\nCOPY *.conf /etc/\n",
    # Takes everything, and has the version as an input.
    "middle": "FROM base\nARG VERSION\nCOPY . /all\n",
    # Mentions the version only to name its parent.
    "lean": "ARG VERSION\nARG REGISTRY\nFROM ${REGISTRY}/base:${VERSION}\nRUN --mount=type=secret,id=s x\n",
    "tool": "FROM scratch AS unused\nARG REVISION\nCOPY . /\nFROM busybox\nARG COLOUR=red\nCOPY tool.sh /\n",
    "leaf": "FROM middle\nCOPY --from=tool /tool.sh /\n",
    "alone": "FROM scratch\nADD app/deep /\n",
}
ALL = frozenset(DOCKERFILES)
ABOVE_BASE = {"base", "middle", "lean", "leaf"}


def much_later() -> int:
    return time.time_ns() + 3600 * 10**9


@dataclass
class World:
    """A project on disk, and what is given from outside; each step changes one thing in it."""

    root: Path
    version: str = "1.0"
    commit: str = "c0"
    arguments: dict[str, str] = field(default_factory=dict)
    image: dict[str, ImageSettings] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=lambda: {"debian:12": "a", "busybox": "b", "debian:13": "a"})
    count: int = 0

    def __post_init__(self) -> None:
        for name, text in DOCKERFILES.items():
            folder = self.path(name)
            (folder / "app" / "deep").mkdir(parents=True)
            (folder / "Dockerfile").write_text(text)
            (folder / ".dockerignore").write_text("Dockerfile\n.dockerignore\n**/*.pyc\n")
            for file in ("app/main.py", "app/deep/x", "app/deep/y", "app/main.pyc", "tool.sh", "a.conf", "other"):
                (folder / file).write_text("000000")
                (folder / file).chmod(0o644)
            (folder / "app" / "link").symlink_to("target0")

    def path(self, name: str) -> Path:
        return self.root / "src" / "docker" / name

    def fingerprints(self) -> dict[str, Fingerprint]:
        configured = Settings(self.root, registry="r:5000", args=self.arguments, image=self.image)
        made: dict[str, Fingerprint] = {}
        with Contents(self.root / ".cache", clock=much_later) as contents:
            for folder in image_folders(configured, Version(self.version, commit=self.commit)):
                made[folder.name] = folder_fingerprint(folder, parents=made, bases=self.bases, contents=contents)
        return made

    def new(self) -> str:
        self.count += 1
        return f"{self.count:06}"


def same_size_and_time(world: World, file: Path) -> None:
    before, data = file.stat(), world.new()
    while file.stat().st_ctime_ns == before.st_ctime_ns:
        file.write_text(data)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def content(name: str, file: str) -> Callable[[World], None]:
    return lambda world: same_size_and_time(world, world.path(name) / file)


def mode(name: str, file: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        path = world.path(name) / file
        path.chmod(path.stat().st_mode ^ 0o100 if path.is_file() else path.stat().st_mode ^ 0o007)

    return change


def link(name: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        path = world.path(name) / "app" / "link"
        path.unlink()
        path.symlink_to(f"target{world.new()}")

    return change


def touch(name: str, file: str) -> Callable[[World], None]:
    return lambda world: os.utime(world.path(name) / file, (1, 1 + int(world.new())))


def add(name: str, folder: str, suffix: str = "") -> Callable[[World], None]:
    return lambda world: (world.path(name) / folder / f"{world.new()}{suffix}").touch()


def rename(name: str, file: str) -> Callable[[World], None]:
    """Twice in a row it is back where it was; either way the set of paths changes."""

    def change(world: World) -> None:
        path, other = world.path(name) / file, world.path(name) / f"{file}.renamed"
        if path.exists():
            path.rename(other)
        else:
            other.rename(path)

    return change


def dockerfile(name: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        (world.path(name) / "Dockerfile").write_text(f"{DOCKERFILES[name]}# {world.new()}\n")

    return change


def argument(key: str) -> Callable[[World], None]:
    return lambda world: world.arguments.update({key: world.new()})


def base(reference: str) -> Callable[[World], None]:
    return lambda world: world.bases.update({reference: world.new()})


def version(world: World) -> None:
    world.version = world.new()


def commit(world: World) -> None:
    world.commit = world.new()


def other_tag_of_the_same_base(world: World) -> None:
    world.bases["debian:13"] = world.bases["debian:12"]
    world.arguments["OUTSIDE"] = "debian:13"


def secret(world: World) -> None:
    world.image["lean"] = ImageSettings(secrets={"s": f"env:{world.new()}"}, ssh=True, rebuild_after=float(world.count))


def label(world: World) -> None:
    world.image["tool"] = ImageSettings(labels={"x": world.new()})


STEPS: dict[str, tuple[Callable[[World], None], set[str] | frozenset[str]]] = {
    "content of a file that base takes": (content("base", "app/main.py"), ABOVE_BASE),
    "content deeper": (content("base", "app/deep/x"), ABOVE_BASE),
    "content of a file that a glob takes": (content("base", "a.conf"), ABOVE_BASE),
    "content of a file that base does not take": (content("base", "other"), set()),
    "content of an ignored file": (content("middle", "app/main.pyc"), set()),
    "a new ignored file": (add("middle", "app", ".pyc"), set()),
    "content of any other file of middle": (content("middle", "other"), {"middle", "leaf"}),
    "content of the tool": (content("tool", "tool.sh"), {"tool", "leaf"}),
    "content that only an unused stage takes": (content("tool", "other"), set()),
    "content in a leaf that takes nothing": (content("leaf", "other"), set()),
    "mode of a file": (mode("base", "app/main.py"), ABOVE_BASE),
    "mode of a folder that is taken": (mode("base", "app/deep"), ABOVE_BASE),
    "mode of a folder on the way": (mode("alone", "app"), set()),
    "mode of the context itself": (mode("middle", ""), set()),
    "target of a link": (link("base"), ABOVE_BASE),
    "target of a link that is not taken": (link("tool"), set()),
    "time of a file": (touch("base", "app/main.py"), set()),
    "time of a folder": (touch("middle", "app"), set()),
    "a new file": (add("base", "app"), ABOVE_BASE),
    "a new file elsewhere": (add("base", ""), set()),
    "a file under another name": (rename("base", "app/deep/y"), ABOVE_BASE),
    "a Dockerfile": (dockerfile("middle"), {"middle", "leaf"}),
    "the Dockerfile of a leaf": (dockerfile("leaf"), {"leaf"}),
    "the version": (version, {"middle", "leaf"}),
    "the commit, which no stage in use declares": (commit, set()),
    "an argument": (argument("COLOUR"), {"tool", "leaf"}),
    "an argument that nobody declares": (argument("SHAPE"), set()),
    "the digest of a base": (base("busybox"), {"tool", "leaf"}),
    "the digest of an image that nobody uses": (base("alpine"), set()),
    "another tag of the same base": (other_tag_of_the_same_base, set()),
    "a secret": (secret, set()),
    "a label": (label, {"tool", "leaf"}),
}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=8))
def test_each_change_makes_exactly_the_right_images_stale(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        before = world.fingerprints()
        for step in steps:
            change, expected = STEPS[step]
            change(world)
            after = world.fingerprints()
            stale = {name for name in ALL if before[name].value != after[name].value}
            assert (step, expected) == (step, stale)
            explained = {name for name in ALL if explain(before[name].inputs, after[name].inputs)}
            assert (step, stale) == (step, explained)
            before = after


@pytest.mark.parametrize("step", sorted(STEPS))
def test_one_change_makes_exactly_the_right_images_stale(tmp_path: Path, step: str) -> None:
    world = World(tmp_path)
    before = world.fingerprints()
    assert before == world.fingerprints()
    change, expected = STEPS[step]
    change(world)
    after = world.fingerprints()
    assert expected == {name for name in ALL if before[name].value != after[name].value}


def test_an_extended_attribute_counts(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = world.fingerprints()
    try:
        os.setxattr(world.path("alone") / "app" / "deep" / "x", "user.x", b"1")
    except OSError as error:
        pytest.skip(f"this file system has no extended attributes ({error})")
    after = world.fingerprints()
    assert {"alone"} == {name for name in ALL if before[name].value != after[name].value}


def test_the_place_of_a_project_makes_no_difference(tmp_path: Path) -> None:
    assert World(tmp_path / "a").fingerprints() == World(tmp_path / "b").fingerprints()


def reasons(world: World, name: str, change: Callable[[World], None]) -> tuple[str, ...]:
    before = world.fingerprints()[name].inputs
    change(world)
    return explain(before, world.fingerprints()[name].inputs)


def test_a_change_is_explained(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert ("context: app/main.py changed",) == reasons(world, "base", content("base", "app/main.py"))
    assert ("context: app/main.py changed its mode 644 -> 744",) == reasons(world, "base", mode("base", "app/main.py"))
    assert ("parent base changed",) == reasons(world, "lean", content("base", "app/main.py"))
    assert ("argument VERSION 1.0 -> 000003",) == reasons(world, "middle", version)
    assert ("argument COLOUR added",) == reasons(world, "tool", argument("COLOUR"))
    assert ("argument COLOUR changed",) == reasons(world, "tool", argument("COLOUR"))
    assert ("dockerfile changed",) == reasons(world, "leaf", dockerfile("leaf"))
    assert ("base busybox changed",) == reasons(world, "tool", base("busybox"))
    assert ("context: app/deep/x removed, app/deep/x.renamed added",) == reasons(
        world, "base", rename("base", "app/deep/x")
    )

    def many(world: World) -> None:
        for number in range(7):
            (world.path("base") / "app" / f"n\n{number}").touch()

    assert ("context: 'app/n\\n0' added, 'app/n\\n1' added, 'app/n\\n2' added, 'app/n\\n3' added, "
            "'app/n\\n4' added and 2 more",) == reasons(world, "base", many)  # fmt: skip


def test_configured_values_are_not_told(tmp_path: Path) -> None:
    world = World(tmp_path, arguments={"COLOUR": "hunter2"})
    assert "hunter2" not in repr(world.fingerprints()["tool"])


def test_a_base_without_a_digest_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, bases={})
    unknown: Mapping[str, tuple[str, ...]] = {name: made.unknown for name, made in world.fingerprints().items()}
    assert ("debian:12",) == unknown["base"]
    assert ("debian:12", "busybox") == unknown["leaf"]
    assert () == unknown["alone"]


def test_the_platform_of_a_base_counts_in_every_stage(tmp_path: Path) -> None:
    world = World(tmp_path)
    text = "ARG P\nFROM --platform=${P} busybox AS a\nFROM busybox\nCOPY --from=a / /\n"
    (world.path("tool") / "Dockerfile").write_text(text)
    world.arguments["P"] = "linux/arm64"
    assert ("base busybox changed",) == reasons(world, "tool", lambda world: world.arguments.update(P="linux/arm/v7"))


def test_triggers_of_an_image_from_outside_count(tmp_path: Path) -> None:
    world = World(tmp_path)
    (folder,) = image_folders(Settings(tmp_path), None, ["base"])
    with Contents(tmp_path / ".cache") as contents:

        def made(triggers: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
            return frozenset(
                folder_fingerprint(folder, parents={}, bases=world.bases, contents=contents, triggers=triggers).inputs
            )

        added = made({"debian:12": ("COPY other /",)}) - made({})
    assert {"context other"} == added


def test_inputs_are_recorded_with_the_fingerprint_they_made(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = world.fingerprints()["base"]
    assert recorded_inputs(tmp_path / "cache", "base", made.value) is None
    record_inputs(tmp_path / "cache", "base", made, 1.5)
    assert made.inputs == recorded_inputs(tmp_path / "cache", "base", made.value)
    assert recorded_inputs(tmp_path / "cache", "base", "another") is None


def test_a_damaged_record_is_ignored(tmp_path: Path) -> None:
    made = World(tmp_path).fingerprints()["base"]
    record_inputs(tmp_path / "cache", "base", made, 1.5)
    (record,) = (tmp_path / "cache" / "inputs").iterdir()
    record.write_text(record.read_text().replace("app/main.py", "app/mine.py"))
    assert recorded_inputs(tmp_path / "cache", "base", made.value) is None
    record.write_text("[]")
    assert recorded_inputs(tmp_path / "cache", "base", made.value) is None
