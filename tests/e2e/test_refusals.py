"""Bad input: one message that says the fact and the next step, the right exit code, and nothing half done."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from buildtools.sandbox.process import free_ports
from tests.e2e.project import Project


@dataclass(frozen=True)
class Bad:
    """What is done to a good project, the command then run, and how it must end; ``{…}`` are the project's words."""

    spoil: Callable[[Project], object]
    command: str
    code: int
    last: str
    details: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    builds: bool = False


def nothing(project: Project) -> None:
    pass


def without_git(project: Project) -> None:
    shutil.rmtree(project.path / ".git")


def without_commit(project: Project) -> None:
    without_git(project)
    project.git("init", "--quiet")


def without_tag(project: Project) -> None:
    project.git("tag", "--delete", "1.0.0")
    project.tag("2.0.0", lightweight=True)


def without_images(project: Project) -> None:
    shutil.rmtree(project.path / "src")


def without_dockerfile(project: Project) -> None:
    project.write("src/docker/other/data.txt")


def on_a_lost_base(project: Project) -> None:
    project.write("src/docker/other/Dockerfile", f"# on what is gone\nFROM {CLOSED}/gone:1\n")


def badly_named(project: Project) -> None:
    project.write("src/docker/MyApp/Dockerfile", "FROM scratch\n")


def misconfigured_everywhere(project: Project) -> None:
    project.configure(regstry="x", image={project.name("app"): {"contxt": "."}}, jobs="many")
    project.write("invoke.yaml", "buildtools:\n  name-space: x\n")


def without_registry(project: Project) -> None:
    project.write("pyproject.toml", "")


def shallow(project: Project) -> None:
    project.commit("one more")
    project.commit("and one")
    project.git("clone", "--quiet", "--depth", "1", f"file://{project.path}", str(project.home / "shallow"))
    shutil.rmtree(project.path / ".git")
    (project.home / "shallow/.git").rename(project.path / ".git")


def dirty(project: Project) -> None:
    project.write("src/docker/" + project.name("app") + "/Dockerfile", "FROM scratch\nCOPY tasks.txt /\n")


def without_bucket(project: Project) -> None:
    project.configure(artifacts=f"s3://absent-{project.mark}/x")
    project.commit("elsewhere")
    project.tag("1.0.1")


def wrong_login(project: Project) -> None:
    login = base64.b64encode(b"sandbox:wrong").decode()
    (project.home / ".docker").mkdir()
    (project.home / ".docker/config.json").write_text(json.dumps({"auths": {project.place.registry: {"auth": login}}}))


def with_archive(command: str, archive: str = "build/*.tgz") -> Callable[[Project], object]:
    def spoil(project: Project) -> None:
        name = project.name("daemon")
        project.configure(distribution={name: {"command": command.replace("NAME", name), "archive": archive}})
        project.commit("a distribution")
        project.tag("1.0.1")

    return spoil


def pack(name: str, root: str) -> str:
    return f"mkdir -p build/{root}/bin && touch build/{root}/bin/x && tar -C build -czf build/{name}.tgz {root}"


CLOSED = f"127.0.0.1:{free_ports(1)[0]}"
PULLS_NOT = "its registry does not tell what" if "BUILDKIT_HOST" in os.environ else "the engine cannot pull"
CASES = {
    "no git repository": Bad(without_git, "publish", 2, "/repository is in no git repository: run this inside a clone"),
    "no git repository, version": Bad(
        without_git, "version", 2, "/repository is in no git repository: run this inside a clone"
    ),
    "no commit": Bad(without_commit, "version", 2, "error: there is no commit yet: make one, then a tag"),
    "no annotated tag": Bad(
        without_tag,
        "version",
        2,
        "error: no annotated tag is reachable from HEAD (2.0.0 is a lightweight one): make one",
    ),
    "no images folder": Bad(without_images, "build", 2, "error: src/docker does not exist: make one folder per image"),
    "no Dockerfile": Bad(without_dockerfile, "build", 2, "error: no Dockerfile: src/docker/other/Dockerfile: write it"),
    "a base image out of reach": Bad(
        on_a_lost_base,
        "build",
        4,
        f"error: src/docker/other/Dockerfile line 2: {PULLS_NOT} {CLOSED}/gone:1",
        builds=True,
    ),
    "an upper-case name": Bad(badly_named, "list", 2, "src/docker/MyApp: rename it, for example to myapp"),
    "unknown keys in three places": Bad(
        misconfigured_everywhere,
        "build",
        2,
        "error: invalid configuration (5 errors): fix the errors above",
        (
            "pyproject.toml line 5: unknown key regstry (did you mean registry?)",
            "pyproject.toml line 9: unknown key image.{app}.contxt (did you mean image.{app}.context?)",
            "pyproject.toml line 6: jobs must be a whole number from 0 to 1000000, not 'many'",
            "invoke.yaml line 2: unknown key name-space (did you mean namespace?)",
            "environment: unknown key artefacts (did you mean artifacts?)",
        ),
        {"INVOKE_BUILDTOOLS_ARTEFACTS": "s3://x"},
    ),
    "no registry configured": Bad(without_registry, "push", 2, "error: no registry is configured: set registry ="),
    "nothing configured to publish to": Bad(
        without_registry,
        "publish --allow-dirty",
        2,
        "error: preflight failed (2 errors), one reason: no registry is configured: fix the errors above and run again",
        ("no registry is configured: ", "artifacts is not configured: "),
    ),
    "an unknown image": Bad(nothing, "build --only ap-{mark}", 2, "unknown image: ap-{mark}: did you mean {app}?"),
    "an unknown image to explain": Bad(nothing, "list --why nothing", 2, "unknown image: nothing: "),
    "jobs that are not a number": Bad(
        nothing, "build --jobs many", 2, "error: --jobs many is not a whole number, 1 or more: "
    ),
    "no jobs at all": Bad(nothing, "build --jobs -1", 2, "error: --jobs -1 is not a whole number, 1 or more: "),
    "an unknown way of progress": Bad(
        nothing, "build --progress fancy", 2, "error: --progress fancy is unknown: use one of"
    ),
    "no engine, build": Bad(
        nothing,
        "build",
        4,
        "error: no engine answers at unix:///nonexistent/docker.sock",
        (),
        {"DOCKER_HOST": "unix:///nonexistent/docker.sock"},
    ),
    "no engine, publish of what must be built": Bad(
        nothing,
        "publish",
        4,
        "error: no engine answers at unix:///nonexistent/docker.sock",
        (),
        {"DOCKER_HOST": "unix:///nonexistent/docker.sock"},
    ),
    "a DOCKER_HOST that is not an address": Bad(
        nothing, "build", 2, "error: DOCKER_HOST=nonsense:// cannot be used", (), {"DOCKER_HOST": "nonsense://"}
    ),
    "a login that is refused": Bad(
        wrong_login, "push", 2, "error: access to registry {registry} denied", (), {"DOCKER_CONFIG": ""}
    ),
    "no login": Bad(
        nothing, "publish", 2, "error: access to registry {registry} denied", (), {"DOCKER_CONFIG": "/nonexistent"}
    ),
    "no bucket": Bad(without_bucket, "publish", 2, "error: bucket absent-{mark} does not exist at "),
    "wrong keys": Bad(nothing, "publish", 2, "AWS_SECRET_ACCESS_KEY", (), {"AWS_SECRET_ACCESS_KEY": "wrong"}),
    "S3 down": Bad(
        nothing, "publish", 4, f"error: {CLOSED} cannot be reached", (), {"AWS_ENDPOINT_URL_S3": f"http://{CLOSED}"}
    ),
    "the registry down": Bad(
        nothing,
        "push",
        4,
        f"error: the registry {CLOSED} cannot be reached",
        (),
        {"INVOKE_BUILDTOOLS_REGISTRY": CLOSED},
    ),
    "all of it down": Bad(
        nothing,
        "publish",
        4,
        f"error: preflight failed (2 errors), one reason: the registry {CLOSED} cannot be reached",
        (f"the registry {CLOSED} cannot be reached", f"\n{CLOSED} cannot be reached"),
        {"INVOKE_BUILDTOOLS_REGISTRY": CLOSED, "AWS_ENDPOINT_URL_S3": f"http://{CLOSED}"},
    ),
    "an archive without the version in its name": Bad(
        with_archive(pack("daemon", "NAME-$BUILDTOOLS_VERSION")), "dist", 2, "the file name of daemon.tgz"
    ),
    "an archive without the version in its root": Bad(
        with_archive(pack("NAME-$BUILDTOOLS_VERSION", "daemon")),
        "publish",
        2,
        "the root folder of {daemon}-1.0.1.tgz (root folder daemon/) does not carry the version 1.0.1",
        builds=True,
    ),
    "no archive": Bad(with_archive("true"), "dist", 2, "must match one archive of version 1.0.1, but matches nothing"),
    "a distribution that fails": Bad(
        with_archive("echo broken; exit 3"), "publish", 1, "ended with exit code 3", ("  | broken",), builds=True
    ),
    "a shallow clone": Bad(shallow, "version", 2, "error: this clone is shallow"),
    "a dirty tree": Bad(dirty, "publish", 2, "error: the tree is dirty (src/docker/{app}/Dockerfile): commit or stash"),
    "a version that is not released": Bad(
        nothing, "verify --release 9.9.9", 2, "error: version 9.9.9 is not released: s3://"
    ),
    "a version that is not one": Bad(nothing, "verify --release -9", 2, "-9"),
    "a date that is not one": Bad(
        nothing, "publish", 2, "error: SOURCE_DATE_EPOCH is 'today'", (), {"SOURCE_DATE_EPOCH": "today"}
    ),
    "a date after all calendars": Bad(
        nothing, "publish", 2, f"error: SOURCE_DATE_EPOCH is '{10**15}'", (), {"SOURCE_DATE_EPOCH": str(10**15)}
    ),
}


def released(project: Project) -> tuple[list[str], list[str]]:
    """The names of versions in registry and store; a fingerprint in the registry is not one."""
    return [tag for tag in project.place.tags(*project.folders()) if ":fp-" not in tag], [*project.place.objects()]


def _case(name: str, bad: Bad) -> Any:
    return pytest.param(bad, id=name, marks=[pytest.mark.images_in_engine] if "DOCKER_HOST" in bad.variables else [])


@pytest.mark.parametrize("bad", [_case(*pair) for pair in CASES.items()])
def test_bad_input_is_one_message_and_an_exit_code(project: Project, bad: Bad) -> None:
    project.image("app", "FROM {base}\nCOPY mark /\n", mark=project.mark)
    project.commit("good")
    project.tag("1.0.0")
    bad.spoil(project)
    words = {
        "mark": project.mark,
        "app": project.name("app"),
        "daemon": project.name("daemon"),
        "registry": project.place.registry,
    }
    before = released(project)
    outcome = project.invoke(*bad.command.format(**words).split(), **bad.variables)
    assert (bad.code, True) == (outcome.code, bad.last.format(**words) in outcome.last), outcome.err
    assert outcome.last.startswith("error: ")
    assert [] == [line for line in bad.details if line.format(**words) not in outcome.err]
    assert ("", before) == (outcome.out, released(project))
    assert bad.builds or not project.images()


@pytest.mark.parametrize("command", ["version", "list", "build", "push", "publish", "verify", "dist"])
def test_a_failure_is_a_document_too_where_one_is_asked_for(project: Project, command: str) -> None:
    project.image("app", "RUN before any FROM\n")
    project.configure(jobs="many")
    project.commit("bad")
    outcome = project.invoke(command, "--json")
    assert outcome.code == outcome.document["error"]["exit_code"] == 2
    error = outcome.document["error"]
    assert outcome.last == f"error: {error['fact']}: {error['remedy']}"


@pytest.mark.parametrize(
    ("name", "content", "subject"),
    [
        ("invoke.yaml", "{", "invoke.yaml"),
        ("invoke.yaml", "7", "invoke.yaml"),
        ("invoke.yaml", "tasks: 5", "invoke.yaml"),
        ("invoke.yml", "a: !!python/name:os.system", "invoke.yml"),
        ("invoke.json", "[]", "invoke.json"),
        ("invoke.json", "", "invoke.json"),
        ("invoke.yaml", "buildtools: {jobs: 3}", "a variable INVOKE_… that overrides a value of invoke.yaml"),
    ],
)
def test_a_file_that_invoke_fails_at_is_refused(project: Project, name: str, content: str, subject: str) -> None:
    project.write(name, content)
    outcome = project.invoke("version", INVOKE_BUILDTOOLS_JOBS="many")
    assert (2, "") == (outcome.code, outcome.out)
    assert outcome.last.startswith(f"error: Invoke cannot use {subject} (")


@pytest.mark.parametrize(("name", "content"), [("invoke.yaml", ""), ("invoke.yml", "# nothing"), ("invoke.json", "{}")])
def test_an_empty_file_of_invoke_configures_nothing(project: Project, name: str, content: str) -> None:
    project.commit("something")
    project.tag("1.0.0")
    project.write(name, content)
    assert "1.0.0\n" == project.done("version").out
