"""One image for several platforms: one index, of variants that are built, skipped and stamped each by itself."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildtools.image.engine.client import Engine
from buildtools.image.registry.manifest import ACCEPTED, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from buildtools.platform import local_platform
from tests.e2e.conftest import MakeProject
from tests.e2e.killed_pushes import kills_until_done
from tests.e2e.project import Place, Project
from tests.faults.proxy import wire_to

pytestmark = pytest.mark.exhaustive

ROOT = Path(__file__).parents[2]
BOTH = ["linux/amd64", "aarch64"]
KINDS = ", ".join(ACCEPTED)


def get(project: Project, short: str, target: str) -> dict[str, Any]:
    """A manifest or an index, as the registry has it."""
    status, body, _ = project.place.request("GET", f"{project.repository(short)}/manifests/{target}", Accept=KINDS)
    assert 200 == status, body
    document: dict[str, Any] = json.loads(body)
    return document


def blob(project: Project, short: str, digest: str) -> bytes:
    status, body, _ = project.place.request("GET", f"{project.repository(short)}/blobs/{digest}")
    assert 200 == status, body
    return body


def variants(project: Project, short: str, tag: str) -> dict[str, dict[str, Any]]:
    """The manifests that a version's index lists, by architecture."""
    index = get(project, short, tag)
    assert OCI_INDEX == index["mediaType"]
    return {
        entry["platform"]["architecture"]: {"digest": entry["digest"], **get(project, short, entry["digest"])}
        for entry in index["manifests"]
    }


def files(project: Project, short: str, manifest: dict[str, Any]) -> dict[str, str]:
    """The files in the layers of an image."""
    found: dict[str, str] = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(blob(project, short, layer["digest"]))) as archive:
            found |= {member.name: archive.extractfile(member).read().decode() for member in archive if member.isreg()}  # type: ignore[union-attr]
    return found


def fingerprint_tags(project: Project, short: str) -> set[str]:
    _, body, _ = project.place.request("GET", f"{project.repository(short)}/tags/list")
    return {tag for tag in json.loads(body)["tags"] if tag.startswith("fp-") and tag != "fp-records"}


@pytest.fixture
def several(project: Project) -> Project:
    return for_several_platforms(project)


def for_several_platforms(project: Project) -> Project:
    """A project whose image ``app`` is built on ``base``, both for two platforms, and needs nothing that runs."""
    stages = "".join(f"FROM scratch AS {name}\nCOPY {name} /base\n" for name in ("amd64", "arm64", "riscv64"))
    project.image("base", f"{stages}FROM $TARGETARCH\n", amd64="on intel", arm64="on arm", riscv64="on risc")
    project.image("app", "FROM base-{mark}\nCOPY app /\n", app=project.mark)
    project.configure(platforms=BOTH)
    project.commit("all")
    project.tag("1.0.0")
    return project


def test_a_release_has_one_index_with_an_image_for_each_platform(several: Project) -> None:
    outcome = several.done("publish", "--json")
    assert "1.0.0 released 2 images and 0 archives" in outcome.last
    assert "release 1.0.0 is intact: 2 images" in several.done("verify").last
    for short, expected in (("base", {"base"}), ("app", {"base", "app"})):
        members = variants(several, short, "1.0.0")
        assert {"amd64", "arm64"} == set(members)
        for architecture, manifest in members.items():
            names = {
                manifest["mediaType"],
                manifest["config"]["mediaType"],
                *(x["mediaType"] for x in manifest["layers"]),
            }
            assert {OCI_MANIFEST, OCI_CONFIG, OCI_LAYER} == names
            config = json.loads(blob(several, short, manifest["config"]["digest"]))
            assert architecture == config["architecture"]
            assert "1.0.0" == config["config"]["Labels"]["org.opencontainers.image.version"]
            content = files(several, short, manifest)
            assert expected == set(content)
            assert {"amd64": "on intel", "arm64": "on arm"}[architecture] == content["base"]


def test_only_the_variant_that_changed_is_built_and_sent(several: Project) -> None:
    several.done("push")
    before = {short: variants(several, short, "1.0.0") for short in ("base", "app")}
    several.write(f"src/docker/{several.name('base')}/arm64", "on another arm")
    several.commit("arm")
    several.tag("1.1.0")
    plan = several.done("push", "--dry-run").out
    assert f"{several.name('base')}@linux/amd64 would be stamped, unchanged" in plan
    assert f"{several.name('app')}@linux/arm64 would be built and pushed" in plan
    several.done("push")
    for short in ("base", "app"):
        after = variants(several, short, "1.1.0")
        assert before[short]["amd64"]["layers"] == after["amd64"]["layers"]
        assert before[short]["arm64"]["layers"] != after["arm64"]["layers"]
        assert "on another arm" == files(several, short, after["arm64"])["base"]
        assert before[short] == variants(several, short, "1.0.0")


def test_publishing_again_and_from_a_fresh_agent_changes_nothing(several: Project, tmp_path: Path) -> None:
    several.done("publish")
    world = several.world()
    several.done("publish")
    assert world["tags"] == several.world()["tags"]
    several.forget_images()
    agent = several.clone(tmp_path / "agent")
    assert "2 already there" in agent.done("push").last
    assert world["tags"] == several.world()["tags"]
    assert {} == agent.images()


@pytest.mark.images_in_engine
def test_an_engine_pulls_its_own_platform_and_builds_have_one_name_for_that(several: Project) -> None:
    built = several.done("build", "--json").document["items"]
    ids = {item["name"]: item["image_id"] for item in built}
    app = several.name("app")
    assert {f"{several.name(short)}@linux/{each}" for short in ("app", "base") for each in ("amd64", "arm64")} == set(
        ids
    )
    assert ids[f"{app}@linux/amd64"] == several.images()[f"{app}:1.0.0"]
    assert "listed 2 images in 4 variants: 4 up to date" == several.done("list").last
    assert "2 images in 4 variants to build, 0 in the registry" == several.done("plan").last
    several.done("push")
    several.forget_images()
    reference = several.reference("app", "1.0.0")
    with closing(Engine.connect(several.place.engine.environment)) as engine:
        user, _, password = several.place.login.partition(":")
        engine.api.pull(reference, auth_config={"username": user, "password": password})
        pulled = engine.inspect(reference)
    assert pulled is not None
    assert ("amd64", "1.0.0") == (
        pulled["Architecture"],
        pulled["Config"]["Labels"]["org.opencontainers.image.version"],
    )


@pytest.mark.other_engine
def test_each_platform_is_what_the_official_client_builds_for_it(
    project_in: MakeProject, content_place: Place, tmp_path: Path
) -> None:
    project = project_in(content_place)
    project.image(
        "app",
        "FROM --platform=$BUILDPLATFORM {base} AS compiler\nARG BUILDARCH\nARG TARGETARCH\nCOPY source /\n"
        'RUN echo "$(cat source) on $BUILDARCH for $TARGETARCH" >/made\n'
        "FROM scratch\nARG TARGETPLATFORM\nCOPY --from=compiler /made /\nENV PLATFORM=$TARGETPLATFORM\n"
        "COPY source /\n",
        source=project.mark,
    )
    project.configure(platforms=BOTH)
    project.commit("all")
    project.tag("1.0.0")
    project.done("push")
    ours = variants(project, "app", "1.0.0")

    packages = ["docker.io", "containerd", "docker-cli", "docker-buildx"]
    unpacked = [str(ROOT / "script/unpacked"), "trixie", *packages]
    root = subprocess.run(unpacked, check=True, capture_output=True, text=True).stdout.strip()
    environment = project.environment(BUILDX_CONFIG=str(tmp_path / "buildx"))

    def buildx(*arguments: str) -> None:
        command = [f"{root}/usr/libexec/docker/cli-plugins/docker-buildx", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr

    if "BUILDKIT_HOST" in environment:
        buildx("create", "--use", "--driver", "remote", environment["BUILDKIT_HOST"])
    buildx(
        *("build", "--push", "--provenance=false", "--platform", "linux/amd64,linux/arm64"),
        *("--tag", project.reference("app", "official"), str(project.path / "src/docker" / project.name("app"))),
    )
    index = get(project, "app", "official")
    theirs = {entry["platform"]["architecture"]: get(project, "app", entry["digest"]) for entry in index["manifests"]}

    assert {"amd64", "arm64"} == set(ours) == set(theirs)
    host = local_platform().architecture
    for architecture in ours:
        our_config, their_config = (
            json.loads(blob(project, "app", each[architecture]["config"]["digest"])) for each in (ours, theirs)
        )
        assert their_config["rootfs"] == our_config["rootfs"]
        assert their_config["config"]["Env"] == our_config["config"]["Env"]
        assert (architecture, "linux") == (our_config["architecture"], our_config["os"])
        assert f"{project.mark} on {host} for {architecture}\n" == files(project, "app", ours[architecture])["made"]


@pytest.mark.parametrize("others", [["linux/amd64"], ["linux/arm64"], [*BOTH, "linux/riscv64"]])
def test_a_version_never_gets_other_platforms(several: Project, others: list[str]) -> None:
    several.done("push")
    tags = several.world()["tags"]
    refused = several.invoke("push", INVOKE_BUILDTOOLS_PLATFORMS=",".join(others))
    assert (3, tags) == (refused.code, several.world()["tags"])
    assert f"{several.reference('app', '1.0.0')} exists with other content, sha256:" in refused.err


def test_a_parent_is_pushed_for_all_of_its_platforms_whoever_needs_it(several: Project) -> None:
    app = several.name("app")
    several.configure(platforms=BOTH, image={app: {"platform": "linux/arm64"}})
    several.commit("one platform")
    several.tag("1.0.1")
    assert "pushed 2 images" in several.done("push", "--only", app).last
    assert {"amd64", "arm64"} == set(variants(several, "base", "1.0.1"))
    assert "config" in get(several, "app", "1.0.1")
    assert "2 already there" in several.done("push").last


def test_a_base_image_without_the_platform_is_an_error_before_anything_is_built(several: Project) -> None:
    several.done("push", "--only", several.name("base"))
    base = several.reference("base", "1.0.0")
    several.image("app", f"FROM scratch\nFROM {base}\n")
    several.configure(platforms=["amd64", "riscv64"])
    several.commit("another platform")
    several.tag("1.0.1")
    refused = several.invoke("push")
    where = f"src/docker/{several.name('app')}/Dockerfile line 2"
    fact = f"{where}: {base} is not to be had for linux/riscv64, but for linux/amd64, linux/arm64"
    assert (2, f"error: {fact}: name another base image, or another platform") == (refused.code, refused.last)
    assert fact in several.done("list").out
    assert "build started" not in refused.err


def test_a_variant_that_is_gone_is_missed(several: Project) -> None:
    several.done("publish")
    gone = variants(several, "app", "1.0.0")["arm64"]["digest"]
    assert 202 == several.place.request("DELETE", f"{several.repository('app')}/manifests/{gone}")[0]
    drifted = several.invoke("verify")
    assert 5 == drifted.code
    assert f"(image {several.name('app')} missing: parts for linux/arm64)" in drifted.last


def test_a_release_is_promoted_and_pruned_with_all_of_its_variants(several: Project) -> None:
    several.done("publish")
    digests = [manifest["digest"] for manifest in variants(several, "app", "1.0.0").values()]
    elsewhere = {
        "namespace": f"e2e/{several.mark}/stage",
        "artifacts": f"s3://{several.place.bucket}/{several.mark}/stage",
    }
    before = fingerprint_tags(several, "app"), fingerprint_tags(several, "base")
    several.configure(platforms=BOTH, target={"stage": elsewhere})
    several.write(f"src/docker/{several.name('app')}/app", "other")
    several.commit("a target")
    several.tag("1.0.1")
    several.done("publish")
    after = fingerprint_tags(several, "app") - before[0], before[1]
    several.done("promote", "1.0.1", "--to", "stage")
    several.git("tag", "-d", "1.0.0")
    assert "pruned 1 version" in several.done("prune", "--keep", "1", "--older-than", "0", "--yes").last
    paths = [f"{several.repository('app')}/manifests/{target}" for target in ("1.0.0", *digests)]
    assert [404] * 3 == [several.place.request("GET", path, Accept=KINDS)[0] for path in paths]
    assert after == (fingerprint_tags(several, "app"), fingerprint_tags(several, "base"))
    for variables in ({}, {f"INVOKE_BUILDTOOLS_{key.upper()}": value for key, value in elsewhere.items()}):
        assert "release 1.0.1 is intact: 2 images" in several.done("verify", **variables).last


def test_what_cannot_be_is_told_before_anything_is_built(several: Project) -> None:
    app, base = several.name("app"), several.name("base")
    several.configure(platforms=BOTH, image={base: {"platforms": ["linux/arm64", "linux/riscv64"]}})
    refused = several.invoke("build")
    assert 2 == refused.code
    assert (
        f"src/docker/{app}/Dockerfile line 1: {base} is needed for linux/amd64 and built for linux/arm64" in refused.err
    )
    several.configure(
        platforms=["linux/amd64", "x86_64"], platform="arm64", image={app: {"platforms": ["linux/amr64"]}}
    )
    refused = several.invoke("build")
    assert 2 == refused.code
    assert "platforms cannot be used together with platform" in refused.err
    assert f"image.{app}.platforms must be a list of platforms, such as linux/arm64, not 'linux/amr64'" in refused.err


def test_killed_at_any_manifest_that_it_writes_it_is_finished_by_the_next_run(
    place: Place, registry: str, project_in: MakeProject
) -> None:
    with wire_to(registry) as wire:
        project = for_several_platforms(project_in(replace(place, registry=wire.address, login="")))

        def writes_manifest(data: bytes) -> bool:
            return data.startswith(b"PUT ") and b"/manifests/" in data.partition(b"\r\n")[0]

        def look() -> None:
            for short in ("base", "app"):
                if project.place.digest(project.repository(short), "1.0.0"):
                    assert {"amd64", "arm64"} == set(variants(project, short, "1.0.0"))

        kills = kills_until_done(project, wire, writes_manifest, look)
        assert kills > 5
        assert "2 already there" in project.done("push").last
