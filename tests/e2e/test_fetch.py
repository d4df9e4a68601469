"""A release is fetched to a machine that has neither a repository nor git."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildtools.image.engine.client import Engine
from tests.e2e.conftest import MakeProject
from tests.e2e.machine import NO_ENGINE, Machine, make_machine, make_releases
from tests.e2e.project import Place, Project
from tests.faults.proxy import wire_to

MAKEFILE = """all:
	mkdir -p build/daemon/bin build/agent
	echo $$BUILDTOOLS_VERSION >build/daemon/bin/daemon
	chmod +x build/daemon/bin/daemon
	ln -sf bin/daemon build/daemon/run
	echo $$BUILDTOOLS_VERSION >build/agent/agent
"""


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
def machine(released: Project, tmp_path: Path) -> Machine:
    return make_machine(released, tmp_path)


def test_archives_are_unpacked_and_images_pulled_and_again_nothing_is_done(released: Project, machine: Machine) -> None:
    released.forget_images()
    assert 4 * ["fetched"] == machine.states("1.0.0")
    assert "1.0.0" == machine.current
    daemon = machine.to / "current" / released.name("daemon")
    assert ("1.0.0\n", 0o755) == ((daemon / "run").read_text(), (daemon / "bin/daemon").stat().st_mode & 0o777)
    assert "1.0.0\n" == (machine.to / "current" / released.name("agent") / "agent").read_text()
    files, images = machine.files(), released.images()
    with closing(Engine.connect(released.place.engine.environment)) as engine:
        # Debian 13's engine does not list them, because it had the files of their layers.
        assert all(engine.inspect(released.reference(name, "1.0.0")) for name in ("app", "base"))
    assert 4 * ["already there"] == machine.states("1.0.0")
    assert (files, images) == (machine.files(), released.images())


def test_another_version_becomes_current_and_the_former_one_stays(released: Project, machine: Machine) -> None:
    machine.states("1.0.0")
    before = machine.files()
    outcome = machine.fetch("1.1.0")
    assert (0, f"1.1.0 is current in {machine.to} in place of 1.0.0: 4 fetched") == (outcome.code, outcome.last)
    assert "1.1.0" == machine.current
    kept = {path: state for path, state in before.items() if path.startswith("1.0.0")}
    assert kept.items() <= machine.files().items()
    outcome = machine.fetch("1.0.0")
    assert (0, f"1.0.0 is current in {machine.to} in place of 1.1.0: 4 already there") == (outcome.code, outcome.last)
    assert ("1.0.0\n", []) == (
        (machine.to / "current" / released.name("agent") / "agent").read_text(),
        machine.leftovers(),
    )


def test_the_folder_tells_shells_and_compose_of_the_release(released: Project, machine: Machine) -> None:
    machine.states("1.0.0", **NO_ENGINE)
    manifest = json.loads(released.place.read(f"{released.mark}/releases/1.0.0.json"))
    assert manifest == json.loads((machine.to / "current/release.json").read_text())
    for image in manifest["images"]:
        pinned = f"{image['registry']}/{image['repository']}@{image['digest']}"
        assert pinned in (machine.to / "current/compose.override.yaml").read_text()
        assert pinned in (machine.to / "current/release.env").read_text()


def test_a_channel_names_what_is_fetched(released: Project, machine: Machine) -> None:
    for version in ("1.0.0", "1.1.0"):
        released.done("channel", "stage", "--to", version)
        machine.states("stage", **NO_ENGINE)
        assert version == machine.current


def test_a_machine_without_an_engine_gets_the_archives_and_a_warning(released: Project, machine: Machine) -> None:
    outcome = machine.fetch("1.0.0", **NO_ENGINE)
    names = f"{released.name('app')}, {released.name('base')}"
    assert 0 == outcome.code
    assert f"warning: this machine has no engine for {names}; --oci writes images into files instead" in outcome.err
    assert f"1.0.0 is current in {machine.to}: 2 fetched, 2 left out" == outcome.last


def test_an_engine_that_is_there_and_does_not_answer_is_an_outage_and_no_folder_is_made(
    machine: Machine, closed: str
) -> None:
    outcome = machine.fetch("1.0.0", DOCKER_HOST=f"tcp://{closed}")
    assert (4, True) == (outcome.code, f"no engine answers at tcp://{closed}" in outcome.last)
    assert not machine.to.parent.exists()


def test_images_become_a_layout_that_skopeo_copies_with_the_same_digest(released: Project, machine: Machine) -> None:
    assert 4 * ["fetched"] == machine.states("1.0.0", "--oci", **NO_ENGINE)
    files = machine.files()
    assert 4 * ["already there"] == machine.states("1.0.0", "--oci", **NO_ENGINE)
    assert files == machine.files()
    manifest = json.loads((machine.to / "1.0.0/release.json").read_text())
    for image in manifest["images"]:
        target = machine.to.parent / image["name"]
        source = f"oci:{machine.to}/current/oci:{image['name']}"
        subprocess.run(["skopeo", "copy", "--quiet", source, f"dir:{target}"], check=True)
        digest = subprocess.run(
            ["skopeo", "manifest-digest", target / "manifest.json"], check=True, capture_output=True, text=True
        )
        assert image["digest"] == digest.stdout.strip()


def test_a_layout_can_be_loaded_into_an_engine(
    released: Project, machine: Machine, environment: Mapping[str, str]
) -> None:
    released.forget_images()
    machine.states("1.0.0", "--oci", **NO_ENGINE)
    tar = subprocess.run(["tar", "-C", machine.to / "current/oci", "-c", "."], check=True, capture_output=True).stdout
    engine = Engine.connect(released.place.engine.environment)
    with engine.errors():
        list(engine.api.load_image(tar))
    engine.close()
    assert {released.reference(name, "1.0.0") for name in ("app", "base")} == released.images().keys()


def test_a_layout_shares_blobs_with_that_of_another_version(released: Project, machine: Machine) -> None:
    machine.states("1.0.0", "--oci")
    log = machine.to.parent / "log"
    machine.states("1.1.0", "--oci", BUILDTOOLS_LOG=str(log))
    blobs = {
        version: {path.name: path.stat().st_ino for path in (machine.to / version / "oci/blobs/sha256").iterdir()}
        for version in ("1.0.0", "1.1.0")
    }
    shared = blobs["1.0.0"].keys() & blobs["1.1.0"].keys()
    assert shared
    assert {blobs["1.0.0"][name] for name in shared} == {blobs["1.1.0"][name] for name in shared}
    assert [] == [name for name in shared if name in log.read_text()]


def test_a_blob_of_another_version_that_was_damaged_is_not_shared(released: Project, machine: Machine) -> None:
    machine.states("1.0.0", "--oci")
    for path in (machine.to / "1.0.0/oci/blobs/sha256").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    machine.states("1.1.0", "--oci")
    name = f"{machine.to}/1.1.0/oci:{released.name('app')}"
    subprocess.run(["skopeo", "copy", "--quiet", f"oci:{name}", f"dir:{machine.to.parent}/copy"], check=True)


def test_a_layout_is_added_to_a_version_that_was_fetched_without(machine: Machine) -> None:
    machine.states("1.0.0")
    assert ["fetched", "fetched", "already there", "already there"] == machine.states("1.0.0", "--oci")
    assert (True, []) == ((machine.to / "current/oci/index.json").exists(), machine.leftovers())


def test_an_archive_that_was_removed_is_fetched_again(released: Project, machine: Machine) -> None:
    machine.states("1.0.0")
    (machine.to / "1.0.0" / released.name("agent") / "agent").unlink()
    (machine.to / "1.0.0" / released.name("agent")).rmdir()
    assert [*3 * ["already there"], "fetched"] == sorted(machine.states("1.0.0"))


def test_a_dry_run_says_what_would_happen_and_touches_nothing(released: Project, machine: Machine) -> None:
    released.forget_images()
    outcome = machine.fetch("1.0.0", "--dry-run")
    assert 0 == outcome.code, outcome.err
    assert ["fetched"] * 4 == [line.rpartition(" ")[2] for line in outcome.out.splitlines()[:4]]
    assert f"{machine.to}/current would lead to 1.0.0" == outcome.out.splitlines()[4]
    assert ({}, False) == (released.images(), machine.to.exists())


def test_what_cannot_be_fetched_is_refused(machine: Machine) -> None:
    assert (2, True) == ((unknown := machine.fetch("9.9.9")).code, "version 9.9.9 is not released" in unknown.last)
    assert (2, True) == ((wordless := machine.fetch("")).code, "is not a version" in wordless.last)
    nowhere = machine.project.invoke("fetch", "1.0.0")
    assert (2, "error: fetch needs a folder: say which: `invoke fetch VERSION --to DIR`") == (
        nowhere.code,
        nowhere.last,
    )
    assert not machine.to.exists()


def test_what_lies_in_the_way_is_left_alone(machine: Machine) -> None:
    (machine.to / "current").mkdir(parents=True)
    outcome = machine.fetch("1.0.0")
    assert (2, True) == (outcome.code, "current is not a symbolic link" in outcome.last)
    (machine.to / "current").rmdir()
    (machine.to / "1.0.0").mkdir()
    outcome = machine.fetch("1.0.0")
    assert (3, True) == (outcome.code, "1.0.0 holds something other than this release" in outcome.last)
    assert ["1.0.0"] == [path.name for path in machine.to.rglob("*")]
    (machine.to / "1.0.0" / "release.json").write_text("{}")
    (machine.to / "current").symlink_to("1.0.0")
    outcome = machine.project.invoke("fetch", "1.0.0", "--to", str(machine.to / "current"))
    assert (2, f"fetch into {machine.to}") == (outcome.code, outcome.last.rpartition(": ")[2])


def test_a_folder_that_cannot_be_written_is_named(machine: Machine) -> None:
    machine.to.parent.mkdir()
    machine.to.write_text("a file")
    outcome = machine.fetch("1.0.0")
    assert (1, True) == (outcome.code, f"{machine.to} cannot be written (" in outcome.last)


def test_two_at_once_end_with_one_of_both_versions_and_no_leftovers(machine: Machine) -> None:
    arguments = ("--to", str(machine.to), "--oci")
    processes = [machine.project.start("fetch", version, *arguments) for version in ("1.0.0", "1.1.0", "1.0.0")]
    assert [0, 0, 0] == [machine.project.finish(process).code for process in processes]
    assert {"1.0.0", "1.1.0", "current"} == {path.name for path in machine.to.iterdir()}
    assert machine.current in ("1.0.0", "1.1.0")


@pytest.mark.parametrize("silent", ["store", "registry"])
def test_a_signal_ends_the_wait_for_what_has_fallen_silent(
    project_in: MakeProject, place: Place, registry: str, tmp_path: Path, silent: str
) -> None:
    process: list[subprocess.Popen[str]] = []
    started, ended = threading.Event(), threading.Event()
    answered: list[bool] = []
    sizes: list[int] = []

    def fall_silent(data: bytes) -> bytes:
        sizes.append(len(data))
        # An archive of which so much has come is being unpacked.
        if (data.startswith(b"GET ") and b"/blobs/" in data) or sum(sizes) > 1 << 20:
            started.wait()
            process[0].send_signal(signal.SIGINT)
            # Whoever waits for the answer gets it in the end.
            answered.append(ended.wait(60))
        return data

    with wire_to(registry) as to_registry, wire_to(place.s3.endpoint.removeprefix("http://")) as to_store:
        machine = make_machine(project_in(replace(place, registry=to_registry.address, login="")), tmp_path)
        make_releases(machine.project, "1.0.0", "1.1.0")
        machine.states("1.0.0", "--oci")
        before = machine.tree()
        if silent == "registry":
            to_registry.sent = fall_silent
        else:
            to_store.answered = fall_silent
        fetch = ("fetch", "1.1.0", "--to", str(machine.to), "--oci")
        process.append(machine.project.start(*fetch, AWS_ENDPOINT_URL_S3=f"http://{to_store.address}"))
        started.set()
        outcome = machine.project.finish(process[0])
        ended.set()
    assert (128 + signal.SIGINT, True) == (outcome.code, outcome.last.startswith("interrupted (SIGINT)")), outcome.err
    assert False not in answered
    assert before == machine.tree()
