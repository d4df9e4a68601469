"""``stage``: a version tried out in a stack of its own, with the Compose that is installed, and nothing of it left."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from buildtools.events import unheard
from buildtools.sandbox import base
from buildtools.sandbox import engine as engines
from buildtools.stages.trial import trial_prefix
from tests.conftest import EngineService
from tests.e2e.conftest import MakeProject
from tests.e2e.project import Outcome, Place, Project
from tests.payload.conftest import require
from tests.waiting import until

ROOT = Path(__file__).parent.parent.parent
DATABASE = """\
FROM {base}
COPY mark /
CMD ["sh", "-c", "echo starting; sleep 0.6; touch /tmp/ready; echo ready; exec httpd -f -p 27017 -h /etc"]
HEALTHCHECK --interval=0.2s --retries=50 CMD test -e /tmp/ready
"""
# Needs the database when it starts, and finds it by its name and by the variables that a link would have set.
APPLICATION = """\
FROM {base}
COPY mark /www/
CMD ["sh", "-c", "wget -qO /dev/null http://$DATABASE_PORT_27017_TCP_ADDR:$DATABASE_PORT_27017_TCP_PORT/passwd || \
exit 9; wget -qO /dev/null http://db:27017/passwd || exit 8; exec httpd -f -p 8080 -h /www"]
HEALTHCHECK --interval=0.2s --retries=50 CMD wget -qO /dev/null http://127.0.0.1:8080/mark
"""
SMOKE = """\
python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())' \
http://$APP_PORT_8080_TCP_ADDR:$APP_PORT_8080_TCP_PORT/mark; echo of $VERSION"""


def stack(project: Project, **changes: dict[str, Any]) -> str:
    """A compose file, which as JSON is YAML too."""
    services: dict[str, dict[str, Any]] = {
        "database": {"image": f"${{IMAGE_DATABASE_{project.mark.upper()}}}", "volumes": ["data:/data"]},
        "app": {
            "image": f"${{IMAGE_APP_{project.mark.upper()}}}",
            "links": ["database:db"],
            "environment": {"DATABASE_PORT_27017_TCP_ADDR": "database", "DATABASE_PORT_27017_TCP_PORT": "27017"},
            "ports": ["8080"],
            "depends_on": {"database": {"condition": "service_healthy"}},
        },
    }
    for name, change in changes.items():
        services[name] |= change
    return json.dumps({"services": services, "volumes": {"data": {}}}, indent=1)


def configure(project: Project, smoke: str = SMOKE, timeout: float = 60) -> None:
    target = {"namespace": f"e2e/{project.mark}/live", "artifacts": f"s3://{project.place.bucket}/{project.mark}-live"}
    project.configure(
        stage={"smoke": smoke, "timeout": timeout}, target={"production": {**target, "requires": ["stage"]}}
    )


@pytest.fixture(scope="module")
def released(make_project_here: MakeProject) -> Project:
    """A project with a released version, whose stack is a slow database and what needs it."""
    require("docker-compose")
    project = make_project_here()
    project.image("database", DATABASE, mark=project.mark)
    project.image("app", APPLICATION, mark=project.mark)
    configure(project)
    project.commit("first")
    project.tag("1.0.0")
    project.done("publish")
    return project


@pytest.fixture
def staged(released: Project) -> Iterator[Project]:
    """The same, with its stack as it should be; a test may leave nothing of a stack."""
    (released.path / "compose.yaml").write_text(stack(released))
    configure(released)
    yield released
    assert [] == parts(released)


def parts(project: Project) -> list[str]:
    """The containers, networks and volumes of this project's trials, as the reference client lists them."""
    lists = (
        ["ps", "--all", "--format", "{{.Names}}"],
        ["network", "ls", "--format", "{{.Name}}"],
        ["volume", "ls", "-q"],
    )
    names = [name for words in lists for name in docker(project, *words)]
    return [name for name in names if name.startswith(trial_prefix(project.path))]


def docker(project: Project, *arguments: str) -> list[str]:
    """The lines that the reference client prints."""
    done = subprocess.run(
        ["/usr/bin/docker", *arguments], env=project.environment(), check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def result(project: Project) -> Any:
    """What the last trial kept."""
    return json.loads((project.path / "dist/stage/result.json").read_text())


def stage(project: Project, code: int, *flags: str, **variables: str) -> Outcome:
    """Try the released version out, which must end so."""
    outcome = project.invoke("stage", "--release", "1.0.0", *flags, **variables)
    assert code == outcome.code, outcome.err
    return outcome


def test_a_release_passes_and_may_be_promoted_only_then(staged: Project) -> None:
    closed = staged.invoke("promote", "1.0.0", "--to", "production")
    fact = (
        "error: 1.0.0 may not be promoted to production: it has not passed the gate: run `invoke stage --release 1.0.0`"
    )
    assert (2, f"{fact} first") == (closed.code, closed.last)
    passed = stage(staged, 0, "--json", "--junit", "dist/stage.xml")
    assert passed.last.startswith("1.0.0 passed: 2 services and the smoke command; `promote` may rely on it; logs in ")
    digests = {
        short: f"{staged.place.registry}/{path}@{staged.place.digest(path, '1.0.0')}"
        for short in ("app", "database")
        for path in (staged.repository(short),)
    }
    document = passed.document
    assert [(name, "healthy", digests[name]) for name in ("app", "database")] == [
        (each["name"], each["state"], each["image"]) for each in document["services"]
    ]
    assert (0, True, True) == (document["smoke"], document["passed"], document["released"])
    assert document == result(staged)
    kept = {path.name: path.read_text() for path in (staged.path / "dist/stage").iterdir()}
    assert {"app.log", "database.log", "result.json", "smoke.log"} == kept.keys()
    assert ("starting\nready\n", f"{staged.mark}\nof 1.0.0\n") == (kept["database.log"], kept["smoke.log"])
    suite = ElementTree.parse(staged.path / "dist/stage.xml").getroot()
    assert {"stack", "app", "database", "smoke", "stage"} <= {case.attrib["name"] for case in suite}
    promoted = staged.done("promote", "1.0.0", "--to", "production")
    assert promoted.last.startswith("1.0.0 promoted to production: 2 images")


@pytest.mark.exhaustive
def test_an_unhealthy_service_fails_the_version_and_is_named_with_what_it_says(staged: Project) -> None:
    check = {"test": "echo no data; exit 3", "interval": "0.2s", "retries": 1}
    (staged.path / "compose.yaml").write_text(stack(staged, database={"healthcheck": check}))
    failed = stage(staged, 1, "--junit", "dist/stage.xml")
    fact = "error: the stack is not healthy: database is unhealthy (exit code 3: no data): see the logs in dist/stage"
    assert (fact, True) == (failed.last, "  | database: starting" in failed.err)
    assert (None, False) == (result(staged)["smoke"], result(staged)["passed"])
    assert "starting" in (staged.path / "dist/stage/database.log").read_text()
    cases = ElementTree.parse(staged.path / "dist/stage.xml").getroot()
    assert "stage" in [case.attrib["name"] for case in cases if case.find("failure") is not None]


@pytest.mark.exhaustive
def test_a_service_that_never_becomes_healthy_is_given_up_when_its_time_is_over(staged: Project) -> None:
    configure(staged, timeout=3)
    check = {"test": "exit 3", "interval": "0.2s", "retries": 1000}
    (staged.path / "compose.yaml").write_text(stack(staged, database={"healthcheck": check}))
    fact = "error: the stack is not healthy after 3 s: database has not become healthy yet: see the logs in dist/stage"
    assert fact == stage(staged, 1).last


@pytest.mark.exhaustive
def test_a_failed_smoke_command_fails_the_version(staged: Project) -> None:
    configure(staged, smoke="echo broken; exit 7")
    failed = stage(staged, 1)
    fact = "error: smoke: the command 'echo broken; exit 7' ended with exit code 7"
    assert f"{fact}: fix what its last lines above report" == failed.last
    kept = result(staged)
    assert (7, False, 2) == (kept["smoke"], kept["passed"], len(kept["services"]))
    configure(staged, smoke="$BUILDTOOLS_COMPOSE kill app")
    assert "not healthy after the smoke command: app ended with exit code 137: see" in stage(staged, 1).last
    assert (0, False) == (result(staged)["smoke"], result(staged)["passed"])
    configure(staged, smoke="sleep 600", timeout=30)
    assert "did not end within 30 s: see dist/stage/smoke.log" in stage(staged, 1).last


@pytest.mark.exhaustive
def test_a_port_that_is_taken_is_told_with_the_way_out(staged: Project) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        (staged.path / "compose.yaml").write_text(stack(staged, database={"ports": [f"{port}:27017"]}))
        failed = stage(staged, 1)
    assert failed.last.startswith("error: the stack is not healthy: database did not start (")
    assert failed.last.endswith('give no port of the host (`ports: ["8080"]`), and the engine takes a free one')


@pytest.mark.exhaustive
def test_a_container_name_that_is_taken_is_told_with_the_way_out(staged: Project) -> None:
    name = f"taken-{staged.mark}"
    docker(staged, "create", "--name", name, staged.place.engine.base_busybox, "true")
    try:
        (staged.path / "compose.yaml").write_text(stack(staged, database={"container_name": name}))
        failed = stage(staged, 1)
    finally:
        docker(staged, "rm", name)
    fact = "error: another container has the name of one of the stack: give no `container_name`, so that each trial"
    assert failed.last.startswith(fact)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("smoke", ["sleep 600", ""])
def test_a_killed_trial_is_removed_at_once_or_by_the_next(staged: Project, number: signal.Signals, smoke: str) -> None:
    # Killed while the smoke command runs; or while the database starts, which then takes for ever.
    configure(staged, smoke=smoke)
    slow = {} if smoke else {"healthcheck": {"test": "exit 1", "interval": "0.2s", "retries": 1000}}
    (staged.path / "compose.yaml").write_text(stack(staged, database=slow))
    process = staged.start("stage", "--release", "1.0.0")
    until(lambda: len([name for name in running(staged) if "app" in name or not smoke]) == 1)
    process.send_signal(number)
    outcome = staged.finish(process)
    assert (outcome.code in (-signal.SIGKILL, 128 + number), bool(parts(staged))) == (True, number is signal.SIGKILL)
    if number is signal.SIGKILL:
        configure(staged)
        (staged.path / "compose.yaml").write_text(stack(staged))
        assert "which a killed trial has left" in stage(staged, 0).err
    else:
        assert ("interrupted", False) == (result(staged)["error"], result(staged)["passed"])
    assert [] == [*(staged.path / "dist").glob(".stage-*")]


@pytest.mark.exhaustive
def test_clean_shows_and_removes_the_stack_of_a_killed_trial_and_of_no_other(staged: Project) -> None:
    configure(staged, smoke="sleep 600")
    killed = staged.start("stage", "--release", "1.0.0")
    until(lambda: len([name for name in running(staged) if "app" in name]) == 1)
    assert [] == stacks(staged, "--yes")
    killed.kill()
    staged.finish(killed)
    left = parts(staged)
    (name,) = stacks(staged)
    assert (left, True) == (parts(staged), left[0].startswith(name))
    at_work = staged.start("stage", "--release", "1.0.0")
    # The next trial removes it too; whoever comes second finds nothing to do.
    assert stacks(staged, "--yes") in ([name], [])
    until(lambda: len([each for each in running(staged) if "app" in each]) == 1)
    at_work.terminate()
    assert 128 + signal.SIGTERM == staged.finish(at_work).code
    assert [] == [*(staged.path / "dist").glob(".stage-*")]


def stacks(project: Project, *flags: str) -> list[str]:
    """The stacks that ``clean`` shows or removes."""
    items = project.done("clean", "--json", *flags).document["items"]
    return [each["name"] for each in items if each["kind"] == "stack"]


def running(project: Project) -> list[str]:
    """The names of the containers of this project's trials that run."""
    names = docker(project, "ps", "--format", "{{.Names}}")
    return [name for name in names if name.startswith(trial_prefix(project.path))]


@pytest.fixture
def plugin(place: Place, tmp_path: Path) -> dict[str, str]:
    """What makes Debian 13's Compose, which is the docker program's plug-in, the one that is installed."""
    root = subprocess.check_output([ROOT / "script/unpacked", "trixie", "docker-compose"], text=True).strip()
    configuration = json.loads((Path(place.variables["DOCKER_CONFIG"]) / "config.json").read_text())
    configuration["cliPluginsExtraDirs"] = [f"{root}/usr/libexec/docker/cli-plugins"]
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    return {"DOCKER_CONFIG": str(tmp_path)}


@pytest.mark.exhaustive
def test_the_plugin_is_compose_where_it_is_installed(staged: Project, plugin: dict[str, str]) -> None:
    configure(staged, smoke=f"{SMOKE}; echo $BUILDTOOLS_COMPOSE; $BUILDTOOLS_COMPOSE exec -T app cat /www/mark")
    assert "[stack] |  Container stage-" in stage(staged, 0, **plugin).err
    kept = (staged.path / "dist/stage/smoke.log").read_text()
    assert f"{staged.mark}\nof 1.0.0\ndocker compose\n{staged.mark}\n" == kept
    check = {"test": "echo no data; exit 3", "interval": "0.2s", "retries": 1}
    with socket.create_server(("0.0.0.0", 0)) as taken:
        ports = {"ports": [f"{taken.getsockname()[1]}:27017"]}
        facts: dict[str, dict[str, Any]] = {
            "is unhealthy (exit code 3: no data)": {"healthcheck": check},
            "did not start (": ports,
        }
        for fact, change in facts.items():
            (staged.path / "compose.yaml").write_text(stack(staged, database=change))
            assert f"error: the stack is not healthy: database {fact}" in stage(staged, 1, **plugin).last


@pytest.mark.exhaustive
def test_two_trials_at_once_leave_each_other_alone(staged: Project) -> None:
    both = [staged.start("stage", "--release", "1.0.0") for _ in range(2)]
    outcomes = [staged.finish(process) for process in both]
    assert [0, 0] == [outcome.code for outcome in outcomes], outcomes
    assert [] == [outcome.err for outcome in outcomes if "which a killed trial has left" in outcome.err]
    assert result(staged)["passed"]


@pytest.mark.exhaustive
@pytest.mark.images_in_engine
def test_what_a_checkout_has_built_is_tried_out_without_a_release(project: Project) -> None:
    project.image("database", DATABASE, mark=project.mark)
    project.image("app", APPLICATION, mark=project.mark)
    configure(project)
    project.write("compose.yaml", stack(project))
    project.commit("first")
    project.tag("1.0.0")
    nothing = project.invoke("stage")
    assert (2, True) == (nothing.code, "not all images of 1.0.0 are built: run `invoke build` first" in nothing.last)
    project.done("push")
    built = project.done("stage", "--json")
    assert built.last.startswith("1.0.0 passed: 2 services and the smoke command; not recorded: only what --release")
    ids = {project.images()[f"{project.name(short)}:1.0.0"] for short in ("app", "database")}
    assert ids == {each["image"] for each in built.document["services"]}
    # What a builder elsewhere has pushed is in no engine here.
    project.forget_images()
    pushed = project.done("stage", "--json").document
    assert {True} == {each["image"].startswith(f"{project.place.registry}/e2e/") for each in pushed["services"]}
    assert (False, []) == (pushed["released"], parts(project))


@pytest.mark.exhaustive
@pytest.mark.images_in_engine
def test_this_repository_stands_its_own_gate(
    project: Project, engine: EngineService, environment: dict[str, str]
) -> None:
    own = replace(project, path=project.home / "own")
    project.git("clone", "--quiet", str(ROOT), str(own.path))
    python = base.python(engines.EngineAddress.named(engine.environment), environment=environment, report=unheard)
    # The images have names that others have too.
    own.tag(f"1.0.0-x{project.mark}")
    own.write("invoke.yaml", json.dumps({"buildtools": {"args": {"BASE": python}}}))
    own.done("build")
    passed = own.done("stage")
    assert " passed: 2 services and the smoke command; not recorded: " in passed.last
    assert '[smoke] | [{"n": 1}, {"n": 2}]' in passed.err
    # The uploader tells of the rows a moment after they are there, which may be too late.
    logs = {"bigquery.log", "loguploader.log", "smoke.log"}
    assert {*logs, "result.json"} == {path.name for path in (own.path / "dist/stage").iterdir()}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("app", "last"),
    [
        ({"image": "{base}", "command": "true"}, None),
        ({"image": "{own}:latest", "command": "true"}, "write `image: ${IMAGE_APP_"),
        ({"image": "{base}", "oddity": 1}, "fix what it reports above"),
    ],
)
def test_a_stack_that_is_not_of_this_version_is_refused(staged: Project, app: dict[str, Any], last: str | None) -> None:
    own = f"{staged.place.registry}/{staged.repository('app')}"
    docker(staged, "tag", staged.place.engine.base_busybox, f"{own}:latest")
    image = app["image"].format(base=staged.place.engine.base_busybox, own=own)
    database = {} if last else {"image": staged.place.engine.base_busybox, "command": "true"}
    (staged.path / "compose.yaml").write_text(stack(staged, app={**app, "image": image}, database=database))
    refused = stage(staged, 2)
    assert (last or "call a service ") in refused.last


@pytest.mark.exhaustive
def test_a_missing_file_a_missing_compose_and_an_ambiguous_target_are_refused(staged: Project, tmp_path: Path) -> None:
    (staged.path / "compose.yaml").unlink()
    assert stage(staged, 2).last.startswith(f"error: {staged.path}/compose.yaml is not there: name the stack's files")
    (staged.path / "compose.yaml").write_text(stack(staged))
    well = staged.invoke("doctor", "--json", "--dry-run").document["diagnoses"]
    assert [("ok", "docker-compose")] == [
        (each["health"], each["fact"]) for each in well if each["subject"] == "compose"
    ]
    bare = staged.invoke("stage", "--release", "1.0.0", PATH=str(tmp_path))
    assert (2, True) == (bare.code, "neither `docker compose` nor docker-compose is installed" in bare.last)
    planned = stage(staged, 0, "--dry-run")
    assert ("dry run: nothing was touched", 2) == (planned.last, planned.out.count("would be tried out"))
    staged.configure(target={"stage": {"artifacts": f"s3://{staged.place.bucket}/{staged.mark}-stage"}})
    assert "has the same name as the gate of `invoke stage`: rename that target" in stage(staged, 2).last
