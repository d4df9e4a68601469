"""The rights that docs/rights.md grants are enough, and none of them can be left out unnoticed."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from buildtools.archive.checksums import PART
from buildtools.image.registry.client import Registry
from buildtools.sandbox import process, s3
from buildtools.sandbox import registry as registries
from tests.conftest import Services
from tests.contract.registries import PASSWORD, USER, TokenService, own_registry, token_options, token_service
from tests.crypto.test_keys import make_pair
from tests.e2e.conftest import MakeProject
from tests.e2e.machine import NO_ENGINE, make_machine
from tests.e2e.project import Place, Project

pytestmark = pytest.mark.exhaustive

PAGE = Path(__file__).parent.parent.parent / "docs" / "rights.md"
RELEASE_JOB, MACHINE, PROMOTION, CLEANER = "Release job", "Machine that runs a release", "Promotion", "Cleaner"
SECRET = "a-secret-key-of-a-test"


def policy(job: str) -> dict[str, Any]:
    """The policy that the page has for a job."""
    section = PAGE.read_text().partition(f"## {job}\n")[2].partition("\n## ")[0]
    found = re.search("```json\n(.*?)```", section, re.DOTALL)
    assert found
    document: dict[str, Any] = json.loads(found[1])
    return document


def rights(job: str) -> list[str]:
    """The rights in the policy of a job."""
    return [right for statement in policy(job)["Statement"] for right in actions(statement)]


def actions(statement: Mapping[str, Any]) -> list[str]:
    listed = statement["Action"]
    return [listed] if isinstance(listed, str) else listed


def without(job: str, right: str) -> dict[str, Any]:
    """The policy of a job with one right less."""
    statements = [
        {**statement, "Action": [action for action in actions(statement) if action != right]}
        for statement in policy(job)["Statement"]
    ]
    return {"Version": "2012-10-17", "Statement": [statement for statement in statements if statement["Action"]]}


def places(job: str) -> list[tuple[str, str]]:
    """Each right in the policy of a job, with what it is granted for."""
    return [(right, each["Resource"]) for each in policy(job)["Statement"] for right in actions(each)]


def without_at(job: str, right: str, resource: str) -> dict[str, Any]:
    """The policy of a job with one right less for one resource."""
    statements = [
        {**each, "Action": [action for action in actions(each) if (action, each["Resource"]) != (right, resource)]}
        for each in policy(job)["Statement"]
    ]
    return {"Version": "2012-10-17", "Statement": [each for each in statements if each["Action"]]}


def in_bucket(document: Mapping[str, Any], bucket: str, prefix: str) -> dict[str, Any]:
    """The same policy for a bucket of the tests, where a target is another prefix."""
    statements = []
    for statement in document["Statement"]:
        text = json.dumps(statement)
        here = f"{prefix}-production/" if "production-artifacts" in text else f"{prefix}/"
        text = text.replace("production-artifacts", bucket).replace("release-artifacts", bucket)
        statements.append(json.loads(text.replace("widgets/", here)))
    return {**document, "Statement": statements}


@contextmanager
def gateway(
    folder: Path, environment: Mapping[str, str], services: Services, policies: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Another door to the S3 server of all tests, with a user for each policy, whose access key is its name."""
    ports = s3.Ports(**json.loads((services.folder / f"{s3.NAME}.ports").read_text()))
    port, grpc = process.free_ports(2)
    users = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "policyNames": [name]}
        for name in policies
    ]
    documents = [{"name": name, "content": json.dumps(document)} for name, document in policies.items()]
    (folder / "users.json").write_text(json.dumps({"identities": users, "policies": documents}))
    options = {
        "ip.bind": "127.0.0.1",
        "filer": f"127.0.0.1:{ports.filer}.{ports.filer_grpc}",
        "config": folder / "users.json",
        "port": port,
        "port.grpc": grpc,
        "port.iceberg": 0,
        "port.lance": 0,
        "localSocket": folder / "gateway.sock",
    }
    command = ["weed", "-logtostderr", "s3", *(f"-{option}={value}" for option, value in options.items())]
    process.start("gateway", command, folder, environment=environment, answers=lambda: s3.answers(port))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop("gateway", folder, seconds=0)


@dataclass(frozen=True)
class World:
    """A project whose releases are signed, its registry's token service, and a door to S3.

    ``logins`` is a folder with the registry's login, ``keys`` are the variables with the keys.
    """

    project: Project
    tokens: TokenService
    endpoint: str
    logins: Path
    keys: Mapping[str, str]

    def variables(self, user: str, *actions: str) -> dict[str, str]:
        """What makes a command that of a user, whom the registry grants these actions at most."""
        self.tokens.most = frozenset(actions)
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "DOCKER_CONFIG": str(self.logins),
            **self.keys,
        }

    def next_version(self) -> str:
        self.project.write("change", secrets.token_hex(8))
        self.project.commit("change")
        return self.project.done("version").out.strip()

    def state(self) -> dict[str, object]:
        """All tags and objects, as whoever may see all of them sees them."""
        self.tokens.most = frozenset({"pull"})
        with closing(Registry(self.project.place.registry)) as registry:
            tags = [f"{name}:{tag}" for name in self.project.folders() for tag in sorted(registry.tags(name))]
        return {"objects": self.project.place.objects(of_preflight=True), "tags": tags}


def release_all(world: World) -> None:
    """All tasks of a release job: what the other tests, which may run in any process, find released."""
    release_job = world.variables("release", "pull", "push")
    world.project.done("publish", **release_job)
    world.project.done("channel", "stage", "--to", "1.0.0", **release_job)
    # One that nothing keeps.
    world.next_version()
    world.project.done("publish", **release_job)
    world.next_version()
    world.project.tag("1.1.0")
    for command in ("publish", "verify", "history", "channel stage --to 1.1.0", "rollback stage", "channel stage"):
        world.project.done(*command.split(), **release_job)


@pytest.fixture(scope="module")
def world(
    place: Place,
    make_project_here: MakeProject,
    services: Services,
    environment: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rights")
    with token_service(folder) as tokens, own_registry(folder, environment, **token_options(tokens)) as registry:
        project = make_project_here(replace(place, registry=registry.host, login=""))
        registries.write_docker_config(folder / "docker", registry.host, USER, PASSWORD)
        project.image("app", "FROM scratch\nCOPY mark /\n", mark=project.mark)
        command = "mkdir -p build/d && cp change build/d"
        target = {
            "namespace": f"e2e/{project.mark}/production",
            "artifacts": f"s3://{place.bucket}/{project.mark}-production",
        }
        project.configure(
            distribution={project.name("daemon"): {"command": command, "root": "build/d"}},
            target={"production": target},
            sign={"key": "env:A_KEY"},
            verify_key="env:ITS_PUBLIC_KEY",
        )
        private, public = make_pair(folder, "P-256")
        project.write("change", "0")
        project.commit("all")
        project.tag("1.0.0")
        policies = {
            "release": policy(RELEASE_JOB),
            "machine": policy(MACHINE),
            "promotion": policy(PROMOTION),
            "cleaner": policy(CLEANER),
            **{f"release-but-{right}": without(RELEASE_JOB, right) for right in rights(RELEASE_JOB)},
            **{f"machine-but-{right}": without(MACHINE, right) for right in rights(MACHINE)},
            **{f"cleaner-but-{right}": without(CLEANER, right) for right in rights(CLEANER)},
            **{f"promotion-but-{at}": without_at(PROMOTION, *each) for at, each in enumerate(places(PROMOTION))},
        }
        policies = {name: in_bucket(document, place.bucket, project.mark) for name, document in policies.items()}
        with gateway(folder, environment, services, policies) as endpoint:
            keys = {"A_KEY": private.decode(), "ITS_PUBLIC_KEY": public.decode()}
            world = World(project, tokens, endpoint, folder / "docker", keys)
            release_all(world)
            yield world


def test_a_release_job_can_do_all_of_its_tasks(world: World) -> None:
    # The fixture has done them.
    versions = world.project.done("history", "--json", **world.variables("release", "pull", "push")).document["items"]
    assert {"1.0.0", "1.1.0"} < {each["version"] for each in versions if each["state"] == "released"}


def test_a_release_job_may_base_a_large_archive_on_the_last_one(world: World) -> None:
    name, place = world.project.name("daemon"), world.project.place
    large = world.project.path / "build/d/large.jar"
    large.write_bytes(Random(1).randbytes(PART + 1))
    try:
        for _ in range(2):
            version = world.next_version()
            world.project.done("publish", **world.variables("release", "pull", "push"))
            assert f"{name}-{version}.tgz" in place.read(f"{world.project.mark}/.segments/{name}.json").decode()
    finally:
        large.unlink()


def test_a_build_agent_needs_no_right_in_the_store(world: World) -> None:
    world.next_version()
    world.project.done("push", **world.variables("nobody", "pull", "push"))


# Amazon's S3 and this one let whoever began an upload take it back, so that one right is not missed.
@pytest.mark.parametrize("right", [right for right in rights(RELEASE_JOB) if right != "s3:AbortMultipartUpload"])
def test_a_release_job_with_one_right_less_is_refused_before_anything_is_written(world: World, right: str) -> None:
    version = world.next_version()
    # What a preflight leaves is there.
    before = world.state()
    outcome = world.project.invoke("publish", **world.variables(f"release-but-{right}", "pull", "push"))
    assert (2, True) == (outcome.code, f"denies {right} on s3://" in outcome.err), outcome.err
    assert before == world.state(), version


@pytest.mark.parametrize("right", ["pull", "push"])
def test_a_release_job_that_may_not_pull_or_push_is_refused(world: World, right: str) -> None:
    world.next_version()
    before = world.state()
    outcome = world.project.invoke("publish", **world.variables("release", *({"pull", "push"} - {right})))
    repository = world.project.repository("app")
    assert (2, True) == (outcome.code, f"denied, pull,push for {repository}" in outcome.err), outcome.err
    assert before == world.state()


@pytest.mark.parametrize("flags", [(), ("--oci",)])
def test_a_machine_can_do_all_of_its_tasks_and_asks_for_no_other_right(
    world: World, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    machine = make_machine(world.project, tmp_path)
    variables = world.variables("machine", "pull")
    world.tokens.asked.clear()
    world.project.forget_images()
    machine.states("1.0.0", *flags, **variables)
    for command in ("verify --release 1.0.0", "history"):
        machine.project.done(*command.split(), **variables)
    assert {"pull"} == {
        action for query in world.tokens.asked for scope in query.get("scope", ()) for action in [scope.split(":")[2]]
    }


def test_a_machine_that_may_not_read_is_refused_with_the_name_of_the_right(world: World, tmp_path: Path) -> None:
    machine = make_machine(world.project, tmp_path)
    outcome = machine.fetch("1.0.0", **NO_ENGINE, **world.variables("machine-but-s3:GetObject", "pull"))
    assert (2, True) == (outcome.code, "denies s3:GetObject on s3://" in outcome.last), outcome.err
    outcome = machine.fetch("1.0.0", "--oci", **world.variables("machine"))
    assert (2, True) == (outcome.code, f"denied, pull for {world.project.repository('app')}" in outcome.last)
    outcome = machine.project.invoke("history", **world.variables("machine-but-s3:ListBucket", "pull"))
    assert (2, True) == (outcome.code, "denies s3:ListBucket on s3://" in outcome.last), outcome.err
    assert not (machine.to / "current").exists()


def test_a_promotion_needs_no_more_than_the_page_says(world: World) -> None:
    variables = world.variables("promotion", "pull", "push")
    world.project.done("promote", "1.0.0", "--to", "production", **variables)


# Where it promotes from it lists nothing; this server says of what is absent that it is absent, without that right too.
@pytest.mark.parametrize(
    ("at", "right"),
    [
        (at, right)
        for at, (right, resource) in enumerate(places(PROMOTION))
        if right != "s3:AbortMultipartUpload" and not (right == "s3:ListBucket" and "release-artifacts" in resource)
    ],
)
def test_a_promotion_with_one_right_less_is_refused_before_anything_is_written(
    world: World, at: int, right: str
) -> None:
    before = world.project.place.objects(), world.state()["tags"]
    variables = world.variables(f"promotion-but-{at}", "pull", "push")
    outcome = world.project.invoke("promote", "1.1.0", "--to", "production", **variables)
    assert (2, True) == (outcome.code, f"denies {right} on s3://" in outcome.err), outcome.err
    assert before == (world.project.place.objects(), world.state()["tags"])


def test_a_promotion_that_may_not_push_is_refused(world: World) -> None:
    before = world.project.place.objects()
    outcome = world.project.invoke("promote", "1.1.0", "--to", "production", **world.variables("promotion", "pull"))
    assert (2, True) == (outcome.code, "denied, pull,push for" in outcome.err), outcome.err
    assert before == world.project.place.objects()


@pytest.mark.parametrize("right", rights(CLEANER))
def test_a_cleaner_with_one_right_less_is_refused_before_anything_is_deleted(world: World, right: str) -> None:
    before = world.state()
    variables = world.variables(f"cleaner-but-{right}", "pull", "delete")
    outcome = world.project.invoke("prune", "--keep", "1", "--older-than", "0", "--yes", **variables)
    assert (2, True) == (outcome.code, f"denies {right} on s3://" in outcome.last), outcome.err
    assert before == world.state()


def test_a_cleaner_that_may_not_delete_images_is_refused_before_anything_is_deleted(world: World) -> None:
    before = world.state()
    variables = world.variables("cleaner", "pull")
    outcome = world.project.invoke("prune", "--keep", "1", "--older-than", "0", "--yes", **variables)
    assert (2, True) == (outcome.code, "denied, pull,delete for" in outcome.last), outcome.err
    assert before == world.state()


def test_a_cleaner_needs_no_more_than_the_page_says(world: World) -> None:
    variables = world.variables("cleaner", "pull", "delete")
    outcome = world.project.done("prune", "--keep", "1", "--older-than", "0", "--yes", "--json", **variables)
    assert "pruned" in {item["state"] for item in outcome.document["items"]}
