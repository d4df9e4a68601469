from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from buildtools import BuildToolsError, Refused
from buildtools.archive import distribution
from buildtools.archive.distribution import Distribution
from buildtools.archive.segment_cache import SegmentCache
from buildtools.command import CommandFailed
from buildtools.events import Event, Log, Transferred, unheard
from buildtools.settings import DistributionSettings
from buildtools.version import Version

VERSION = Version("1.4.2", 3, "abc1234", commit="abc1234" + "0" * 33)
TEXT = "1.4.2-3-gabc1234"
EPOCH = 1_700_000_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


def make(project: Path, environment: Mapping[str, str], version: Version = VERSION, **settings: Any) -> Distribution:
    return distribution.make(DistributionSettings(**settings), "logdaemon", project, version, environment, unheard)


def finished(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return path


def test_the_command_gets_version_and_revision_and_its_folder_is_packed(
    project: Path, environment: Mapping[str, str]
) -> None:
    made = make(
        project,
        environment,
        command='mkdir -p out/bin && echo "$BUILDTOOLS_VERSION $BUILDTOOLS_REVISION" > out/bin/daemon',
        root="out",
    )
    out = io.BytesIO()
    archive = distribution.write(made, EPOCH, out)
    assert (f"logdaemon-{TEXT}.tgz", f"logdaemon-{TEXT}") == (archive.file_name, archive.root_name)
    assert (len(out.getvalue()), hashlib.sha256(out.getvalue()).hexdigest()) == (archive.size, archive.sha256)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        content = tar.extractfile(f"logdaemon-{TEXT}/bin/daemon")
        assert content is not None
        assert f"{TEXT} {VERSION.commit}\n".encode() == content.read()


def test_the_commands_lines_are_reported_as_they_come(project: Path, environment: Mapping[str, str]) -> None:
    heard: list[Event] = []
    settings = DistributionSettings("mkdir out; touch out/a; echo one; echo two >&2; printf 'a\\351\\r\\nlast'", "out")
    distribution.make(settings, "logdaemon", project, VERSION, environment, heard.append)
    assert [Log("logdaemon", line) for line in ("one", "two", "a\ufffd", "last")] == heard


def test_a_command_that_fails_makes_no_distribution(project: Path, environment: Mapping[str, str]) -> None:
    with pytest.raises(CommandFailed, match="logdaemon: the command 'mkdir out; exit 3' ended with exit code 3"):
        make(project, environment, command="mkdir out; exit 3", root="out")


def test_a_distribution_can_be_cancelled(project: Path, environment: Mapping[str, str]) -> None:
    cancelled = threading.Event()
    cancelled.set()
    settings = DistributionSettings("sleep 600", "out")
    with pytest.raises(CommandFailed, match="cancelled"):
        distribution.make(settings, "logdaemon", project, VERSION, environment, unheard, cancelled)


@pytest.mark.parametrize(
    ("command", "fault"), [("", "does not exist"), ("touch out", "is not a folder"), ("mkdir out", "is empty")]
)
def test_a_root_that_holds_nothing_is_refused(
    project: Path, environment: Mapping[str, str], command: str, fault: str
) -> None:
    with pytest.raises(Refused, match=f"logdaemon: its root out {fault}"):
        make(project, environment, command=command, root="out")


@pytest.mark.parametrize("root", [".", "..", "dist", "link"])
def test_a_root_around_the_archives_themselves_is_refused(
    project: Path, environment: Mapping[str, str], root: str
) -> None:
    with pytest.raises(Refused, match=f"logdaemon: its root {root} holds dist/, where archives are written"):
        make(project, environment, command="mkdir dist; touch dist/file; ln -s . link", root=root)


def test_a_finished_archive_is_taken_byte_for_byte(project: Path, environment: Mapping[str, str]) -> None:
    source = finished(project / f"build/daemon-{TEXT}.tgz", f"daemon-{TEXT}/bin/daemon")
    made = make(project, environment, archive="build/*.tgz")
    out = io.BytesIO()
    archive = distribution.write(made, EPOCH, out)
    assert source.read_bytes() == out.getvalue()
    assert (f"logdaemon-{TEXT}.tgz", f"daemon-{TEXT}") == (archive.file_name, archive.root_name)


def test_archives_of_earlier_versions_may_lie_beside(project: Path, environment: Mapping[str, str]) -> None:
    finished(project / "build/daemon-1.4.2.tgz", "daemon-1.4.2/x")
    finished(project / "build/daemon-11.4.2-3-gabc1234.tgz", "daemon-11.4.2-3-gabc1234/x")
    current = finished(project / f"build/daemon-{TEXT}.tgz", f"daemon-{TEXT}/x")
    assert current == make(project, environment, archive="build/*.tgz").source


def test_a_version_with_a_character_that_no_tag_has_may_be_spelled_either_way(
    project: Path, environment: Mapping[str, str]
) -> None:
    source = finished(project / "build/daemon-1.0+7.tgz", "daemon-1.0_7/x")
    assert source == make(project, environment, Version("1.0+7"), archive="build/*.tgz").source


@pytest.mark.parametrize(
    ("file", "root", "fault"),
    [
        ("daemon-1.0.tgz", f"daemon-{TEXT}", r"the file name of daemon-1\.0\.tgz \(root folder daemon-1"),
        (f"daemon-{TEXT}.tgz", "daemon", r"the root folder of .* \(root folder daemon/\) does not"),
        ("daemon.tar.gz", "daemon", r"the file name and the root folder of daemon\.tar\.gz .* do not"),
        (f"daemon-9{TEXT}.tgz", f"daemon-{TEXT}", "the file name of"),
    ],
)
def test_an_archive_that_does_not_carry_the_version_is_refused(
    project: Path, environment: Mapping[str, str], file: str, root: str, fault: str
) -> None:
    finished(project / "build" / file, f"{root}/bin/daemon")
    with pytest.raises(Refused, match=rf"{fault}.*carry the version {TEXT}: .*BUILDTOOLS_VERSION"):
        make(project, environment, archive="build/*")


def test_several_archives_are_refused_with_a_list(project: Path, environment: Mapping[str, str]) -> None:
    for name in ("a", "b"):
        finished(project / f"build/{name}-{TEXT}.tgz", f"{name}-{TEXT}/x")
    with pytest.raises(Refused, match=rf"a-{TEXT}\.tgz\n.*b-{TEXT}\.tgz\n.*matches 2 files: set"):
        make(project, environment, archive="build/*.tgz")


def test_no_archive_at_all_is_refused(project: Path, environment: Mapping[str, str]) -> None:
    with pytest.raises(Refused, match=r"must match one archive of version .* but matches nothing"):
        make(project, environment, archive="build/*.tgz")


@pytest.mark.parametrize("extension", ["tar", "zip"])
def test_a_plain_tar_or_zip_is_refused_with_what_to_tell_gradle(
    project: Path, environment: Mapping[str, str], extension: str
) -> None:
    (project / f"daemon-{TEXT}.{extension}").touch()
    with pytest.raises(Refused, match=r"is not a \.tgz: .*compression = Compression\.GZIP; extension = 'tgz'"):
        make(project, environment, archive="daemon-*")


def test_a_saved_archive_is_the_same_and_appears_whole(project: Path, environment: Mapping[str, str]) -> None:
    made = make(project, environment, command="mkdir out; echo x > out/x", root="out")
    out = io.BytesIO()
    events: list[Event] = []
    assert distribution.write(made, EPOCH, out) == distribution.save(made, EPOCH, project / "dist", events.append)
    *_, last = [(event.done, event.total) for event in events if isinstance(event, Transferred)]
    assert last[0] == last[1] > 0
    saved = project / f"dist/logdaemon-{TEXT}.tgz"
    assert [saved] == list((project / "dist").iterdir())
    assert out.getvalue() == saved.read_bytes()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_an_archive_has_the_rights_that_the_umask_leaves(
    project: Path, tmp_path: Path, environment: Mapping[str, str], umask: int, mode: int
) -> None:
    made = make(project, environment, command="mkdir out && touch out/file", root="out")
    before = os.umask(umask)
    try:
        distribution.save(made, EPOCH, tmp_path / "dist")
    finally:
        os.umask(before)
    assert mode == (tmp_path / "dist" / made.file_name).stat().st_mode & 0o777


def test_an_archive_that_cannot_be_packed_leaves_nothing_behind(project: Path, environment: Mapping[str, str]) -> None:
    made = make(project, environment, command="mkdir out; mkfifo out/pipe", root="out")
    with pytest.raises(BuildToolsError, match="pipe is neither a file"):
        distribution.save(made, EPOCH, project / "dist")
    assert [] == list((project / "dist").iterdir())


def test_a_folder_that_cannot_be_made_is_an_error(project: Path, environment: Mapping[str, str]) -> None:
    made = make(project, environment, command="mkdir out; touch out/x dist", root="out")
    with pytest.raises(BuildToolsError, match=r"dist/logdaemon-.*\.tgz cannot be written \(File exists: .*/dist\)"):
        distribution.save(made, EPOCH, project / "dist")


def test_a_new_version_is_compressed_only_where_it_is_new(project: Path, tmp_path: Path) -> None:
    folder = project / "out/lib"
    folder.mkdir(parents=True)
    numbers = Random(5)
    for name in ("a.jar", "b.jar", "c.jar"):
        (folder / name).write_bytes(numbers.randbytes(300_000))
    cache, segments = SegmentCache(tmp_path / "segments"), tmp_path / "segments"

    def archive(version: str, cache: SegmentCache | None = None) -> bytes:
        out = io.BytesIO()
        named = Distribution("daemon", project / "out", f"daemon-{version}.tgz", f"daemon-{version}", is_archive=False)
        distribution.write(named, EPOCH, out, cache=cache)
        return out.getvalue()

    assert archive("1.0.0") == archive("1.0.0", cache)
    first = set(segments.iterdir())
    assert archive("1.1.0") == archive("1.1.0", cache)
    assert (3, first) == (len(first), set(segments.iterdir()))
    (folder / "b.jar").write_bytes(numbers.randbytes(300_000))
    assert archive("1.2.0") == archive("1.2.0", cache)
    assert 1 == len(set(segments.iterdir()) - first)
