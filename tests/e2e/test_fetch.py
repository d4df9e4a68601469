"""A release is fetched to a machine that has neither a repository nor git."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeProject
from tests.e2e.project import Outcome, Project

NO_ENGINE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
MAKEFILE = """all:
	mkdir -p build/daemon/bin build/agent
	echo $$BUILDTOOLS_VERSION >build/daemon/bin/daemon
	chmod +x build/daemon/bin/daemon
	ln -sf bin/daemon build/daemon/run
	echo $$BUILDTOOLS_VERSION >build/agent/agent
"""


@dataclass(frozen=True)
class Host:
    """A machine that runs a project's releases: a folder with the configuration, and one that it fetches into."""

    project: Project
    to: Path

    def fetch(self, version: str, *flags: str, **variables: str) -> Outcome:
        # No program is needed, git least of all.
        return self.project.invoke("fetch", version, "--to", str(self.to), *flags, PATH="/nonexistent", **variables)

    def states(self, version: str, *flags: str, **variables: str) -> list[str]:
        """What became of each member, images first."""
        outcome = self.fetch(version, *flags, "--json", **variables)
        assert 0 == outcome.code, outcome.err
        return [member["state"] for member in outcome.document["members"]]

    @property
    def current(self) -> str:
        return str((self.to / "current").readlink())

    def files(self) -> dict[str, tuple[int, int, str]]:
        """Everything there is, and what would tell that it was written again."""
        return {
            str(path.relative_to(self.to)): (path.lstat().st_ino, path.lstat().st_mtime_ns, content(path))
            for path in [self.to, *self.to.rglob("*")]
        }

    def tree(self) -> dict[str, str]:
        """Everything there is."""
        return {path: text for path, (_, _, text) in self.files().items()}

    def leftovers(self) -> list[str]:
        return [path.name for path in self.to.iterdir() if path.name.startswith(".")]


def content(path: Path) -> str:
    return str(path.readlink()) if path.is_symlink() else path.read_text("latin-1") if path.is_file() else ""


@pytest.fixture(scope="module")
def released(make_project_here: MakeProject) -> Project:
    """A project with two releases of two images and two archives."""
    project = make_project_here()
    project.image("base", "FROM scratch\nCOPY data /\n", data=project.mark)
    project.image("app", "FROM base-{mark}\nCOPY app /\n", app="0")
    project.write("Makefile", MAKEFILE)
    project.configure(
        distribution={project.name(name): {"command": "make", "root": f"build/{name}"} for name in ("agent", "daemon")}
    )
    for version in ("1.0.0", "1.1.0"):
        project.write(f"src/docker/{project.name('app')}/app", version)
        project.commit(version)
        project.tag(version)
        project.done("publish")
    return project


@pytest.fixture
def host(released: Project, tmp_path: Path) -> Host:
    return make_host(released, tmp_path)


def make_host(project: Project, folder: Path) -> Host:
    (folder / "host").mkdir()
    (folder / "home").mkdir()
    for name in ("pyproject.toml", "tasks.py"):
        (folder / "host" / name).write_bytes((project.path / name).read_bytes())
    return Host(replace(project, path=folder / "host", home=folder / "home"), folder / "srv" / "widgets")


def test_archives_are_unpacked_and_images_pulled_and_again_nothing_is_done(released: Project, host: Host) -> None:
    released.forget_images()
    assert 4 * ["fetched"] == host.states("1.0.0")
    assert "1.0.0" == host.current
    daemon = host.to / "current" / released.name("daemon")
    assert ("1.0.0\n", 0o755) == ((daemon / "run").read_text(), (daemon / "bin/daemon").stat().st_mode & 0o777)
    assert "1.0.0\n" == (host.to / "current" / released.name("agent") / "agent").read_text()
    images = released.images()
    assert {released.reference(name, "1.0.0") for name in ("app", "base")} == images.keys()
    files = host.files()
    assert 4 * ["already there"] == host.states("1.0.0")
    assert (files, images) == (host.files(), released.images())


def test_another_version_becomes_current_and_the_former_one_stays(released: Project, host: Host) -> None:
    host.states("1.0.0")
    before = host.files()
    outcome = host.fetch("1.1.0")
    assert (0, f"1.1.0 is current in {host.to} in place of 1.0.0: 4 fetched") == (outcome.code, outcome.last)
    assert "1.1.0" == host.current
    kept = {path: state for path, state in before.items() if path.startswith("1.0.0")}
    assert kept.items() <= host.files().items()
    outcome = host.fetch("1.0.0")
    assert (0, f"1.0.0 is current in {host.to} in place of 1.1.0: 4 already there") == (outcome.code, outcome.last)
    assert ("1.0.0\n", []) == (
        (host.to / "current" / released.name("agent") / "agent").read_text(),
        host.leftovers(),
    )


def test_the_folder_tells_shells_and_compose_of_the_release(released: Project, host: Host) -> None:
    host.states("1.0.0", **NO_ENGINE)
    manifest = json.loads(released.place.read(f"{released.mark}/releases/1.0.0.json"))
    assert manifest == json.loads((host.to / "current/release.json").read_text())
    for image in manifest["images"]:
        pinned = f"{image['registry']}/{image['repository']}@{image['digest']}"
        assert pinned in (host.to / "current/compose.override.yaml").read_text()
        assert pinned in (host.to / "current/release.env").read_text()


def test_a_channel_names_what_is_fetched(released: Project, host: Host) -> None:
    for version in ("1.0.0", "1.1.0"):
        released.done("channel", "stage", "--to", version)
        host.states("stage", **NO_ENGINE)
        assert version == host.current


def test_a_machine_without_an_engine_gets_the_archives_and_a_warning(released: Project, host: Host) -> None:
    outcome = host.fetch("1.0.0", **NO_ENGINE)
    names = f"{released.name('app')}, {released.name('base')}"
    assert 0 == outcome.code
    assert f"warning: this machine has no engine for {names}; --oci writes images into files instead" in outcome.err
    assert f"1.0.0 is current in {host.to}: 2 fetched, 2 left out" == outcome.last


def test_an_engine_that_is_there_and_does_not_answer_is_an_outage(host: Host, closed: str) -> None:
    outcome = host.fetch("1.0.0", DOCKER_HOST=f"tcp://{closed}")
    assert (4, True) == (outcome.code, f"no engine answers at tcp://{closed}" in outcome.last)
    assert not (host.to / "current").exists()


def test_images_become_a_layout_that_skopeo_copies_with_the_same_digest(released: Project, host: Host) -> None:
    assert 4 * ["fetched"] == host.states("1.0.0", "--oci", **NO_ENGINE)
    files = host.files()
    assert 4 * ["already there"] == host.states("1.0.0", "--oci", **NO_ENGINE)
    assert files == host.files()
    manifest = json.loads((host.to / "1.0.0/release.json").read_text())
    for image in manifest["images"]:
        target = host.to.parent / image["name"]
        source = f"oci:{host.to}/current/oci:{image['name']}"
        subprocess.run(["skopeo", "copy", "--quiet", source, f"dir:{target}"], check=True)
        digest = subprocess.run(
            ["skopeo", "manifest-digest", target / "manifest.json"], check=True, capture_output=True, text=True
        )
        assert image["digest"] == digest.stdout.strip()


def test_a_layout_can_be_loaded_into_an_engine(released: Project, host: Host, environment: Mapping[str, str]) -> None:
    from buildtools.image.engine.client import Engine

    released.forget_images()
    host.states("1.0.0", "--oci", **NO_ENGINE)
    tar = subprocess.run(["tar", "-C", host.to / "current/oci", "-c", "."], check=True, capture_output=True).stdout
    engine = Engine.connect(released.place.engine.environment)
    with engine.errors():
        list(engine.api.load_image(tar))
    engine.close()
    assert {released.reference(name, "1.0.0") for name in ("app", "base")} == released.images().keys()


def test_a_layout_shares_blobs_with_that_of_another_version(released: Project, host: Host) -> None:
    host.states("1.0.0", "--oci")
    log = host.to.parent / "log"
    host.states("1.1.0", "--oci", BUILDTOOLS_LOG=str(log))
    blobs = {
        version: {path.name: path.stat().st_ino for path in (host.to / version / "oci/blobs/sha256").iterdir()}
        for version in ("1.0.0", "1.1.0")
    }
    shared = blobs["1.0.0"].keys() & blobs["1.1.0"].keys()
    assert shared
    assert {blobs["1.0.0"][name] for name in shared} == {blobs["1.1.0"][name] for name in shared}
    assert [] == [name for name in shared if name in log.read_text()]


def test_a_blob_of_another_version_that_was_damaged_is_not_shared(released: Project, host: Host) -> None:
    host.states("1.0.0", "--oci")
    for path in (host.to / "1.0.0/oci/blobs/sha256").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    host.states("1.1.0", "--oci")
    name = f"{host.to}/1.1.0/oci:{released.name('app')}"
    subprocess.run(["skopeo", "copy", "--quiet", f"oci:{name}", f"dir:{host.to.parent}/copy"], check=True)


def test_a_layout_is_added_to_a_version_that_was_fetched_without(host: Host) -> None:
    host.states("1.0.0")
    assert ["fetched", "fetched", "already there", "already there"] == host.states("1.0.0", "--oci")
    assert (True, []) == ((host.to / "current/oci/index.json").exists(), host.leftovers())


def test_an_archive_that_was_removed_is_fetched_again(released: Project, host: Host) -> None:
    host.states("1.0.0")
    (host.to / "1.0.0" / released.name("agent") / "agent").unlink()
    (host.to / "1.0.0" / released.name("agent")).rmdir()
    assert [*3 * ["already there"], "fetched"] == sorted(host.states("1.0.0"))


def test_a_dry_run_says_what_would_happen_and_touches_nothing(released: Project, host: Host) -> None:
    released.forget_images()
    outcome = host.fetch("1.0.0", "--dry-run")
    assert 0 == outcome.code, outcome.err
    assert ["fetched"] * 4 == [line.rpartition(" ")[2] for line in outcome.out.splitlines()[:4]]
    assert f"{host.to}/current would lead to 1.0.0" == outcome.out.splitlines()[4]
    assert ({}, False) == (released.images(), host.to.exists())


def test_what_cannot_be_fetched_is_refused(host: Host) -> None:
    assert (2, True) == ((unknown := host.fetch("9.9.9")).code, "version 9.9.9 is not released" in unknown.last)
    assert (2, True) == ((wordless := host.fetch("")).code, "is not a version" in wordless.last)
    nowhere = host.project.invoke("fetch", "1.0.0")
    assert (2, "error: fetch needs a folder: say which: `invoke fetch VERSION --to DIR`") == (
        nowhere.code,
        nowhere.last,
    )
    assert not host.to.exists()


def test_what_lies_in_the_way_is_left_alone(host: Host) -> None:
    (host.to / "current").mkdir(parents=True)
    outcome = host.fetch("1.0.0")
    assert (2, True) == (outcome.code, "current is not a symbolic link" in outcome.last)
    (host.to / "current").rmdir()
    (host.to / "1.0.0").mkdir()
    outcome = host.fetch("1.0.0")
    assert (3, True) == (outcome.code, "1.0.0 holds something else than this release" in outcome.last)
    assert ["1.0.0"] == [path.name for path in host.to.rglob("*")]


def test_a_folder_that_cannot_be_written_is_named(host: Host) -> None:
    host.to.parent.mkdir()
    host.to.write_text("a file")
    outcome = host.fetch("1.0.0")
    assert (1, True) == (outcome.code, f"{host.to} cannot be written (" in outcome.last)


def test_two_at_once_end_with_one_of_both_versions_and_no_leftovers(host: Host) -> None:
    arguments = ("--to", str(host.to), "--oci")
    processes = [host.project.start("fetch", version, *arguments) for version in ("1.0.0", "1.1.0", "1.0.0")]
    assert [0, 0, 0] == [host.project.finish(process).code for process in processes]
    assert {"1.0.0", "1.1.0", "current"} == {path.name for path in host.to.iterdir()}
    assert host.current in ("1.0.0", "1.1.0")
