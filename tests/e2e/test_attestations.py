"""What BuildKit attests about a build goes with the image: into each version, its audit, and other registries."""

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
from buildtools.image.registry.manifest import OCI_INDEX, OCI_MANIFEST
from tests.conftest import EngineService
from tests.cosign import Cosign
from tests.e2e.conftest import MakeProject
from tests.e2e.killed_pushes import kills_until_done
from tests.e2e.project import MANIFEST_KINDS, Place, Project, fresh_agent
from tests.faults.proxy import wire_to

pytestmark = pytest.mark.other_engine

# https://github.com/moby/buildkit/blob/master/docs/attestations/sbom-protocol.md
# As with a real scanner, a document's time and part of its name are random.
SCANNER = r"""#!/bin/sh
scan() {
    cd "$1"
    files=$(find . -type f | sort | while read -r file; do
        sum=$(sha1sum "$file" | cut -d " " -f 1)
        echo "${comma-}{\"fileName\": \"${file#./}\", \"SPDXID\": \"SPDXRef-$sum\",
            \"checksums\": [{\"algorithm\": \"SHA1\", \"checksumValue\": \"$sum\"}],
            \"licenseConcluded\": \"NOASSERTION\", \"copyrightText\": \"NOASSERTION\"}"
        comma=,
    done)
    cat >"$BUILDKIT_SCAN_DESTINATION/$(basename "$1").spdx.json" <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document", "predicate": {
   "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "$(basename "$1")", "dataLicense": "CC0-1.0",
   "documentNamespace": "https://example.com/scan-$(cat /proc/sys/kernel/random/uuid)", "files": [$files],
   "creationInfo": {"created": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "creators": ["Tool: test"]}}}
END
}
scan "$BUILDKIT_SCAN_SOURCE"
for extra in "${BUILDKIT_SCAN_SOURCE_EXTRAS:-/nothing}"/*; do
    [ ! -d "$extra" ] || scan "$extra"
done
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def attested(project_in: MakeProject, content_place: Place) -> Project:
    """A project whose image ``app`` has provenance, and whose ``child`` is built on it."""
    project = project_in(content_place)
    project.image("app", "FROM scratch\nCOPY file /\n", file=project.mark)
    project.image("child", "FROM app-{mark}\nCOPY file /child\n", file="child")
    project.configure(image={project.name("app"): {"provenance": "max"}}, args={"OF_NO_IMAGE": "told to nobody"})
    project.commit("all")
    project.tag("1.0.0")
    return project


def get(project: Project, repository: str, target: str) -> dict[str, Any]:
    status, body, _ = project.place.request("GET", f"{repository}/manifests/{target}", Accept=MANIFEST_KINDS)
    assert 200 == status, body
    document: dict[str, Any] = json.loads(body)
    return document


def statements(project: Project, repository: str, tag: str, platform: str = "amd64") -> list[dict[str, Any]]:
    """What is attested about an image, once it is clear that it is as BuildKit lays it down."""
    index = get(project, repository, tag)
    assert OCI_INDEX == index["mediaType"]
    (image,) = [one for one in index["manifests"] if one["platform"]["architecture"] == platform]
    (attestation,) = [
        one
        for one in index["manifests"]
        if one.get("annotations", {}).get("vnd.docker.reference.digest") == image["digest"]
    ]
    assert {"architecture": "unknown", "os": "unknown"} == attestation["platform"]
    assert "attestation-manifest" == attestation["annotations"]["vnd.docker.reference.type"]
    manifest = get(project, repository, attestation["digest"])
    assert OCI_MANIFEST == manifest["mediaType"]
    documents = []
    for layer in manifest["layers"]:
        status, body, _ = project.place.request("GET", f"{repository}/blobs/{layer['digest']}")
        assert (200, layer["size"]) == (status, len(body))
        documents.append(json.loads(body))
        assert layer["annotations"]["in-toto.io/predicate-type"] == documents[-1]["predicateType"]
        assert [{"sha256": image["digest"].removeprefix("sha256:")}] == [
            one["digest"] for one in documents[-1]["subject"]
        ]
    return documents


def steps_and_begin(statement: dict[str, Any]) -> tuple[Any, str]:
    """What provenance says of a build's steps, and of its begin; newer BuildKits write SLSA v1 by themselves."""
    predicate = statement["predicate"]
    if "https://slsa.dev/provenance/v0.2" == statement["predicateType"]:
        return predicate["buildConfig"], predicate["metadata"]["buildStartedOn"]
    assert "https://slsa.dev/provenance/v1" == statement["predicateType"]
    return predicate["buildDefinition"]["internalParameters"]["buildConfig"], predicate["runDetails"]["metadata"][
        "startedOn"
    ]


def test_a_version_has_provenance_that_speaks_of_its_own_image(attested: Project) -> None:
    repository = attested.repository("app")
    attested.done("publish")
    (first,) = statements(attested, repository, "1.0.0")
    assert [] == [text for text in ("told to nobody", "build-arg") if text in json.dumps(first)]
    registry = attested.place.registry.replace(":", "%3A")
    assert f"pkg:docker/{registry}/{repository}@1.0.0?platform=linux%2Famd64" == first["subject"][0]["name"]
    digest = attested.place.digest(repository, "1.0.0")
    released = json.loads(attested.place.read(f"{attested.mark}/releases/1.0.0.json"))
    assert digest in [image["digest"] for image in released["images"]]

    attested.commit("nothing that an image holds")
    attested.tag("1.1.0")
    assert "2 stamped" in attested.done("push").last
    (second,) = statements(attested, repository, "1.1.0")
    # What is later than a version's commit is said to be of its time.
    (steps, begin), (same_steps, later) = map(steps_and_begin, (first, second))
    assert ("2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z") == (begin, later)
    assert steps["llbDefinition"]
    assert steps == same_steps
    assert first["subject"] != second["subject"]
    attested.forget_images()
    assert "2 already there" in attested.done("push").last
    assert digest == attested.place.digest(repository, "1.0.0")


def test_a_version_that_is_built_anew_in_an_empty_registry_has_the_same_digest(attested: Project) -> None:
    repository = attested.repository("app")
    versions = []
    for _ in range(2):
        attested.done("push", "--no-cache", "--only", attested.name("app"))
        versions.append((statements(attested, repository, "1.0.0"), attested.place.digest(repository, "1.0.0")))
        for digest in set(attested.place.tags(repository).values()):
            assert 202 == attested.place.request("DELETE", f"{repository}/manifests/{digest}")[0]
    assert versions[0] == versions[1]


def test_an_attestation_is_a_member_of_the_release(attested: Project) -> None:
    stage = {"namespace": f"e2e/{attested.mark}/s", "artifacts": f"s3://{attested.place.bucket}/{attested.mark}/s"}
    attested.configure(image={attested.name("app"): {"provenance": True}}, target={"stage": stage})
    attested.commit("a target")
    attested.tag("1.0.1")
    attested.done("publish")
    attested.done("promote", "1.0.1", "--to", "stage")
    repository, replica = attested.repository("app"), f"e2e/{attested.mark}/s/{attested.name('app')}"
    assert attested.place.digest(repository, "1.0.1") == attested.place.digest(replica, "1.0.1")
    assert statements(attested, repository, "1.0.1") == statements(attested, replica, "1.0.1")
    assert "release 1.0.1 is intact" in attested.done("verify").last
    attestation = get(attested, repository, "1.0.1")["manifests"][1]["digest"]
    assert 202 == attested.place.request("DELETE", f"{repository}/manifests/{attestation}")[0]
    drifted = attested.invoke("verify")
    assert (5, True) == (drifted.code, f"{repository}:1.0.1" in drifted.err + drifted.out)


@pytest.mark.exhaustive
def test_a_version_that_is_pruned_goes_with_its_attestations(attested: Project) -> None:
    repository = attested.repository("app")
    attested.done("publish")
    old = attested.place.tags(repository)
    manifests = {
        one["digest"] for digest in old.values() for one in get(attested, repository, digest).get("manifests", ())
    }
    attested.write(f"src/docker/{attested.name('app')}/file", "other")
    attested.commit("other")
    attested.tag("1.0.1")
    attested.done("publish")
    attested.git("tag", "-d", "1.0.0")
    attested.done("prune", "--keep", "1", "--older-than", "0", "--yes")
    paths = [f"{repository}/manifests/{digest}" for digest in manifests]
    statuses = [attested.place.request("GET", path, Accept=MANIFEST_KINDS)[0] for path in paths]
    # The version and the fingerprint each have an image and its attestation.
    assert [404] * 4 == statuses
    assert "release 1.0.1 is intact" in attested.done("verify").last


@pytest.fixture
def scanned(attested: Project) -> Project:
    """The same project, but a scanner looks at ``app``, which is for two platforms, and at a stage of it."""
    attested.image("scanner", 'FROM {base}\nCOPY --chmod=755 scan /\nENTRYPOINT ["/scan"]\n', scan=SCANNER)
    attested.done("push", "--only", attested.name("scanner"))
    scanner = attested.reference("scanner", attested.done("version").out.strip())
    stage = {"namespace": f"e2e/{attested.mark}/s", "artifacts": f"s3://{attested.place.bucket}/{attested.mark}/s"}
    settings = {"sbom": scanner, "platforms": ["linux/amd64", "linux/arm64"]}
    attested.configure(image={attested.name("app"): settings}, target={"stage": stage})
    stages = "FROM scratch AS first\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY file /first\n"
    attested.image("app", f"{stages}FROM scratch\nCOPY --from=first /first /\n", file=attested.mark)
    attested.image("child", "FROM scratch\nCOPY file /child\n", file="child")
    attested.commit("a scanner")
    attested.tag("1.0.1")
    return attested


@pytest.mark.images_in_engine
@pytest.mark.exhaustive
def test_a_scanner_lists_what_an_image_holds(scanned: Project) -> None:
    scanned.done("publish")
    scanned.done("promote", "1.0.1", "--to", "stage")
    scanned.done("verify")
    repository, replica = scanned.repository("app"), f"e2e/{scanned.mark}/s/{scanned.name('app')}"
    for platform in ("amd64", "arm64"):
        documents = statements(scanned, repository, "1.0.1", platform)
        assert documents == statements(scanned, replica, "1.0.1", platform)
        assert {"https://spdx.dev/Document"} == {one["predicateType"] for one in documents}
        image, stage = (one["predicate"] for one in documents)
        assert ("sbom", "sbom-first") == (image["name"], stage["name"])
        (layer,) = get(scanned, repository, f"sha256:{documents[0]['subject'][0]['digest']['sha256']}")["layers"]
        # BuildKit adds the layer that a file of the image is in.
        assert [("first", f"layerID: {layer['digest']}")] == [
            (file["fileName"], file["comment"]) for file in image["files"]
        ]


@pytest.mark.images_in_engine
@pytest.mark.exhaustive
def test_an_engine_that_has_pulled_an_image_cannot_push_it_elsewhere_and_says_what_to_do(
    attested: Project, fresh_engine: EngineService, tmp_path: Path
) -> None:
    attested.done("push")
    agent = fresh_agent(attested, fresh_engine, tmp_path / "agent")
    agent.done("build")
    other = {"INVOKE_BUILDTOOLS_NAMESPACE": f"e2e/{attested.mark}/other"}
    refused = agent.invoke("push", **other)
    assert (1, True) == (refused.code, refused.last.endswith("or build it here with --no-cache")), refused.err
    agent.done("push", "--no-cache", **other)
    agent.forget_images()


@pytest.mark.images_in_engine
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo nothing there; exit 3", "the scanner {} failed (exit code 3)"),
        ("echo junk >$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json", "cannot decode in-toto statement"),
        ("exit 0", "was built without the sbom that it should have"),
    ],
)
def test_a_scanner_that_fails_or_lists_nothing_is_named(attested: Project, command: str, reason: str) -> None:
    attested.image(
        "scanner", 'FROM {base}\nCOPY --chmod=755 scan /\nENTRYPOINT ["/scan"]\n', scan=f"#!/bin/sh\n{command}\n"
    )
    attested.done("push", "--only", attested.name("scanner"))
    scanner = attested.reference("scanner", attested.done("version").out.strip())
    attested.configure(image={attested.name("app"): {"sbom": scanner, "provenance": True}})
    for _ in range(2):
        failed = attested.invoke("push", "--only", attested.name("app"))
        assert (1, True) == (failed.code, reason.format(scanner) in failed.last), failed.err
        assert "scanner" in failed.last.rpartition(": ")[2]


@pytest.mark.images_in_engine
@pytest.mark.exhaustive
def test_other_programs_find_what_a_scanner_lists(scanned: Project) -> None:
    scanned.done("push", "--only", scanned.name("app"))
    packages = ["docker.io", "containerd", "docker-cli", "docker-buildx"]
    unpacked = [str(ROOT / "script/unpacked"), "trixie", *packages]
    root = subprocess.run(unpacked, check=True, capture_output=True, text=True).stdout.strip()
    inspect = [f"{root}/usr/libexec/docker/cli-plugins/docker-buildx", "imagetools", "inspect"]
    reference = scanned.reference("app", "1.0.1")
    shown = subprocess.run(
        [*inspect, "--format", "{{json .SBOM}}", reference],
        env=scanned.environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {platform: sbom["SPDX"]["files"][0]["fileName"] for platform, sbom in json.loads(shown).items()}
    assert {"linux/amd64": "first", "linux/arm64": "first"} == names


@pytest.mark.images_in_engine
@pytest.mark.exhaustive
def test_what_is_scanned_anew_in_an_empty_registry_has_the_same_digest(scanned: Project) -> None:
    repository = scanned.repository("app")
    digests = set()
    for _ in range(2):
        scanned.done("push", "--no-cache", "--only", scanned.name("app"))
        digests.add(scanned.place.digest(repository, "1.0.1"))
        for digest in set(scanned.place.tags(repository).values()):
            assert 202 == scanned.place.request("DELETE", f"{repository}/manifests/{digest}")[0]
    assert 1 == len(digests)


@pytest.mark.exhaustive
def test_what_is_fetched_has_them_and_is_loaded_by_any_engine(
    attested: Project, engine: EngineService, tmp_path: Path
) -> None:
    attested.done("publish")
    attested.done("fetch", "1.0.0", "--to", str(tmp_path), "--oci")
    layout = tmp_path / "1.0.0" / "oci"
    reference = attested.reference("app", "1.0.0")
    (loadable,) = [one for one in json.loads((layout / "manifest.json").read_bytes()) if one["RepoTags"] == [reference]]
    assert 1 == len(loadable["Layers"])
    names = [path.name for path in (layout / "blobs/sha256").iterdir()]
    index = get(attested, attested.repository("app"), "1.0.0")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(layout, "")
    with closing(Engine.connect(engine.environment)) as classic:
        assert {f"Loaded image: {reference}\n"} < {
            line.get("stream") for line in classic.api.load_image(packed.getvalue())
        }
        labels = (classic.inspect(reference) or {})["Config"]["Labels"]
        for short in ("app", "child"):
            classic.untag(attested.reference(short, "1.0.0"))
    assert "1.0.0" == labels["org.opencontainers.image.version"]
    assert [] == [one["digest"] for one in index["manifests"] if one["digest"].removeprefix("sha256:") not in names]


@pytest.mark.exhaustive
def test_a_daemon_without_a_store_attests_the_same(attested: Project, buildkit_host: str) -> None:
    attested.done("push", INVOKE_BUILDTOOLS_BUILDER=buildkit_host)
    (statement,) = statements(attested, attested.repository("app"), "1.0.0")
    assert steps_and_begin(statement)
    assert "2 already there" in attested.done("push").last


@pytest.mark.exhaustive
def test_killed_at_any_manifest_that_it_writes_it_is_finished_by_the_next_run(
    project_in: MakeProject, content_place: Place, registry: str
) -> None:
    with wire_to(registry) as wire:
        project = project_in(replace(content_place, registry=wire.address, login=""))
        project.image("app", "FROM scratch\nCOPY file /\n", file=project.mark)
        project.configure(provenance=True)
        project.commit("all")
        project.tag("1.0.0")

        def look() -> None:
            if project.place.digest(project.repository("app"), "1.0.0"):
                assert statements(project, project.repository("app"), "1.0.0")

        kills = kills_until_done(project, wire, lambda data: data.startswith(b"PUT "), look)
        assert kills > 4
        assert "1 already there" in project.done("push").last


@pytest.mark.images_in_engine
def test_an_engine_without_a_place_for_attestations_is_refused_before_anything_is_built(project: Project) -> None:
    for short in ("app", "other"):
        project.image(short, "FROM scratch\nCOPY file /\n", file=project.mark)
    project.configure(provenance="max", sbom=True, cache_to=["type=registry,mode=max"])
    project.commit("all")
    project.tag("1.0.0")
    refused = project.invoke("push")
    assert (2, {}) == (refused.code, project.images())
    for what in ("provenance", "sbom", "cache_to type=registry"):
        assert f"{what} (of {project.name('app')}, {project.name('other')}) needs an engine with" in refused.err
    assert "containerd-snapshotter" in refused.err


@pytest.mark.exhaustive
def test_an_image_is_signed_with_what_is_attested_about_it(attested: Project, cosign: Cosign) -> None:
    private, public = cosign.key_pair("our")
    own = {"image": {attested.name("app"): {"provenance": "max"}}, "verify_key": str(public)}
    attested.configure(**own, sign={"key": str(private)})
    attested.commit("signed")
    attested.tag("1.1.0")
    attested.done("publish", COSIGN_PASSWORD="of a test")
    assert "release 1.1.0 is intact and signed: 2 images and 0 archives" == attested.done("verify").last
    login = attested.place.variables["DOCKER_CONFIG"]
    for short in ("app", "child"):
        assert "" == cosign.verify(public, attested.reference(short, "1.1.0"), DOCKER_CONFIG=login)
    assert OCI_INDEX == get(attested, attested.repository("app"), "1.1.0")["mediaType"]
