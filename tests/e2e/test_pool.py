"""Releases that several builders work on, each with data of its own; the registry is where they meet."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildtools.platform import local_platform
from tests.conftest import EngineService
from tests.e2e.conftest import MakeProject
from tests.e2e.project import MANIFEST_KINDS, Outcome, Project
from tests.fronts import front, server_context
from tests.waiting import until

pytestmark = pytest.mark.other_engine

ROOT = Path(__file__).parents[2]
SHORT = ("base", "child", "copy", "other")


@dataclass(frozen=True)
class Builders:
    """The BuildKit of two engines behind programs that look like daemons, and can be killed."""

    addresses: tuple[str, ...]
    programs: tuple[subprocess.Popen[bytes], ...]

    @property
    def variables(self) -> dict[str, str]:
        """What makes a pool of them, of two images at once each."""
        return {"INVOKE_BUILDTOOLS_BUILDERS": ",".join(self.addresses), "INVOKE_BUILDTOOLS_JOBS": "2"}


@pytest.fixture
def builders(
    content_engine: EngineService, fresh_engine: EngineService, environment: Mapping[str, str], tmp_path: Path
) -> Iterator[Builders]:
    paths = [tmp_path / f"{number}.sock" for number in range(2)]
    command = [sys.executable, "-m", "tests.image.engine.modern_engine"]
    programs = tuple(
        subprocess.Popen(
            [*command, str(path), "--only-grpc"],
            env={**environment, **engine.environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for path, engine in zip(paths, (content_engine, fresh_engine), strict=True)
    )
    for program in programs:
        assert program.stdout
        assert b"listens\n" == program.stdout.readline()
    yield Builders(tuple(f"unix://{path}" for path in paths), programs)
    for program in programs:
        program.kill()
        program.communicate()


@pytest.fixture
def pool_project(project_in: MakeProject, registry_busybox: str) -> Project:
    """A project on an agent without an engine, whose base image is in a registry."""
    project = project_in()
    place = project.place
    variables = {**place.variables, "DOCKER_HOST": "unix:///nonexistent"}
    engine = replace(place.engine, base_busybox=registry_busybox)
    return replace(project, place=replace(place, variables=variables, engine=engine))


def manifests(project: Project, namespace: str, tag: str) -> dict[str, str]:
    """By each image, the digest that its version has."""
    heads = {
        short: project.place.request(
            "HEAD", f"{namespace}/{project.name(short)}/manifests/{tag}", Accept=MANIFEST_KINDS
        )
        for short in SHORT
    }
    return {short: headers["Docker-Content-Digest"] for short, (_, _, headers) in heads.items()}


def test_a_pool_makes_the_same_release_as_one_builder(pool_project: Project, builders: Builders) -> None:
    project = pool_project
    # No builder may have one of these layers from another test, with the times that files had there.
    project.image("base", "FROM scratch\nCOPY file /\nENV A=1\n", file=project.mark)
    project.image("child", "FROM base-{mark}\nCOPY own /\n", own=f"1 {project.mark}")
    project.image("copy", "FROM scratch\nCOPY --from=child-{mark} /own /\n")
    project.image("other", "FROM scratch\nCOPY file /\n", file=f"2 {project.mark}")
    project.commit("all")
    project.tag("1.0.0")
    assert "to be built on unix:///" in project.done("list", **builders.variables).out
    first, second = (f"e2e/{project.mark}/{name}" for name in ("one", "pool"))
    one = {"INVOKE_BUILDTOOLS_BUILDER": builders.addresses[0], "INVOKE_BUILDTOOLS_NAMESPACE": first}

    assert "4 builder" in project.done("push", **one).last
    assert "4 builder" in project.done("push", INVOKE_BUILDTOOLS_NAMESPACE=second, **builders.variables).last

    assert manifests(project, first, "1.0.0") == manifests(project, second, "1.0.0")


def test_builders_of_two_platforms_get_their_own_certificates_and_one_that_is_not_trusted_is_left_out(
    pool_project: Project, builders: Builders, tmp_path: Path
) -> None:
    project = pool_project
    for short in SHORT[:2]:
        project.image(short, "FROM scratch\nCOPY file /\n", file=f"{short} {project.mark}")
    contexts = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        contexts[name] = server_context(tmp_path / name, ["h2"])
    places = zip(builders.addresses, contexts.values(), strict=True)
    with contextlib.ExitStack() as fronts:
        first, second = (f"tcp://{fronts.enter_context(front(*place))}" for place in places)
        other = {"address": second, "platforms": ["linux/arm64"], "certificates": str(tmp_path / "two")}
        settings = {
            "builders": [first],
            "builder_certificates": str(tmp_path / "one"),
            "platforms": ["linux/amd64", "linux/arm64"],
            "pool": {"other": other},
        }
        project.configure(**settings)
        project.commit("all")
        project.tag("1.0.0")
        outcome = project.done("push")
        assert {("amd64", first), ("arm64", "other")} == {*places_of_platforms(outcome)}
        assert "2 builder" in outcome.last

        other["certificates"] = str(tmp_path / "one")
        project.configure(**settings)
        project.commit("a wrong certificate")
        outcome = project.done("push", "--no-cache")
        assert {("amd64", first), ("arm64", first)} == {*places_of_platforms(outcome)}
        assert 1 == outcome.err.count("the builder other was lost: ")
        assert "do not trust each other's certificates" in outcome.err

        (tmp_path / "two/key.pem").write_bytes((tmp_path / "one/key.pem").read_bytes())
        other["certificates"] = str(tmp_path / "two")
        project.configure(**settings)
        for task in (["check"], ["list"], ["doctor"], ["push", "--no-cache"]):
            outcome = project.invoke(*task)
            assert 2 == outcome.code
            assert f"pool.other.certificates: cert.pem and key.pem in {tmp_path / 'two'} cannot be used" in (
                outcome.err + outcome.out
            )
            assert "build started" not in outcome.err


def places_of_platforms(outcome: Outcome) -> list[tuple[str, str]]:
    """For each variant that was built, its architecture and its builder."""
    return re.findall(r"^\[.*@linux/(\w+)\] on (.*)$", outcome.err, re.MULTILINE)


def waiting_images(project: Project, seconds: int) -> None:
    """Four images that say so when they begin to wait, which a builder must do for each mark anew."""
    for short in SHORT:
        project.image(short, f"FROM {{base}}\nRUN echo begins {project.mark} {short}; sleep {seconds}\n")
    project.commit("all")
    project.tag("1.0.0")


def start(project: Project, builders: Builders) -> subprocess.Popen[str]:
    return project.start("push", stderr=subprocess.PIPE, **builders.variables)


def lines_until_all_wait(process: subprocess.Popen[str]) -> list[str]:
    """What a run has said when the last of the four images begins to wait."""
    assert process.stderr
    lines: list[str] = []
    while sum("| begins " in line for line in lines) < len(SHORT):
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    return lines


def test_what_a_killed_builder_was_building_is_built_by_the_other(pool_project: Project, builders: Builders) -> None:
    project = pool_project
    waiting_images(project, 1)
    process = start(project, builders)
    lines = lines_until_all_wait(process)
    assert [2, 2] == [sum(f"] on {address}" in line for line in lines) for address in builders.addresses]

    builders.programs[0].kill()

    outcome = project.finish(process)
    assert 0 == outcome.code, outcome.err
    assert "4 builder" in outcome.last
    assert 2 == outcome.err.count("it is built elsewhere")
    assert f"the builder {builders.addresses[0]} was lost: " in outcome.err
    assert 2 == outcome.err.count(f"] on {builders.addresses[1]}")
    assert 4 == outcome.err.count(f", on {builders.addresses[1]}\n")

    # The one that is left may be of another platform.
    project.image("copy", "FROM scratch\nCOPY file /\n", file=project.mark)
    project.commit("a change")
    project.tag("1.1.0")
    refused = project.invoke("push", **builders.variables)
    fact = f"the first builder, {builders.addresses[0]}, does not answer, and {project.name('copy')} would be built for"
    assert (4, True) == (refused.code, fact in refused.last), refused.err
    project.done("push", INVOKE_BUILDTOOLS_PLATFORM=str(local_platform()), **builders.variables)

    # A version that is there says for which one it is.
    variables = {**builders.variables, "INVOKE_BUILDTOOLS_NAMESPACE": f"e2e/{project.mark}/other"}
    copy = ("--only", project.name("copy"))
    project.done("push", *copy, INVOKE_BUILDTOOLS_PLATFORM="linux/riscv64", **variables)
    assert "1 already there" in project.done("push", *copy, **variables).last
    assert "0 images to build" in project.done("plan", *copy, **variables).last
    assert "1 up to date" in project.done("list", *copy, **variables).last
    # Of another version nobody can say that.
    project.commit("nothing that an image holds")
    project.tag("1.2.0")
    refused = project.invoke("push", *copy, **variables)
    assert (4, True) == (refused.code, fact in refused.last), refused.err
    assert "1 unknown" in project.done("list", *copy, **variables).last


@pytest.mark.exhaustive
def test_an_interrupt_ends_all_builds_on_all_builders_within_two_seconds(
    pool_project: Project, builders: Builders
) -> None:
    project = pool_project
    seconds = 1_000_000 + os.getpid()
    waiting_images(project, seconds)
    process = start(project, builders)
    lines_until_all_wait(process)
    assert 4 == sleepers(seconds)
    began = time.monotonic()

    process.send_signal(signal.SIGINT)

    outcome = project.finish(process)
    assert 2 > time.monotonic() - began
    assert 130 == outcome.code
    until(lambda: sleepers(seconds) == 0)
    assert not project.place.tags(*map(project.repository, SHORT))


@pytest.mark.exhaustive
def test_a_builder_that_falls_silent_is_given_up(pool_project: Project, builders: Builders) -> None:
    project = pool_project
    waiting_images(project, 3)
    process = start(project, builders)
    lines_until_all_wait(process)
    builders.programs[1].send_signal(signal.SIGSTOP)
    outcome = project.finish(process)
    assert "4 builder" in outcome.last
    assert "has not said anything for 60 s" in outcome.err


@pytest.mark.exhaustive
def test_without_any_builder_it_is_an_outage(pool_project: Project, builders: Builders) -> None:
    project = pool_project
    waiting_images(project, 0)
    for program in builders.programs:
        program.kill()
    outcome = project.invoke("push", **builders.variables)
    assert 4 == outcome.code
    assert "error: no builder is left (no BuildKit daemon answers at " in outcome.last


@pytest.mark.exhaustive
def test_two_projects_use_one_pool_at_once_and_each_keeps_to_its_jobs(
    pool_project: Project, project_in: MakeProject, builders: Builders
) -> None:
    other = project_in(pool_project.place)
    projects = (pool_project, other)
    for project in projects:
        waiting_images(project, 2)
    one_at_a_time = {**builders.variables, "INVOKE_BUILDTOOLS_JOBS": "1"}
    processes = [project.start("push", stderr=subprocess.PIPE, **one_at_a_time) for project in projects]
    outcomes = [project.finish(process) for project, process in zip(projects, processes, strict=True)]
    for outcome in outcomes:
        assert "4 builder" in outcome.last
        assert 2 == most_at_once(outcome.err.splitlines())


def most_at_once(lines: list[str]) -> int:
    """On how many images at once all builders have worked for one run."""
    at_work: set[str] = set()
    most = 0
    for name, _, text in (line.partition("] ") for line in lines):
        if text.startswith("on unix://"):
            at_work.add(name)
        if text.startswith("build done"):
            at_work.remove(name)
        most = max(most, len(at_work))
    return most


def test_a_secret_goes_to_the_builder_of_the_image_that_names_it_alone(
    pool_project: Project, builders: Builders
) -> None:
    project = pool_project
    token = f"word-{project.mark}"
    step = "RUN --mount=type=secret,id=token test -s /run/secrets/token"
    project.image("base", f"FROM {{base}}\n{step}\n")
    project.image("other", f"FROM {{base}}\n{step}; test $? = 1; echo {project.mark} has none\n")
    project.configure(image={project.name("base"): {"secrets": {"token": "env:TOKEN"}}})
    project.commit("all")
    project.tag("1.0.0")
    sent = [bytearray(), bytearray()]
    with contextlib.ExitStack() as fronts:
        places = zip(builders.addresses, sent, strict=True)
        addresses = [f"tcp://{fronts.enter_context(front(place, received=each))}" for place, each in places]
        variables = {"INVOKE_BUILDTOOLS_BUILDERS": ",".join(addresses), "INVOKE_BUILDTOOLS_JOBS": "1"}
        outcome = project.done("build", TOKEN=token, **variables)
    # Each builder had one of the two images.
    assert {*addresses} == {line.rpartition("] on ")[2] for line in outcome.err.splitlines() if "] on " in line}
    assert [0, 1] == sorted(each.count(token.encode()) for each in sent)
    assert f"[{project.name('other')}] | {project.mark} has none" in outcome.err
    assert token not in outcome.err


def sleepers(seconds: int) -> int:
    """How many programs sleep for exactly so long, on this machine, where the containers of its engines run too."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += path.read_bytes().endswith(f"sleep\0{seconds}\0".encode())
        except OSError:
            continue
    return count
